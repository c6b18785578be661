"""Local names: links are followed, names are taken as they are, what is no file is refused, nothing is read twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage import matching


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """days/1.csv, and links to a file and to a directory elsewhere; the working directory is the tree's."""
    for name in ("days/1.csv", "store/2.csv", "store/deep/3.csv", "store/deep/_x.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1,2,3\n")
    (tmp_path / "days" / "2.csv").symlink_to("../store/2.csv")
    (tmp_path / "days" / "deep").symlink_to(tmp_path / "store" / "deep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*urls: str) -> list[str]:
    return [os.path.relpath(url) for url in matching.match_files(urls)]


def test_links_are_followed(tree: Path) -> None:
    every = ["days/1.csv", "days/2.csv", "days/deep/3.csv"]
    assert names("days") == every
    assert names("days/*") == every
    assert names("days/**") == every
    assert names("days/*.csv") == every[:2]
    assert names("days/*/*.csv") == names("d?ys/deep/[0-9].csv") == every[2:]
    assert names("days/**/*.csv") == every


def test_loops_of_links_end(tree: Path) -> None:
    (tree / "days" / "again").symlink_to(".")
    (tree / "store" / "deep" / "up").symlink_to("../../days")
    assert names("days") == ["days/1.csv", "days/2.csv", "days/deep/3.csv"]
    assert names("days/**/*.csv") == ["days/1.csv", "days/2.csv", "days/deep/3.csv"]


@pytest.mark.parametrize("url", ["days", "days/*.csv", "days/**", "days/0.csv"])
@pytest.mark.parametrize("target", ["nowhere", "0.csv"])
def test_links_that_lead_nowhere_are_named(tree: Path, url: str, target: str) -> None:
    (tree / "days" / "0.csv").symlink_to(target)
    with pytest.raises(InputError, match=f"days/0.csv is a symbolic link to {target}, which cannot be followed"):
        names(url)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("days/1.csv", "days/../days/1.csv"),
        ("days/2.csv", "store/2.csv"),
        ("days/deep/3.csv", "store/deep"),
        ("file://{}/days/1.csv", "./days//1.csv"),
    ],
)
def test_one_file_under_two_names_is_refused(tree: Path, one: str, other: str) -> None:
    with pytest.raises(InputError, match=r"named more than once .input, also as .*would count twice"):
        matching.match_files([one.format(tree), other])


def test_one_file_that_holds_nothing_may_have_two_names(tree: Path) -> None:
    (tree / "store" / "2.csv").write_bytes(b"")
    assert names("days/2.csv", "store/2.csv") == ["days/2.csv", "store/2.csv"]


@pytest.mark.parametrize(
    "name", ["a,b.csv", "a::b.csv", "zip::c.csv", "file:x.csv", "[1].csv", "*", "~x", "caf\udce9.csv", "#"]
)
def test_a_name_is_taken_as_it_is(tree: Path, name: str) -> None:
    (tree / "odd").mkdir()
    for where in (tree, tree / "odd"):
        (where / name).write_text("1,2,3\n")
    assert names(name) == [name]
    assert names("odd") == names("odd/*") == names(f"odd/{name}") == [f"odd/{name}"]
    assert storage.read_file(name) == storage.read_file(f"file://{tree}/{name}") == b"1,2,3\n"
    storage.write_file(name, b"new")
    assert (tree / name).read_bytes() == b"new"
    storage.remove_file(name)
    assert not (tree / name).exists()


def test_what_is_no_file_is_refused_and_not_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "days" / "pipe.csv")
    (tree / "link.csv").symlink_to("days/pipe.csv")
    for url in ("days", "days/pipe.csv", "days/*.csv", "link.csv", "/dev/null"):
        with pytest.raises(
            InputError, match=r"is no regular file \(it is a (pipe|device)\), and input is read more than"
        ):
            matching.match_files([url])
    for ask in (storage.read_file, storage.file_size, storage.open_input):
        with pytest.raises(InputError, match="is no regular file"):
            ask("days/pipe.csv")


def test_standard_input_is_the_file_that_it_is_or_refused(tree: Path) -> None:
    readable, writable = os.pipe()
    outer = os.dup(0)
    try:
        os.dup2(readable, 0)
        with pytest.raises(InputError, match="is no regular file"):
            matching.match_files(["/dev/stdin"])
        with open("days/1.csv", "rb") as stream:
            os.dup2(stream.fileno(), 0)
            assert matching.match_files(["/dev/stdin"]) == [str(tree / "days" / "1.csv")]
    finally:
        os.dup2(outer, 0)
        for file in (readable, writable, outer):
            os.close(file)


@pytest.mark.parametrize(
    ("output", "url", "apart"),
    [
        ("days/../out", "days", True),
        ("../out", ".", True),
        ("days/../days/out", "days", False),
        ("link/out", "days", False),
        ("days", "link/1.csv", False),
        ("dayside", "days", True),
        ("link/../out", "days", True),
    ],
)
def test_outputs_and_inputs_are_compared_by_where_they_lie(tree: Path, output: str, url: str, apart: bool) -> None:
    (tree / "link").symlink_to("days")
    if apart:
        matching.check_apart(output, [url])
    else:
        with pytest.raises(InputError, match="lies in"):
            matching.check_apart(output, [url])


def test_a_working_directory_that_is_no_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "a.csv").write_text("1,2,3\n")
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"b.csv is a relative path, and the working directory is no more"):
        matching.match_files(["b.csv"])
    assert len(matching.match_files([str(tmp_path / "a.csv")])) == 1
