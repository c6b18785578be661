"""Coders: round trips, the size of a slice, and that nothing that is shuffled falls back to pickle."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import coders

from nnsparse_stream.formats import RatingFile
from nnsparse_stream.inputs import plan_inputs
from nnsparse_stream.reading import Split
from transforms import BuildVocabulary, ReadRatings, SparsifyRatings, WriteShards
from transforms.coders import RecordBatchCoder, SplitCoder


def test_blocks_round_trip_and_a_slice_costs_its_own_size() -> None:
    batch = pa.record_batch({"row": np.arange(100_000), "name": [str(x) for x in range(100_000)]})
    coder = RecordBatchCoder()
    for part in (batch, batch.slice(10, 50), batch.slice(5, 0)):
        assert coder.decode(coder.encode(part)).equals(part)
    assert len(coder.encode(batch.slice(10, 50))) < 3_000


def test_splits_round_trip() -> None:
    split = Split(RatingFile("s3://ü", 3, "parquet", False, True, ("a", "b"), (), 0, (5, 7), -1), 1, 2)
    coder = SplitCoder()
    assert coder.decode(coder.encode(split)) == split
    assert isinstance(coder.decode(coder.encode(split)).file, RatingFile)


def test_no_shuffled_element_falls_back_to_pickle(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("1,2,3\n")
    plan = plan_inputs([str(tmp_path / "f.csv")])
    pipeline = beam.Pipeline("apache_beam.runners.portability.fn_api_runner.FnApiRunner")
    read = pipeline | ReadRatings(plan, str(tmp_path))
    vocabulary = read.ratings | BuildVocabulary("item", "int64", str(tmp_path))
    _ = read.ratings | SparsifyRatings("user", vocabulary, plan.empty_block()) | WriteShards(str(tmp_path))
    shuffles = _Shuffles()
    pipeline.visit(shuffles)
    assert sorted(shuffles.blocks) == ["BuildVocabulary/By part", "SparsifyRatings/By shard"]
    assert len(shuffles.coders) >= 3  # and the Reshuffle of the splits
    fallbacks = (coders.PickleCoder, coders.DillCoder, coders.CloudpickleCoder)
    for label, coder in shuffles.coders.items():
        parts = list(_all_parts(coder))
        assert not any(isinstance(part, fallbacks) for part in parts), (label, coder)


class _Shuffles(beam.pipeline.PipelineVisitor):
    """Collects the coder of what enters each GroupByKey."""

    def __init__(self) -> None:
        self.coders: dict[str, coders.Coder] = {}
        self.blocks: list[str] = []

    def visit_transform(self, node: beam.pipeline.AppliedPTransform) -> None:
        self._collect(node)

    def enter_composite_transform(self, node: beam.pipeline.AppliedPTransform) -> None:
        self._collect(node)

    def _collect(self, node: beam.pipeline.AppliedPTransform) -> None:
        if isinstance(node.transform, beam.GroupByKey):
            coder = beam.coders.registry.get_coder(node.inputs[0].element_type)
            self.coders[node.full_label] = coder
            if any(isinstance(part, RecordBatchCoder) for part in _all_parts(coder)):
                self.blocks.append(node.full_label)


def _all_parts(coder: coders.Coder) -> list[coders.Coder]:
    return [coder, *(part for child in coder._get_component_coders() for part in _all_parts(child))]
