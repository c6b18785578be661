"""prepare among the files and disks that others leave it: links, odd names, empty parts, pipes, no room."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest
from preparing import files_of, prepare

from nnsparse_stream.data.dataset import Dataset

LOG = "user,item,rating\n1,1,1\n1,2,2\n2,1,3\n"
AXIS = ["--axis", "user"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(url: str) -> int:
    return Dataset(url).manifest.records["read"]


def test_linked_and_empty_parts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "store").mkdir()
    (here / "log").mkdir()
    (here / "store" / "a.csv").write_text(LOG)
    (here / "log" / "a.csv").symlink_to("../store/a.csv")
    (here / "log" / "b.csv").write_text("3,1,5\n")
    for name, text in {
        "c.csv": "",
        "d.csv": "\n\n",
        "e.csv": "user,item,rating\n",
        "_SUCCESS": "",
        ".b.crc": "x",
    }.items():
        (here / "log" / name).write_text(text)
    assert prepare("--input", "log", "--output", "out", *AXIS) == 0
    assert read("out") == 4
    printed = capsys.readouterr().out
    assert f"4 from 2 files; 3 files without a record left out, the first is {here}/log/c.csv" in printed
    (here / "log" / "a.csv").unlink()
    (here / "log" / "b.csv").unlink()
    assert prepare("--input", "log", "--output", "out2", *AXIS) == 2
    assert "the input holds no record: all its files are empty" in capsys.readouterr().err


def test_commas_in_names_and_repeated_flags(here: Path) -> None:
    for name in ("a,b.csv", "a", "b.csv", "c::d,e.csv"):
        (here / name).write_text(LOG)
    both = ["--duplicates", "last", *AXIS]
    assert prepare("--input", "a,b.csv", "--output", "one", *both) == 0
    assert prepare("--input", "a,./b.csv", "--output", "two", *both) == 0
    assert prepare("--input", "c::d,e.csv", "--input", "a,b.csv", "--input", "a, b.csv", "--output", "four", *both) == 0
    assert [read(url) for url in ("one", "two", "four")] == [3, 6, 12]


def test_names_that_are_no_utf8(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "caf\udce9.csv"
    (here / name).write_text(LOG + "x,y,z\n")
    assert prepare("--input", name, "--output", "out", "--max_bad_fraction", "0.5", *AXIS) == 0
    (letter,) = (here / "out" / "dead_letters").iterdir()
    assert json.loads(letter.read_text())["file"] == "caf\\udce9.csv"
    assert prepare("--input", name, "--output", "out2", *AXIS) == 2
    assert "caf\\udce9.csv:5: " in capsys.readouterr().err
    (here / name).write_text(LOG + LOG.partition("\n")[2])
    assert prepare("--input", name, "--output", "out3", *AXIS) == 2
    assert "user 1 rated item" in capsys.readouterr().err


def test_a_pipe_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(here / "pipe")
    assert prepare("--input", "pipe", "--output", "out", *AXIS) == 2
    assert "is no regular file (it is a pipe)" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [0, 60, 1000])
def test_a_disk_without_room_leaves_nothing(here: Path, capsys: pytest.CaptureFixture[str], limit: int) -> None:
    (here / "log.csv").write_text(LOG)
    outer = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, outer[1]))
        assert prepare("--input", "log.csv", "--output", "out", *AXIS) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, outer)
        signal.signal(signal.SIGXFSZ, handler)
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert said.count("\n") == 1
    assert files_of(str(here)).keys() == {"log.csv"}
    assert not (here / "out").exists()
