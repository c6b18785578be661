"""What is judged in a pipeline: sums of metrics by parts of a data set, beside them counts of listed columns.

The sums of a part are small, and are added up in the order of the parts. The counts of listed columns are as long as
the catalogue: they travel as blocks of the columns that are listed, and are added up in any order, as whole numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from nnsparse_stream.data.shards import Shard
from nnsparse_stream.evaluation.comparison import PartSums, compare
from nnsparse_stream.evaluation.judging import Predictor, judge_batch
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import Metric
from nnsparse_stream.transforms.column_sums import AddUpColumns, ColumnSums, joined

_LISTED = "listed"

#: Of a predictor: `PartSums` without counts of listed columns; and, named by `_name`, blocks of these counts.
Judged = tuple["beam.PCollection[PartSums]", "beam.PCollection[tuple[str, pa.RecordBatch]]"]


def judge_shard(
    name: str, predictor: Predictor, shard: Shard, fold: int, metrics: Sequence[Metric]
) -> Iterator[PartSums | beam.pvalue.TaggedOutput]:
    """Judges a predictor on a shard; for a DoFn that `judging` wraps.

    Args:
        name: of the predictor.
        predictor: a model, or a baseline.
        shard: the rows.
        fold: 0 train, 1 validation, 2 test.
        metrics: what to judge by.
    """
    sums = MetricSums.of(metrics, len(predictor.column_counts))
    for batch in shard.batches():
        sums += judge_batch(predictor, batch, fold, metrics)
    yield from part_sums(name, shard.number, sums)


def part_sums(name: str, part: int, sums: MetricSums) -> Iterator[PartSums | beam.pvalue.TaggedOutput]:
    """What a DoFn that `judging` wraps yields for a part of the data set."""
    for k, counts in sums.listed.items():
        columns = np.flatnonzero(counts)
        block = pa.record_batch({"column": columns, "lists": counts[columns]})
        yield beam.pvalue.TaggedOutput(_LISTED, (_name(name, k), block))
    yield name, part, dataclasses.replace(sums, listed={})


def judging(step: beam.ParDo) -> beam.PTransform:
    """A step of a DoFn that yields `part_sums`; gives `Judged`, with `unpacked`."""
    return step.with_outputs(_LISTED, main="parts")


def unpacked(outputs: Any) -> Judged:
    """What `judging` gives."""
    listed = outputs[_LISTED]
    listed.element_type = tuple[str, pa.RecordBatch]
    return outputs.parts, listed


class CompareJudged(beam.PTransform):
    """Takes the `Judged` of a model and of the baselines to one report.

    Args:
        metrics: what was judged by.
        fold: the judged fold's name.
        num_columns: columns of the data set.

    Returns:
        A PCollection of one dictionary, what `comparison.compare` returns.
    """

    def __init__(self, metrics: Sequence[Metric], fold: str, num_columns: int) -> None:
        super().__init__()
        self._metrics, self._fold, self._num_columns = tuple(metrics), fold, num_columns

    def expand(self, judged: Sequence[beam.PCollection]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to (parts, listed, parts, listed, ...)."""
        listed = list(judged[1::2]) | "Listed" >> beam.Flatten() | AddUpColumns(self._num_columns)
        return (
            list(judged[::2])
            | "Parts" >> beam.Flatten()
            | beam.combiners.ToList()
            | "Compare" >> beam.Map(self._compare, beam.pvalue.AsList(listed))
        )

    def _compare(self, parts: Iterable[PartSums], listed: list[ColumnSums]) -> dict[str, Any]:
        parts = list(parts)
        lengths = MetricSums.of(self._metrics, 0).listed
        counts = {
            name: {k: joined(listed, _name(name, k), 1, self._num_columns)[0] for k in lengths}
            for name in {name for name, _, _ in parts}
        }
        return compare(parts, counts, self._metrics, self._fold)


def _name(predictor: str, k: int) -> str:
    return f"{predictor}@{k}"
