"""Storage: atomic writes, matching of inputs, and the transaction of an output directory."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from nnsparse_stream import storage
from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import OutputDirectory


@pytest.fixture(params=["file", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh directory on the local file system and on the one in memory."""
    return str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def listing(url: str) -> list[str]:
    fs, path = storage.filesystem(url)
    return sorted(name[len(path) :].strip("/") for name in fs.find(path)) if fs.exists(path) else []


def test_written_files_are_read_back_and_leave_no_temporary(base: str) -> None:
    storage.write_file(storage.join(base, "a", "b"), b"one")
    storage.write_file(storage.join(base, "a", "b"), b"two")
    assert storage.read_file(storage.join(base, "a", "b")) == b"two"
    assert listing(base) == ["a/b"]
    assert storage.file_size(storage.join(base, "a", "b")) == 3


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    storage.write_file(str(target), b"old")
    fs, _ = storage.filesystem(str(target))

    def cut_off(path: str, data: bytes) -> None:
        Path(path).write_bytes(data[:1])
        raise OSError("disk full")

    monkeypatch.setattr(fs, "pipe_file", cut_off)
    with pytest.raises(OSError, match="disk full"):
        storage.write_file(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert listing(str(tmp_path)) == ["file"]


def test_reading_what_is_not_there_is_an_input_error(base: str) -> None:
    storage.write_file(storage.join(base, "dir", "x"), b"")
    for act in (storage.read_file, storage.file_size):
        with pytest.raises(InputError, match="no such file"):
            act(storage.join(base, "nope"))
    with pytest.raises(InputError, match="directory where a file is meant"):
        storage.file_size(storage.join(base, "dir"))
    with pytest.raises(InputError, match="Protocol"):
        storage.read_file("nosuch://x/y")


def test_json_that_is_none_is_named(base: str) -> None:
    for text in (b"{", b"[1]"):
        storage.write_file(storage.join(base, "x.json"), text)
        with pytest.raises(InputError, match=r"x\.json is not a thing"):
            storage.read_json(storage.join(base, "x.json"), "a thing")


def test_match_files_takes_files_globs_and_directories(base: str) -> None:
    for name in ("in/b.csv", "in/a.csv", "in/deep/c.csv", "in/_SUCCESS", "in/.hidden", "in/[x].csv"):
        storage.write_file(storage.join(base, name), b"1")

    def names(*urls: str) -> list[str]:
        matched = storage.match_files([storage.join(base, url) for url in urls])
        return [url.split("/in/")[1] for url in matched]

    assert names("in/*.csv") == ["[x].csv", "a.csv", "b.csv"]
    assert names("in") == ["[x].csv", "a.csv", "b.csv", "deep/c.csv"]
    assert names("in/b.csv", "in/a.csv") == ["b.csv", "a.csv"]
    assert names("in/[x].csv") == ["[x].csv"]
    with pytest.raises(InputError, match="no such file"):
        names("in/nope.csv")
    with pytest.raises(InputError, match="matches no files"):
        names("in/*.tsv")
    with pytest.raises(InputError, match="named more than once"):
        names("in/a.csv", "in/*.csv")


def output(base: str, **flags: bool) -> OutputDirectory:
    return OutputDirectory(storage.join(base, "out"), contents=("rows", "part-*.bin"), **flags)


COMPLETE = storage.to_json({"kind": "nnsparse-stream test"})


def finish(base: str, **flags: bool) -> None:
    directory = output(base, **flags)
    directory.begin()
    directory.write("rows/1", b"1")
    directory.write("part-1.bin", b"1")
    directory.complete(COMPLETE)


def test_a_finished_output_holds_its_files_and_no_marker(base: str) -> None:
    assert output(base).state() == "empty"
    finish(base)
    assert listing(storage.join(base, "out")) == ["manifest.json", "part-1.bin", "rows/1"]
    assert output(base).state() == "complete"


def test_a_finished_output_is_replaced_only_on_request(base: str) -> None:
    finish(base)
    with pytest.raises(InputError, match="exists already; pass --overwrite"):
        output(base).begin()
    assert listing(storage.join(base, "out")) == ["manifest.json", "part-1.bin", "rows/1"]
    directory = output(base, overwrite=True)
    directory.begin()
    assert listing(storage.join(base, "out")) == ["_unfinished.json"]


def test_a_leftover_is_cleaned_or_resumed(base: str) -> None:
    for resume, left in ((False, ["_unfinished.json"]), (True, ["_unfinished.json", "rows/1"])):
        killed = output(base)
        killed.begin()
        killed.write("rows/1", b"1")
        assert killed.state() == "unfinished"
        output(base).begin(resume=resume)
        assert listing(storage.join(base, "out")) == left


def test_abort_leaves_nothing(base: str) -> None:
    directory = output(base)
    directory.begin()
    directory.write("rows/1", b"1")
    directory.abort()
    assert listing(base) == []
    assert not storage.exists(storage.join(base, "out"))


def test_abort_keeps_a_directory_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    directory = output(str(tmp_path))
    directory.begin()
    directory.abort()
    assert (tmp_path / "out").is_dir()


def test_temporary_names_of_a_killed_run_are_ours(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"_unfinished.json.{uuid.uuid4().hex}.tmp").write_bytes(b"{")
    assert output(str(tmp_path)).state() == "unfinished"
    finish(str(tmp_path))
    assert listing(str(tmp_path / "out")) == ["manifest.json", "part-1.bin", "rows/1"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_removed(base: str, overwrite: bool) -> None:
    storage.write_file(storage.join(base, "out", "thesis.tex"), b"x")
    with pytest.raises(InputError, match=r"not of an earlier output \(thesis.tex\)"):
        output(base, overwrite=overwrite).begin()
    storage.write_file(storage.join(base, "out", "manifest.json"), COMPLETE)
    with pytest.raises(InputError, match=r"thesis\.tex"):
        output(base, overwrite=overwrite).begin()
    storage.write_file(storage.join(base, "web", "manifest.json"), b'{"kind": "web app"}')
    with pytest.raises(InputError, match="not of nnsparse-stream"):
        OutputDirectory(storage.join(base, "web"), contents=(), overwrite=overwrite).begin()
    assert len(listing(base)) == 3


def test_a_file_or_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    with pytest.raises(InputError, match="is a file where an output directory is meant"):
        output(str(tmp_path)).begin()
    with pytest.raises(InputError, match="cannot be written"):
        OutputDirectory(str(tmp_path / "out" / "below"), contents=()).begin()
