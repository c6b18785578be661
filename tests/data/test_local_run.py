"""A preparation in this process: the bytes are those of Beam, for any number of threads and any bound of memory."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from preparing import files_of, prepare

from nnsparse_stream.data import local_run
from nnsparse_stream.data.local_run import Sizes, _in_groups
from nnsparse_stream.data.shard_steps import GroupedShard
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.storage.block_store import BlockStore


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 30 row groups, so that there are several splits where a split holds few."""
    path = tmp_path_factory.mktemp("log") / "ratings.parquet"
    pq.write_table(make_ratings(300, 80, 9_000, 0.5, seed=4).ratings, path, row_group_size=300)
    return path


@pytest.fixture(scope="module")
def by_beam(log: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What Beam's own runner makes of it."""
    return prepared(log, tmp_path_factory.mktemp("beam") / "out", "--runner=DirectRunner")


def prepared(log: Path, out: Path, *flags: str) -> dict[str, bytes]:
    assert prepare("--input", log, "--output", out, "--axis", "item", "--num_shards", 5, *flags) == 0
    return files_of(str(out))


def test_the_bytes_are_those_of_beams_runner(log: Path, by_beam: dict[str, bytes], tmp_path: Path) -> None:
    assert prepared(log, tmp_path / "out") == by_beam


@pytest.mark.parametrize("number", [1, 3])
def test_neither_threads_nor_the_file_change_a_byte(
    number: int, log: Path, by_beam: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_RECORDS", 700)
    monkeypatch.setattr("nnsparse_stream.ratings.reading.BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(local_run, "PARTITIONED_BYTES", 1 << 14)
    # So small that counts of ids are given up on the way, by the splits and in the end.
    monkeypatch.setattr("nnsparse_stream.data.vocabulary_files._COUNTED_IDS", 500)
    monkeypatch.setattr("nnsparse_stream.data.vocabulary_files._PENDING_ROWS", 100)
    monkeypatch.setattr(local_run, "usable_threads", lambda: number)
    stores: list[BlockStore] = []

    def small_store() -> BlockStore:
        stores.append(BlockStore(1 << 14))
        return stores[-1]

    monkeypatch.setattr(local_run, "BlockStore", small_store)
    assert prepared(log, tmp_path / "out") == by_beam
    assert [store.spilled_bytes > 1 << 16 for store in stores] == [True]


def test_dead_letters_of_later_splits_have_the_lines_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_BYTES", 100)
    lines = [f"{line},{line % 7},3" if line % 9 else f"bad {line}" for line in range(1, 100)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    flags = ("--input", tmp_path / "log.csv", "--axis", "user", "--max_bad_fraction", 1)
    assert prepare(*flags, "--output", tmp_path / "here") == 0
    assert prepare(*flags, "--output", tmp_path / "beam", "--runner=DirectRunner") == 0
    here = files_of(str(tmp_path / "here"))
    assert here == files_of(str(tmp_path / "beam"))
    letters = b"".join(here[name] for name in sorted(here) if name.startswith("dead_letters/"))
    assert len([name for name in here if name.startswith("dead_letters/")]) > 3
    for line in range(9, 100, 9):
        assert f'"position": {line}, '.encode() in letters


def test_an_error_in_a_thread_ends_the_run_and_its_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text("1,2,3\n1,2,4\n")
    before = set(threading.enumerate())
    assert prepare("--input", tmp_path / "log.csv", "--output", tmp_path / "out", "--axis", "user") == 2
    assert "rated item 2 more than once" in capsys.readouterr().err
    assert not set(threading.enumerate()) - before
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_nothing(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, before = local_run.write_grouped, set(threading.enumerate())

    def interrupted(url: str, grouped: GroupedShard) -> dict[str, object]:
        written = whole(url, grouped)
        signal.raise_signal(signal.SIGINT)  # as Ctrl-C does: the main thread gets it
        return written

    monkeypatch.setattr(local_run, "write_grouped", interrupted)
    assert prepare("--input", log, "--output", tmp_path / "out", "--axis", "item", "--num_shards", 50) == 1
    assert "interrupted" in capsys.readouterr().err
    assert not set(threading.enumerate()) - before
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_lost_is_noticed(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = local_run.prepare_here

    def lossy(*args: object, **settings: object) -> local_run.Prepared:
        done = whole(*args, **settings)
        return done._replace(read=done.read[1:])

    monkeypatch.setattr(local_run, "prepare_here", lossy)
    assert prepare("--input", log, "--output", tmp_path / "out", "--axis", "item") == 1
    assert "lost or repeated splits: 1 became 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_blocks_are_partitioned_in_groups_of_about_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_run, "PARTITIONED_BYTES", 10)
    assert list(_in_groups([(1, 4), (2, 7), (3, 20), (4, 1)])) == [[1, 2], [3], [4]]
    assert list(_in_groups([])) == []
    assert str(Sizes.of([1_000_000, 500_000])) == "1.5 MB in 2 (largest 1.00 MB)"
