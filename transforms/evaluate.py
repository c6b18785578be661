"""EvaluateRatings: a model's errors on one fold of a data set."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.ratings.folds import FOLDS
from nnsparse_stream.transforms.model_cache import CheckpointHandle


class _EvaluateShard(beam.DoFn):
    def __init__(self, checkpoint: CheckpointHandle, data: str, fold: str) -> None:
        self._checkpoint, self._data, self._fold = checkpoint, data, FOLDS.index(fold)

    def process(self, shard: int) -> Iterator[Any]:
        from nnsparse_stream.evaluation.prediction_errors import ErrorSums, evaluate_batch

        model = self._checkpoint.get().model
        batches = Dataset(self._data).shard_batches(shard)
        yield shard, sum((evaluate_batch(model, batch, self._fold) for batch in batches), ErrorSums())


def _total(parts: Iterable[tuple[int, Any]], fold: str) -> dict[str, Any]:
    # In the order of the shards: a float sum depends on its order, and the figures should not depend on the runner.
    ordered = [sums for _, sums in sorted(parts, key=operator.itemgetter(0))]
    report: dict[str, Any] = functools.reduce(operator.add, ordered).report(fold)
    return report


class _PredictShard(beam.DoFn):
    """Predictions of one model for a shard, cut by the rows of the first model."""

    def __init__(self, checkpoints: list[CheckpointHandle], data: list[str], fold: str, axis: str, parts: int) -> None:
        self._checkpoints, self._data, self._fold = checkpoints, data, FOLDS.index(fold)
        self._axis, self._parts = axis, parts

    def process(self, place: tuple[int, int]) -> Iterator[tuple[int, pa.RecordBatch]]:
        from nnsparse_stream.scoring.blending import predict_fold

        position, shard = place
        checkpoint = self._checkpoints[position].get()
        axis = checkpoint.state["axis"]
        for batch in Dataset(self._data[position]).shard_batches(shard):
            block = predict_fold(checkpoint.model, checkpoint.vocabulary, axis, batch, self._fold, position)
            yield from partition(block, self._axis, self._parts)


def _judge_part(keyed: tuple[int, Iterable[pa.RecordBatch]], weights: list[float], axis: str) -> tuple[int, Any]:
    from nnsparse_stream.scoring.blending import judge_blend

    part, blocks = keyed
    return part, judge_blend(list(blocks), weights, axis)


class EvaluateBlend(beam.PTransform):
    """Judges the weighted mean of several models' predictions on one fold: the root of a pipeline, or of a branch.

    The models may be of either axis; their data sets hold the same ratings in the judged fold.

    Args:
        checkpoints: URLs of checkpoints' directories.
        data: URLs of their data sets, in the same order.
        weights: one a model; divided by their sum.
        fold: "train", "validation" or "test".
        axis: the axis of the first model's rows, whose training ratings make the buckets.

    Returns:
        A PCollection of one dictionary, as that of `EvaluateRatings`.

    Raises:
        InputError: in a worker, where the data sets hold other ratings in the fold.
    """

    def __init__(self, checkpoints: list[str], data: list[str], weights: list[float], fold: str, axis: str) -> None:
        super().__init__()
        self._checkpoints, self._data, self._weights = checkpoints, data, weights
        self._fold, self._axis = fold, axis

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        datasets = [Dataset(url) for url in self._data]
        places = [(position, shard) for position, held in enumerate(datasets) for shard in range(len(held.shards))]
        predict = _PredictShard(
            [CheckpointHandle(url) for url in self._checkpoints],
            self._data,
            self._fold,
            self._axis,
            max(len(held.shards) for held in datasets),
        )
        return (
            begin
            | beam.Create(places)
            | beam.ParDo(predict).with_output_types(tuple[int, pa.RecordBatch])
            | beam.GroupByKey()
            | beam.Map(_judge_part, self._weights, self._axis)
            | beam.combiners.ToList()
            | beam.Map(_total, self._fold)
        )


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
