"""JudgeBaselines: the sums of what a model must beat, on one fold of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.evaluation.baselines import PASSES, Baselines
from nnsparse_stream.evaluation.comparison import PartSums
from nnsparse_stream.evaluation.metrics import ErrorMetric, Metric
from nnsparse_stream.transforms.column_sums import AddUpColumns, ColumnSums, joined
from nnsparse_stream.transforms.judging import Judged, judge_shard, judging, unpacked

_RESIDUALS = "residuals and ratings"


class JudgeBaselines(beam.PTransform):
    """Fits the baselines to a data set's training fold, and judges them on another: takes a PCollection of its `Shard`.

    Args:
        data: URL of the data set.
        fold: 0 train, 1 validation, 2 test.
        metrics: what to judge by; a baseline is judged by those that it can be judged by.

    Returns:
        `judging.Judged`.
    """

    def __init__(self, data: str, fold: int, metrics: Sequence[Metric]) -> None:
        super().__init__()
        self._data, self._fold, self._metrics = data, fold, tuple(metrics)

    def expand(self, shards: beam.PCollection[Shard]) -> Judged:
        """Applies the transform."""
        baselines = Baselines.of(Manifest.read(self._data))
        sums: beam.pvalue.AsList[ColumnSums] | list[ColumnSums] = []
        # Popularity needs a pass as well, which counts.
        for number in range(PASSES if any(isinstance(metric, ErrorMetric) for metric in self._metrics) else 1):
            added = (
                shards
                | f"Residuals {number}"
                >> beam.ParDo(_ColumnResiduals(baselines), sums).with_output_types(tuple[str, pa.RecordBatch])
                | f"Biases {number}" >> AddUpColumns(baselines.num_columns)
            )
            sums = beam.pvalue.AsList(added)
        return unpacked(shards | "Judge" >> judging(beam.ParDo(_Judge(baselines, self._fold, self._metrics), sums)))


class _ColumnResiduals(beam.DoFn):
    def __init__(self, baselines: Baselines) -> None:
        self._baselines = baselines

    def process(self, shard: Shard, sums: list[ColumnSums]) -> Iterator[tuple[str, pa.RecordBatch]]:
        biases, _ = _fitted(self._baselines, sums)
        for batch in shard.batches():
            yield _RESIDUALS, self._baselines.column_residuals(batch, biases)


class _Judge(beam.DoFn):
    def __init__(self, baselines: Baselines, fold: int, metrics: tuple[Metric, ...]) -> None:
        self._baselines, self._fold, self._metrics = baselines, fold, metrics

    def process(self, shard: Shard, sums: list[ColumnSums]) -> Iterator[PartSums | beam.pvalue.TaggedOutput]:
        for name, baseline in self._baselines.predictors(*_fitted(self._baselines, sums)).items():
            metrics = baseline.metrics(self._metrics)
            if metrics:
                yield from judge_shard(name, baseline, shard, self._fold, metrics)


def _fitted(baselines: Baselines, sums: list[ColumnSums]) -> tuple[np.ndarray, np.ndarray]:
    """The column biases, float64 (columns,), and the training entries of each column, int64 (columns,)."""
    residuals, ratings = joined(sums, _RESIDUALS, 2, baselines.num_columns)
    return baselines.column_biases(residuals, ratings), ratings
