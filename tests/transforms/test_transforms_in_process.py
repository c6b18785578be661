"""A run in one process: its blocks wait by reference or in a file, threads work on it, and its results are the same."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import command

from nnsparse_stream.ahead import Threads
from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.running import run_pipeline
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.storage.block_store import BlockStore
from nnsparse_stream.storage.files import list_files
from nnsparse_stream.transforms import in_process
from nnsparse_stream.transforms.coders import RecordBatchCoder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 30 row groups, so that there are several splits where a split holds few."""
    path = tmp_path_factory.mktemp("log") / "ratings.parquet"
    pq.write_table(make_ratings(300, 80, 9_000, 0.5, seed=4).ratings, path, row_group_size=300)
    return path


def contents(where: Path) -> dict[str, bytes]:
    return {name: (where / name).read_bytes() for name in list_files(str(where))}


def prepare(log: Path, out: Path, *flags: str) -> dict[str, bytes]:
    command("prepare", "--input", str(log), "--output", str(out), "--axis", "item", "--num_shards", "5", *flags)
    return contents(out)


def test_the_bytes_are_those_of_a_run_in_two_processes(log: Path, tmp_path: Path) -> None:
    table = pq.read_table(log)
    rows = -(-len(table) // (in_process._BEGUN_SPLITS + 2))
    (tmp_path / "log").mkdir()
    for start in range(0, len(table), rows):
        pq.write_table(table.slice(start, rows), tmp_path / "log" / f"{start:05}.parquet")
    here = prepare(tmp_path / "log", tmp_path / "here")
    flags = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    there = prepare(tmp_path / "log", tmp_path / "there", *flags)
    assert here == there


@pytest.mark.parametrize("number", [0, 1, 3])
def test_neither_threads_nor_spilling_change_a_byte(
    number: int, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prepare(log, tmp_path / "expected")
    monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_RECORDS", 700)
    monkeypatch.setattr("nnsparse_stream.ratings.reading.BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr("nnsparse_stream.transforms.sparsify._PENDING_BYTES", 1 << 14)
    monkeypatch.setattr("nnsparse_stream.transforms.vocabulary._COUNTED_ROWS", 500)
    stores: list[BlockStore] = []

    def small_store() -> BlockStore:
        stores.append(BlockStore(1 << 14))
        return stores[-1]

    monkeypatch.setattr(in_process, "BlockStore", small_store)
    monkeypatch.setattr(in_process, "Threads", lambda _: Threads(number))
    assert prepare(log, tmp_path / "out") == expected
    assert [store.spilled_bytes > 1 << 16 for store in stores] == [True]


def test_partitioning_twice_gives_the_same_bytes_by_fewer_pieces(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pieces() -> int:
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("shuffled")]
        return int(line.split(" in ")[1].split(" ")[0])

    flags = ("--num_shards", "100")
    monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_RECORDS", 700)
    monkeypatch.setattr("nnsparse_stream.transforms.sparsify._PENDING_BYTES", 1 << 14)
    once, pieces_once = prepare(log, tmp_path / "once", *flags), pieces()
    monkeypatch.setattr("nnsparse_stream.transforms.sparsify._TWICE_FROM", 1)
    monkeypatch.setattr("nnsparse_stream.transforms.sparsify._RATINGS_PER_KEY", 300)
    assert prepare(log, tmp_path / "twice", *flags) == once
    # So many as there are groups, each with ten shards, for as many as there were shards; rows are fewer than shards.
    assert pieces() < pieces_once / 3


def test_a_block_outside_a_run_is_coded_whole() -> None:
    block = pa.record_batch({"row": [1, 2]})
    assert in_process.store() is None
    coder = RecordBatchCoder()
    assert len(coder.encode(block)) > 100
    with in_process.in_process():
        assert len(coder.encode(block)) < 20
        ticket = coder.encode(block)
        assert coder.decode(ticket) is block
    with in_process.in_process():
        coder.encode(block)
        with pytest.raises(RuntimeError, match="sent to another run"):
            coder.decode(ticket)
    assert in_process.store() is None


def test_a_run_goes_on_when_another_that_began_earlier_ends() -> None:
    """As two threads have it that each run a pipeline."""
    block, before = pa.record_batch({"row": [1, 2]}), pa.default_memory_pool().backend_name
    coder, earlier, later = RecordBatchCoder(), in_process.in_process(), in_process.in_process()
    with earlier:
        later.__enter__()
        encoded = coder.encode(block)
    try:
        assert coder.decode(encoded) is block
        work = in_process.ahead()
        assert [*work.start(iter([1])), *work.finish()] == [1]
    finally:
        later.__exit__(None, None, None)
    assert in_process.store() is None
    assert pa.default_memory_pool().backend_name == before


def test_an_error_in_a_thread_ends_the_run_and_its_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text("1,2,3\n1,2,4\n")
    assert (
        cli.main(["prepare", "--input", str(tmp_path / "log.csv"), "--output", str(tmp_path / "out"), "--axis", "user"])
        == 2
    )
    assert "rated item 2 more than once" in capsys.readouterr().err
    assert in_process.store() is None
    assert not (tmp_path / "out").exists()


def test_memory_pool_is_given_back() -> None:
    before = pa.default_memory_pool().backend_name
    run_pipeline(lambda pipeline: pipeline | beam.Create([1]), [])
    assert pa.default_memory_pool().backend_name == before
