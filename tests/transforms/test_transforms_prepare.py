"""The transforms of preparation on their own, in somebody's pipeline."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparing import files_of, prepare

import nnsparse_stream.transforms.sparsify
from nnsparse_stream.data import vocabulary_files
from nnsparse_stream.data.grouping import fold_block
from nnsparse_stream.data.manifest import ColumnsFile
from nnsparse_stream.data.shard_steps import shard_count
from nnsparse_stream.data.vocabulary_files import load_vocabulary
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids import mapped_lookup as lookup
from nnsparse_stream.ids.vocabulary import Vocabulary, count_ids, order_counts
from nnsparse_stream.pipelines.metrics import sizes
from nnsparse_stream.pipelines.running import run_pipeline
from nnsparse_stream.ratings import dead_letters as split_outputs
from nnsparse_stream.ratings.dead_letters import check_bad_records
from nnsparse_stream.ratings.folds import Folds, HashFolds, LastFolds, RowFolds, TimeFolds, TimeShares
from nnsparse_stream.ratings.input_plan import InputPlan, plan_inputs
from nnsparse_stream.ratings.reading import BLOCK_BYTES
from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.ratings.time_counts import count_times
from nnsparse_stream.ratings.times import TimeRange
from nnsparse_stream.storage.files import join
from nnsparse_stream.transforms import (
    AssignFolds,
    BuildVocabulary,
    FilterRatings,
    ReadRatings,
    SparsifyRatings,
    WriteShards,
)

RECORDS = [(user, f"i{item}", (user * item) % 5 + 1) for user in range(40) for item in range(1 + user % 7)]


@pytest.fixture
def plan(tmp_path: Path) -> InputPlan:
    for part in range(3):
        lines = ["user,item,rating", *(",".join(map(str, record)) for record in RECORDS[part::3]), "7,i0,bad", "9"]
        (tmp_path / f"{part}.csv").write_text("\n".join(lines))
    return plan_inputs([str(tmp_path / "*.csv")])


def collect(url: Path, name: str) -> Any:
    """A function that writes elements of a pipeline to a file, for the test to read."""

    def write(element: Any) -> None:
        with (url / name).open("a") as file:
            file.write(json.dumps(element) + "\n")

    return beam.Map(write)


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.open()]


def test_read_ratings_gives_every_record_once(tmp_path: Path, plan: InputPlan) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        read = pipeline | ReadRatings(plan, str(tmp_path / "letters"))
        _ = read.ratings | beam.Map(lambda block: block.to_pylist()) | collect(tmp_path, "ratings")
        _ = read.summaries | "Summaries" >> collect(tmp_path, "summaries")

    result = run_pipeline(build, [])
    rows = [row for block in read_lines(tmp_path / "ratings") for row in block]
    assert sorted((row["user"], row["item"], row["rating"]) for row in rows) == sorted(RECORDS)
    summaries = read_lines(tmp_path / "summaries")
    assert check_bad_records(summaries, 0.5) == (len(RECORDS) + 6, 6)
    assert sorted(path.name for path in (tmp_path / "letters").iterdir()) == [
        f"0000{file}-00000-00000.jsonl" for file in range(3)
    ]
    counters = {found.key.metric.name: found.committed for found in result.metrics().query()["counters"]}
    assert (counters["read"], counters["bad"]) == (len(RECORDS), 6)
    lines = len(RECORDS[0::3]) + 2
    with pytest.raises(InputError, match=rf"6 of .* \[{tmp_path}/0.csv:{lines}: .*\] \[{tmp_path}/0.csv:.*1.csv"):
        check_bad_records(summaries, 0.01)


def test_dead_letters_come_in_bounded_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_outputs, "_LETTERS", 1)
    monkeypatch.setattr("nnsparse_stream.ratings.reading._CHUNK_BYTES", 8)
    (tmp_path / "f.csv").write_text("1,2,3\nxx\n1,3,3\nyy\n")
    plan = plan_inputs([str(tmp_path / "f.csv")])
    run_pipeline(lambda pipeline: pipeline | ReadRatings(plan, str(tmp_path / "letters")), [])
    texts = [read_lines(path) for path in sorted((tmp_path / "letters").iterdir())]
    assert [[letter["text"] for letter in part] for part in texts] == [["xx"], ["yy"]]


@pytest.mark.parametrize("bounds", [None, 1])
def test_blocks_become_shards(
    tmp_path: Path, plan: InputPlan, bounds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is the same where every buffer overflows at once, and no vocabulary is small enough for memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if bounds:
        monkeypatch.setattr(lookup, "PART_IDS", 0)
        monkeypatch.setattr(nnsparse_stream.transforms.sparsify, "PARTITIONED_BYTES", bounds)
        monkeypatch.setattr(vocabulary_files, "_COUNTED_IDS", bounds)
        monkeypatch.setattr(vocabulary_files, "_PENDING_ROWS", bounds)

    def build(pipeline: beam.Pipeline) -> None:
        read = pipeline | ReadRatings(plan, str(tmp_path / "letters"))
        vocabulary = read.ratings | BuildVocabulary("item", "string", str(tmp_path / "data"))
        _ = vocabulary | "Vocabulary" >> collect(tmp_path, "vocabulary")
        shards = read.ratings | SparsifyRatings(
            "user", vocabulary, plan.empty_block(), folds=HashFolds((100, 0, 0)), num_shards=50
        )
        _ = (
            shards
            | beam.Map(lambda shard: [*shard[:2], shard[2].to_pylist(), *shard[3:]])
            | collect(tmp_path, "shards")
        )
        _ = shards | WriteShards(str(tmp_path / "data")) | "Written" >> collect(tmp_path, "written")

    run_pipeline(build, [])
    (built,) = read_lines(tmp_path / "vocabulary")
    assert built["ratings"] == len(RECORDS)
    vocabulary = Vocabulary.read([join(built["url"], ColumnsFile(**file).path) for file in built["files"]])
    assert vocabulary.ids.to_pylist() == [f"i{item}" for item in range(7)]
    shards = sorted(read_lines(tmp_path / "shards"))
    assert [(shard, of, merged) for shard, of, _, merged, _ in shards] == [(shard, 50, 0) for shard in range(50)]
    found = {
        (row["row"], f"i{column}", value)
        for _, _, rows, _, _ in shards
        for row in rows
        for column, value in zip(row["columns"], row["values"], strict=True)
    }
    assert found == set(RECORDS)
    written = sorted(read_lines(tmp_path / "written"), key=lambda entry: entry["shard"])
    assert [entry["file"]["rows"] for entry in written] == [len(rows) for _, _, rows, _, _ in shards]
    assert len(list((tmp_path / "data" / "rows").iterdir())) == 50
    shared = tmp_path / f"nnsparse-stream-{os.getuid()}"
    assert len(list(shared.glob("vocabulary-*.arrow"))) == (1 if bounds else 0)
    vocabulary_files._load.cache_clear()
    assert list(shared.glob("vocabulary-*.arrow")) == []


def test_a_vocabulary_that_goes_on_from_a_mapped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts are those that one in memory gives."""
    earlier = pa.record_batch({"item": ["x", "y", "z", "y"]})
    later = pa.record_batch({"item": ["b", "z", "a", "b", "x"]})
    tables = {}
    for name, few in (("memory", 100), ("mapped", 0)):
        monkeypatch.setattr(lookup, "PART_IDS", few)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        base = None
        for step, block in (("earlier", earlier), ("later", later)):
            where = tmp_path / name / step

            def build(pipeline: beam.Pipeline, where: Path = where, block: pa.RecordBatch = block) -> None:
                ratings = pipeline | beam.Create([block]).with_output_types(pa.RecordBatch)
                vocabulary = ratings | BuildVocabulary("item", "string", str(where), base=base)  # noqa: B023 (run here)
                _ = vocabulary | collect(tmp_path, f"{name}-{step}")  # noqa: B023

            run_pipeline(build, [])
            (base,) = read_lines(tmp_path / f"{name}-{step}")
        tables[name] = load_vocabulary(base).to_table()
    assert tables["mapped"].to_pydict() == {
        "index": [0, 1, 2, 3, 4],
        "id": ["y", "x", "z", "b", "a"],
        "count": [0, 1, 1, 2, 1],
    }
    assert tables["mapped"].equals(tables["memory"])


def test_shuffled_elements_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few the shards, and however much waits to be partitioned."""
    monkeypatch.setattr(nnsparse_stream.transforms.sparsify, "load_vocabulary", lambda built: built["vocabulary"])
    rows = np.arange(300_000)
    ratings = pa.record_batch({"user": rows, "item": rows % 10, "rating": np.ones(len(rows), np.float32)})
    do_fn = nnsparse_stream.transforms.sparsify._Partition("user", 1, False, False)
    do_fn.start_bundle()
    built = {"vocabulary": order_counts(count_ids(ratings["item"])), "ratings": len(rows)}
    assert list(do_fn.process(ratings, built)) == []
    blocks = [window.value[1] for window in do_fn.finish_bundle()]
    assert max(block.nbytes for block in blocks) <= BLOCK_BYTES < sum(block.nbytes for block in blocks)
    assert pa.Table.from_batches(blocks)["row"].to_pylist() == rows.tolist()


def test_a_duplicate_reaches_the_driver_from_a_worker(tmp_path: Path) -> None:
    block = pa.record_batch({"user": [1, 1], "item": [2, 2], "rating": pa.array([1, 2], pa.float32())})

    def build(pipeline: beam.Pipeline) -> None:
        ratings = pipeline | beam.Create([block]).with_output_types(pa.RecordBatch)
        vocabulary = ratings | BuildVocabulary("item", "int64", str(tmp_path))
        _ = ratings | SparsifyRatings("user", vocabulary, block.slice(0, 0))

    with pytest.raises(InputError, match=r"^user 1 rated item 2 more than once; pass `duplicates` first, last or mean"):
        run_pipeline(build, [])


def test_shards_follow_the_number_of_ratings() -> None:
    assert [shard_count(ratings, None) for ratings in (0, 1, 500_000, 500_001)] == [1, 1, 1, 2]
    assert shard_count(10**9, 7) == 7


def timed_blocks(order: int, size: int) -> list[pa.RecordBatch]:
    """The same 200 distinct pairs with times, in one of several orders and cut in pieces."""
    pairs = [
        (user, f"i{item}", (user * item) % 5 + 1.0, (user * 7 + item * 3) % 11)
        for user in range(20)
        for item in range(10)
    ]
    users, items, ratings, times = zip(*sorted(pairs, key=lambda pair: hash((order, *pair[::3]))), strict=True)
    block = pa.record_batch(
        {"user": users, "item": items, "rating": pa.array(ratings, pa.float32()), "timestamp": times}
    )
    return [block.slice(start, size) for start in range(0, len(block), size)]


@pytest.mark.parametrize(
    "folds",
    [
        HashFolds((40, 30, 30)),
        TimeFolds(3, 8),
        LastFolds("user", 2, 1),
        LastFolds("item"),
        RowFolds("item", 30, 30, 50),
        TimeShares(25, 25),
    ],
)
def test_assigned_folds_are_those_of_the_whole_in_any_order_and_cut(tmp_path: Path, folds: Folds | TimeShares) -> None:
    (whole,) = timed_blocks(0, 1000)
    cut = folds.cut(count_times(whole["timestamp"].to_numpy())) if isinstance(folds, TimeShares) else folds
    expected = sorted(map(str, fold_block(whole, cut).to_pylist()))
    for order, size in ((1, 200), (2, 13)):

        def build(pipeline: beam.Pipeline, order: int = order, size: int = size) -> None:
            ratings = pipeline | beam.Create(timed_blocks(order, size)).with_output_types(pa.RecordBatch)
            folded = ratings | AssignFolds(folds, parts=3)
            _ = folded | beam.Map(pa.RecordBatch.to_pylist) | collect(tmp_path, f"folded{order}")

        run_pipeline(build, [])
        rows = [row for block in read_lines(tmp_path / f"folded{order}") for row in block]
        assert sorted(map(str, rows)) == expected


def test_folds_by_the_rows_of_the_other_axis_are_refused(plan: InputPlan) -> None:
    with pytest.raises(ValueError, match="the rows are of the axis 'item'"):
        SparsifyRatings("item", None, plan.empty_block(), folds=LastFolds("user"))


def test_filters_leave_out_and_count(tmp_path: Path) -> None:
    (whole,) = timed_blocks(0, 1000)
    late = whole.slice(50).set_column(3, "timestamp", pa.array(np.full(150, 99)))

    def build(pipeline: beam.Pipeline) -> None:
        blocks = [*timed_blocks(1, 17), late]
        ratings = pipeline | beam.Create(blocks).with_output_types(pa.RecordBatch)
        kept = ratings | FilterRatings(Selection(TimeRange(2, 9)))
        _ = kept.filtered | "Filtered" >> collect(tmp_path, "filtered")
        vocabulary = kept.ratings | BuildVocabulary("item", "string", str(tmp_path), min_ratings=13)
        _ = vocabulary | "Vocabulary" >> collect(tmp_path, "vocabulary")
        shards = kept.ratings | SparsifyRatings(
            "user", vocabulary, whole.slice(0, 0), num_shards=3, min_row_ratings=7, known_columns_only=True
        )
        _ = shards | beam.Map(lambda shard: [shard[2].to_pylist(), *shard[3:]]) | collect(tmp_path, "shards")
        _ = shards | WriteShards(str(tmp_path)) | "Written" >> collect(tmp_path, "written")

    result = run_pipeline(build, [])
    inside = [row for row in whole.to_pylist() if 2 <= row["timestamp"] < 9]
    users, items = (Counter(row[axis] for row in inside) for axis in ("user", "item"))
    expected = {
        (row["user"], row["item"], row["rating"])
        for row in inside
        if users[row["user"]] >= 7 and items[row["item"]] >= 13
    }
    assert 0 < len(expected) < len(inside)
    assert min(users.values()) < 7
    assert min(items.values()) < 13
    by_time = sum(read_lines(tmp_path / "filtered"))
    assert by_time == len(whole) + len(late) - len(inside)
    (built,) = read_lines(tmp_path / "vocabulary")
    assert built["ratings"] == len(inside)
    ids = Vocabulary.read([join(built["url"], file["path"]) for file in built["files"]]).ids.to_pylist()
    assert sorted(ids) == sorted(item for item, count in items.items() if count >= 13)
    shards = read_lines(tmp_path / "shards")
    found = {
        (row["row"], ids[column], value)
        for rows, _, _ in shards
        for row in rows
        for column, value in zip(row["columns"], row["values"], strict=True)
    }
    assert found == expected
    assert all(row["columns"] for rows, _, _ in shards for row in rows)
    filtered = [filtered for _, _, filtered in shards]
    assert sum(filtered) == len(inside) - len(expected)
    assert sorted(part["filtered"] for part in read_lines(tmp_path / "written")) == sorted(filtered)
    metrics = result.metrics().query()
    counters: Counter[str] = Counter()
    for metric in metrics["counters"]:
        if metric.key.metric.namespace == "ratings":
            counters[metric.key.metric.name] += metric.committed
    assert counters == {
        "filtered": by_time + sum(filtered),
        "duplicates": 0,
        "rows": len({user for user, _, _ in expected}),
        "entries": len(expected),
    }
    distributions = sizes(result)
    assert distributions["shard_bytes"].number == 3
    assert distributions["shard_bytes"].total == sum(path.stat().st_size for path in (tmp_path / "rows").iterdir())
    assert distributions["shuffled_block_bytes"].total > 0


def test_partitioning_twice_gives_the_same_bytes_by_fewer_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pieces() -> int:
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("shuffled")]
        return int(line.split(" in ")[1].split(" ")[0])

    pq.write_table(make_ratings(300, 80, 9_000, 0.5, seed=4).ratings, tmp_path / "log.parquet", row_group_size=300)

    def prepared(out: Path) -> dict[str, bytes]:
        flags = ("--axis", "item", "--num_shards", 100, "--runner=DirectRunner")
        assert prepare("--input", tmp_path / "log.parquet", "--output", out, *flags) == 0
        return files_of(str(out))

    monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_RECORDS", 700)
    monkeypatch.setattr("nnsparse_stream.transforms.sparsify.PARTITIONED_BYTES", 1 << 14)
    once, pieces_once = prepared(tmp_path / "once"), pieces()
    monkeypatch.setattr("nnsparse_stream.transforms.sparsify._TWICE_FROM", 1)
    monkeypatch.setattr("nnsparse_stream.transforms.sparsify._RATINGS_PER_KEY", 300)
    assert prepared(tmp_path / "twice") == once
    # So many as there are groups, each with ten shards, for as many as there were shards; rows are fewer than shards.
    assert pieces() < pieces_once / 3
