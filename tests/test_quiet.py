"""The library says nothing by itself: commands print and show bars."""

from __future__ import annotations

import re

from samples import ROOT

_SHOWN = re.compile(r"\bprint\(|\btqdm\b|\bsys\.(stdout|stderr)\b")


def test_library_and_transforms_neither_print_nor_show_bars() -> None:
    library = [path for path in (ROOT / "nnsparse_stream").rglob("*.py") if "pipelines" not in path.parts]
    modules = [*library, *(ROOT / "transforms").glob("*.py")]
    assert len(modules) > 60
    assert [str(path) for path in modules if _SHOWN.search(path.read_text())] == []
