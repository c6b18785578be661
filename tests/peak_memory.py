"""The resident memory of this process, and its peak, from now on."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

_PEAK = Path("/proc/self/clear_refs")


def _forgets() -> bool:
    try:
        _PEAK.write_text("5")
    except OSError:
        return False
    return True


#: Mark of a test that measures a peak.
needs_new_peak = pytest.mark.skipif(
    not _forgets(), reason="the system does not let a process forget its peak of memory"
)


def memory(which: str = "VmRSS") -> int:
    """Bytes now, after which the peak begins anew; or "VmHWM", the peak since then."""
    if which == "VmRSS":
        gc.collect()
        _PEAK.write_text("5")
    return int(Path("/proc/self/status").read_text().split(f"{which}:")[1].split()[0]) * 1024
