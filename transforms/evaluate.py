"""EvaluateRatings: a model's errors on one fold of a data set."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from nnsparse_stream.dataset import Dataset
from nnsparse_stream.folds import FOLDS
from transforms.model_cache import CheckpointHandle


class _EvaluateShard(beam.DoFn):
    def __init__(self, checkpoint: CheckpointHandle, data: str, fold: str) -> None:
        self._checkpoint, self._data, self._fold = checkpoint, data, FOLDS.index(fold)

    def process(self, shard: int) -> Iterator[Any]:
        from nnsparse_stream.evaluation import ErrorSums, evaluate_batch

        model = self._checkpoint.get().model
        batches = Dataset(self._data).shard_batches(shard)
        yield shard, sum((evaluate_batch(model, batch, self._fold) for batch in batches), ErrorSums())


def _total(parts: Iterable[tuple[int, Any]], fold: str) -> dict[str, Any]:
    # In the order of the shards: a float sum depends on its order, and the figures should not depend on the runner.
    ordered = [sums for _, sums in sorted(parts, key=operator.itemgetter(0))]
    report: dict[str, Any] = functools.reduce(operator.add, ordered).report(fold)
    return report


class EvaluateRatings(beam.PTransform):
    """Judges a model on one fold: the root of a pipeline, or of a branch of one.

    The model sees the training fold's ratings of a row, and predicts those of the judged fold.

    Args:
        checkpoint: URL of a checkpoint's directory.
        data: URL of a data set of the checkpoint's axis and vocabulary.
        fold: "train", "validation" or "test".

    Returns:
        A PCollection of one dictionary: fold, count, rmse, mae, and buckets by the rows' number of training ratings
        (min_ratings, max_ratings, rows, count, rmse, mae).
    """

    def __init__(self, checkpoint: str, data: str, fold: str) -> None:
        super().__init__()
        self._checkpoint, self._data, self._fold = checkpoint, data, fold

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        return (
            begin
            | beam.Create(list(range(len(Dataset(self._data).shards))))
            | beam.ParDo(_EvaluateShard(CheckpointHandle(self._checkpoint), self._data, self._fold))
            | beam.combiners.ToList()
            | beam.Map(_total, self._fold)
        )
