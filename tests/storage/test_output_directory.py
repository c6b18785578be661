"""The transaction of an output directory."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.output_directory import OutputDirectory, nested


@pytest.fixture(params=["file", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh directory on the local file system and on the one in memory."""
    return str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def listing(url: str) -> list[str]:
    fs, path = storage.filesystem(url)
    return sorted(name[len(path) :].strip("/") for name in fs.find(path)) if fs.exists(path) else []


def output(base: str, **flags: Any) -> OutputDirectory:
    return OutputDirectory(storage.join(base, "out"), contents=("rows/shard-*", "part-*.bin"), **flags)


COMPLETE = storage.to_json({"kind": "nnsparse-stream test"})


def finish(base: str, **flags: bool) -> None:
    directory = output(base, **flags)
    directory.begin()
    directory.write("rows/shard-1", b"1")
    directory.write("part-1.bin", b"1")
    directory.complete(COMPLETE)


def test_a_finished_output_holds_its_files_and_no_marker(base: str) -> None:
    assert output(base).state() == "empty"
    finish(base)
    assert listing(storage.join(base, "out")) == ["manifest.json", "part-1.bin", "rows/shard-1"]
    assert output(base).state() == "complete"


def test_a_finished_output_is_replaced_only_on_request(base: str) -> None:
    finish(base)
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):
        output(base).begin()
    assert listing(storage.join(base, "out")) == ["manifest.json", "part-1.bin", "rows/shard-1"]
    directory = output(base, overwrite=True)
    directory.begin()
    assert listing(storage.join(base, "out")) == ["_unfinished.json"]


def test_a_leftover_is_cleaned_or_resumed(base: str) -> None:
    for resume, left in ((False, ["_unfinished.json"]), (True, ["_unfinished.json", "rows/shard-1"])):
        killed = output(base)
        killed.begin()
        killed.write("rows/shard-1", b"1")
        assert killed.state() == "unfinished"
        output(base).begin(resume=resume)
        assert listing(storage.join(base, "out")) == left


def test_abort_leaves_nothing(base: str) -> None:
    directory = output(base)
    directory.begin()
    directory.write("rows/shard-1", b"1")
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
    assert listing(str(tmp_path / "out")) == ["manifest.json", "part-1.bin", "rows/shard-1"]


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


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_not_removed_from_our_directories(base: str, overwrite: bool) -> None:
    finish(base)
    storage.write_file(storage.join(base, "out", "rows", "notes.txt"), b"x")
    with pytest.raises(InputError, match=r"not of an earlier output \(rows/notes.txt\)"):
        output(base, overwrite=overwrite).begin()
    assert storage.read_file(storage.join(base, "out", "rows", "notes.txt")) == b"x"


@pytest.mark.parametrize("name", ["rows/mine/shard-1", "rows/shard-1/notes.txt", "sub/rows/shard-1", "rows/shard-x"])
def test_a_file_at_any_depth_that_is_not_ours_is_never_removed(base: str, name: str) -> None:
    url = storage.join(base, "out")
    directory = OutputDirectory(url, contents=("part-#.bin", "rows/shard-#", *nested("sub", ["*.bin"])), overwrite=True)
    directory.begin()
    for ours in ("part-07.bin", "rows/shard-2", "sub/a.bin", "sub/manifest.json", "sub/_unfinished.json"):
        directory.write(ours, b"1")
    directory.write(name, b"theirs")
    with pytest.raises(InputError, match=f"not of an earlier output .{name}"):
        directory.begin()
    directory.abort()
    assert listing(url) == [name]


def test_links_that_lie_in_an_output_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "part-1.bin").write_bytes(b"x")
    finish(str(tmp_path))
    (tmp_path / "out" / "rows" / "mine").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=r"not of an earlier output \(rows/mine\)"):
        output(str(tmp_path), overwrite=True).begin()
    assert (tmp_path / "mine" / "part-1.bin").exists()


def test_what_a_killed_worker_left_half_written_is_gone_when_the_output_is_whole(tmp_path: Path) -> None:
    directory = output(str(tmp_path))
    directory.begin()
    (tmp_path / "out" / f"part-1.bin.{uuid.uuid4().hex}.tmp").write_bytes(b"1")
    directory.write("part-1.bin", b"1")
    directory.complete(COMPLETE)
    assert listing(str(tmp_path / "out")) == ["manifest.json", "part-1.bin"]


def test_a_finished_output_is_kept_when_it_is_resumed(base: str) -> None:
    finish(base)
    output(base, overwrite=True).begin(resume=True)
    assert listing(storage.join(base, "out")) == ["_unfinished.json", "part-1.bin", "rows/shard-1"]


def test_a_file_or_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    with pytest.raises(InputError, match="is a file where an output directory is meant"):
        output(str(tmp_path)).begin()
    with pytest.raises(InputError, match="cannot be written"):
        OutputDirectory(str(tmp_path / "out" / "below"), contents=()).begin()


def test_what_is_needed_on_the_way_only_is_removed_with_its_folders(base: str) -> None:
    directory = OutputDirectory(storage.join(base, "out"), contents=("_codes/*/*.bin", "part-*.bin"))
    directory.begin()
    directory.write("_codes/one/part-1.bin", b"1")
    directory.write("_codes/one/part-2.bin." + uuid.uuid4().hex + ".tmp", b"1")  # its writer was killed
    directory.write("part-1.bin", b"1")
    directory.remove_matching("_codes/*/*.bin")
    assert listing(directory.url) == ["_unfinished.json", "part-1.bin"]
    fs, path = storage.filesystem(storage.join(directory.url, "_codes"))
    assert not fs.exists(path)
    directory.complete(COMPLETE)
    assert listing(directory.url) == ["manifest.json", "part-1.bin"]


def test_a_later_attempt_of_a_job_keeps_what_the_earlier_ones_wrote(base: str) -> None:
    finish(base)
    ours = {"overwrite": True, "job": "one"}
    assert not output(base, **ours).attempted()
    output(base, **ours).begin()
    assert output(base, job="one").attempted()
    output(base, **ours).write("rows/shard-2", b"2")
    output(base, **ours).begin()
    assert listing(storage.join(base, "out")) == ["_unfinished.json", "rows/shard-2"]
    assert not output(base, job="two").attempted()
    assert not output(base).attempted()
    output(base, job="two").begin()  # of another job it is a leftover
    assert listing(storage.join(base, "out")) == ["_unfinished.json"]
    directory = output(base, job="two")
    directory.complete(storage.to_json({"kind": "nnsparse-stream test", "job": "two"}))
    directory.begin()
    assert directory.state() == "complete"
    with pytest.raises(InputError, match="exists already"):
        output(base, job="one").begin()


def test_an_attempt_that_ended_while_it_cleaned_is_followed_by_one_that_cleans(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(base)

    def killed(url: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nnsparse_stream.storage.output_directory.remove_file", killed)
        with pytest.raises(KeyboardInterrupt):
            output(base, overwrite=True, job="one").begin()
    assert listing(storage.join(base, "out")) == ["_unfinished.json", "manifest.json", "part-1.bin", "rows/shard-1"]
    output(base, overwrite=True, job="one").begin()
    assert listing(storage.join(base, "out")) == ["_unfinished.json"]


def test_what_somebody_else_writes_beside_is_let_be(base: str) -> None:
    others = [f"letters/{name}" for name in ("1.jsonl", f"2.jsonl.{uuid.uuid4().hex}.tmp")]
    for name in others:
        storage.write_file(storage.join(base, "out", name), b"x")
    directory = output(base, beside=("letters/*",))
    assert directory.state() == "empty"
    directory.begin()
    directory.write("part-1.bin", b"1")
    directory.complete(COMPLETE)
    assert listing(storage.join(base, "out")) == [*others, "manifest.json", "part-1.bin"]
    assert output(base, beside=("letters/*",)).state() == "complete"
    directory.abort()
    assert listing(storage.join(base, "out")) == others
