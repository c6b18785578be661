"""Damaged checkpoints and manifests: an error that says so, or the right result.

`NNSPARSE_STREAM_FUZZ=1000 python -m pytest tests/checkpoints/test_fuzz_checkpoints.py` tries a thousand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from samples import ROOT, Trained

CASES = os.environ.get("NNSPARSE_STREAM_FUZZ", "48")


def test_a_damaged_run_is_refused_or_gives_the_right_result(trained: Trained, tmp_path: Path) -> None:
    # In a process of its own: a crash would end it without an exception.
    program = str(Path(__file__).with_name("mutate_checkpoints.py"))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", program, trained.log, str(tmp_path), CASES],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-5000:]
