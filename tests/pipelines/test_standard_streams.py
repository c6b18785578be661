"""Commands whose standard streams are closed, broken or full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from nnsparse_stream.pipelines.standard_streams import open_standard_streams
open_standard_streams()
opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(2, b"what a library says")
for line in range(3):
    print("out", "x" * 5000, flush=line == 1)
    print("err", "x" * 5000, file=sys.stderr)
os.write(opened, b"done")
"""
ENDED = f"{sys.executable} -c '{PROGRAM}' file"


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    "streams",
    ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "| head -c 1", "2>&1 >&- | head -c 1", "2>&1 | head -c 1"],
)
def test_work_is_done_without_a_word_where_nobody_reads(streams: str, tmp_path: Path) -> None:
    done = shell(f"{ENDED} {streams}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert (tmp_path / "file").read_text() == "done"


@pytest.mark.parametrize(("argv", "code"), [("", 2), ("--version", 0), ("nonsense", 2), ("prepare --help", 0)])
def test_exit_codes_are_the_same_with_and_without_streams(argv: str, code: int, tmp_path: Path) -> None:
    program = f"{sys.executable} -m nnsparse_stream.pipelines {argv}"
    for streams in ("", ">&- 2>&-", "2>&1 | true"):
        assert shell(f"{program} {streams}", tmp_path).returncode == code


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = shell(f"{sys.executable} -m nnsparse_stream.pipelines --help >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "nnsparse-stream: <stdout> cannot be written: No space left on device\n"
