"""Storage: atomic writes, and the matching of inputs."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage import matching


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
    with pytest.raises(InputError, match="file: cannot be written: disk full"):
        storage.write_file(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert listing(str(tmp_path)) == ["file"]


def test_a_directory_that_cannot_be_listed_fails_a_listing_unless_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "x/b", "x/y/c"):
        storage.write_file(str(tmp_path / name), b"1")
    fs, _ = storage.filesystem(str(tmp_path))
    assert listing(str(tmp_path)) == ["a", "x/b", "x/y/c"]
    ls = fs.ls

    def failing(path: str, detail: bool = False, **flags: object) -> object:
        if path.endswith("x/y"):
            raise error(path)
        return ls(path, detail, **flags)

    monkeypatch.setattr(fs, "ls", failing)
    error: type[OSError] = PermissionError
    with pytest.raises(InputError, match=r"cannot be read: .*x/y"):
        storage.list_files(str(tmp_path))
    error = FileNotFoundError
    assert storage.list_files(str(tmp_path)) == {"a": 1, "x/b": 1}


def test_a_check_for_writing_leaves_the_file_as_it_is(base: str, tmp_path: Path) -> None:
    storage.write_file(storage.join(base, "a"), b"one")
    storage.check_writable(storage.join(base, "a"))
    storage.check_writable(storage.join(base, "b"))
    assert listing(base) == ["a"]
    assert storage.read_file(storage.join(base, "a")) == b"one"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="b cannot be written"):
        storage.check_writable(str(tmp_path / "file" / "b"))


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
        matched = matching.match_files([storage.join(base, url) for url in urls])
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
