"""Coders: round trips, the size of a slice, and that nothing that is shuffled falls back to pickle."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
from samples import Trained
from shuffles import carries_blocks, coders_of_shuffles, falls_back

from nnsparse_stream.data.manifest import ShardFile
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.ratings.folds import LastFolds, TimeShares
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.input_plan import plan_inputs
from nnsparse_stream.ratings.reading import Split
from nnsparse_stream.transforms import (
    AssignFolds,
    BuildVocabulary,
    EvaluateRatings,
    ReadRatings,
    SparsifyRatings,
    WriteShards,
)
from nnsparse_stream.transforms.coders import RecordBatchCoder, ShardCoder, SplitCoder


def test_blocks_round_trip_and_a_slice_costs_its_own_size() -> None:
    batch = pa.record_batch({"row": np.arange(100_000), "name": [str(x) for x in range(100_000)]})
    coder = RecordBatchCoder()
    for part in (batch, batch.slice(10, 50), batch.slice(5, 0)):
        assert coder.decode(coder.encode(part)).equals(part)
    assert len(coder.encode(batch.slice(10, 50))) < 3_000


def test_splits_round_trip() -> None:
    split = Split(RatingFile("s3://ü", 3, "parquet", False, 0, ("a", "b"), (), 0, (5, 7), -1), 1, 2, 1, 5)
    coder = SplitCoder()
    assert coder.decode(coder.encode(split)) == split
    assert isinstance(coder.decode(coder.encode(split)).file, RatingFile)


def test_shards_round_trip() -> None:
    shard = Shard("s3://ü", 3, ShardFile("rows/shard-00003-of-00004.parquet", 3, 7, 900, "0" * 64, ((2, 5), (1, 2))))
    assert ShardCoder().decode(ShardCoder().encode(shard)) == shard


def test_no_shuffled_element_falls_back_to_pickle(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("1,2,3\n")
    plan = plan_inputs([str(tmp_path / "f.csv")])
    pipeline = beam.Pipeline("apache_beam.runners.portability.fn_api_runner.FnApiRunner")
    read = pipeline | ReadRatings(plan, str(tmp_path))
    vocabulary = read.ratings | BuildVocabulary("item", "int64", str(tmp_path))
    _ = read.ratings | SparsifyRatings("user", vocabulary, plan.empty_block()) | WriteShards(str(tmp_path))
    found = coders_of_shuffles(pipeline)
    blocks = {label for label, parts in found.items() if carries_blocks(parts)}
    assert blocks == {"BuildVocabulary/By part", "BuildVocabulary/By range", "SparsifyRatings/By shard"}
    assert len(found) >= 3  # and the Reshuffle of the splits
    assert not [label for label, parts in found.items() if falls_back(parts)]


def test_folding_by_row_shuffles_blocks() -> None:
    pipeline = beam.Pipeline("apache_beam.runners.portability.fn_api_runner.FnApiRunner")
    block = pa.record_batch({"user": [1], "item": [1], "rating": [1.0], "timestamp": [1]})
    ratings = pipeline | beam.Create([block], reshuffle=False).with_output_types(pa.RecordBatch)
    _ = ratings | AssignFolds(LastFolds("user"))
    found = coders_of_shuffles(pipeline)
    assert carries_blocks(found["AssignFolds/By part"])
    assert not falls_back(found["AssignFolds/By part"])


def test_judging_shuffles_numbers_of_columns_as_blocks(trained: Trained) -> None:
    pipeline = beam.Pipeline("apache_beam.runners.portability.fn_api_runner.FnApiRunner")
    _ = pipeline | EvaluateRatings(trained.run, trained.data, "test", ["rmse", "gini@5"])
    found = {label: parts for label, parts in coders_of_shuffles(pipeline).items() if "Add up" in label}
    assert len(found) == 3  # what the biases are of, twice, and the listed columns
    assert all(carries_blocks(parts) and not falls_back(parts) for parts in found.values())


def test_a_share_of_time_shuffles_counts_as_blocks() -> None:
    pipeline = beam.Pipeline("apache_beam.runners.portability.fn_api_runner.FnApiRunner")
    block = pa.record_batch({"user": [1], "item": [1], "rating": [1.0], "timestamp": [1]})
    ratings = pipeline | beam.Create([block], reshuffle=False).with_output_types(pa.RecordBatch)
    _ = ratings | AssignFolds(TimeShares(0, 10))
    found = coders_of_shuffles(pipeline)
    assert found
    assert not [label for label, parts in found.items() if not carries_blocks(parts) or falls_back(parts)]
