"""EvaluateRatings and EvaluateBlend: errors of a model, or of several, on one fold of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.ratings.folds import FOLDS
from nnsparse_stream.transforms.list_shards import ListShards, with_position
from nnsparse_stream.transforms.model_cache import CheckpointHandle

if TYPE_CHECKING:
    from nnsparse_stream.evaluation.comparison import PartErrors


class _EvaluateShard(beam.DoFn):
    def __init__(self, checkpoint: CheckpointHandle, fold: str) -> None:
        self._checkpoint, self._fold = checkpoint, FOLDS.index(fold)

    def process(self, shard: Shard) -> Iterator[PartErrors]:
        from nnsparse_stream.evaluation.comparison import MODEL
        from nnsparse_stream.evaluation.prediction_errors import ErrorSums, evaluate_batch

        model = self._checkpoint.get().model
        errors = (evaluate_batch(model, batch, self._fold) for batch in shard.batches())
        yield MODEL, shard.number, sum(errors, ErrorSums())


def _compare(parts: Iterable[PartErrors], fold: str) -> dict[str, Any]:
    from nnsparse_stream.evaluation.comparison import compare

    return compare(parts, fold)


class _BesideBaselines(beam.PTransform):
    """Takes what is found of a model, and the shards that it is judged on, to one report of it and the baselines."""

    def __init__(self, data: str, fold: str) -> None:
        super().__init__()
        self._data, self._fold = data, fold

    def expand(self, found: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection[dict[str, Any]]:
        from nnsparse_stream.transforms.baselines import JudgeBaselines

        model, shards = found
        baselines = shards | "Baselines" >> JudgeBaselines(self._data, self._fold)
        return (
            (model, baselines) | beam.Flatten() | beam.combiners.ToList() | "Compare" >> beam.Map(_compare, self._fold)
        )


class _PredictShard(beam.DoFn):
    """Predictions of one model for a shard, cut by the rows of the first model."""

    def __init__(self, checkpoints: list[CheckpointHandle], fold: str, axis: str, parts: int) -> None:
        self._checkpoints, self._fold = checkpoints, FOLDS.index(fold)
        self._axis, self._parts = axis, parts

    def process(self, place: tuple[int, Shard]) -> Iterator[tuple[int, pa.RecordBatch]]:
        from nnsparse_stream.scoring.blending import predict_fold

        position, shard = place
        checkpoint = self._checkpoints[position].get()
        axis = checkpoint.state["axis"]
        for batch in shard.batches():
            block = predict_fold(checkpoint.model, checkpoint.vocabulary, axis, batch, self._fold, position)
            yield from partition(block, self._axis, self._parts)


def _judge_part(keyed: tuple[int, Iterable[pa.RecordBatch]], weights: list[float], axis: str) -> PartErrors:
    from nnsparse_stream.evaluation.comparison import MODEL
    from nnsparse_stream.scoring.blending import judge_blend

    part, blocks = keyed
    return MODEL, part, judge_blend(list(blocks), weights, axis)


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
        predict = _PredictShard(
            [CheckpointHandle(url) for url in self._checkpoints],
            self._fold,
            self._axis,
            max(len(Dataset(url).shards) for url in self._data),
        )
        shards = {at: begin | f"Shards of model {at}" >> ListShards(url) for at, url in enumerate(self._data)}
        judged = (
            with_position(shards)
            | "Predict" >> beam.ParDo(predict).with_output_types(tuple[int, pa.RecordBatch])
            | beam.GroupByKey()
            | beam.Map(_judge_part, self._weights, self._axis)
        )
        return (judged, shards[0]) | _BesideBaselines(self._data[0], self._fold)


class EvaluateRatings(beam.PTransform):
    """Judges a model on one fold: the root of a pipeline, or of a branch of one.

    The model sees the training fold's ratings of a row, and predicts those of the judged fold.

    Args:
        checkpoint: URL of a checkpoint's directory.
        data: URL of a data set of the checkpoint's axis and vocabulary.
        fold: "train", "validation" or "test".

    Returns:
        A PCollection of one dictionary: fold, count, rmse, mae, and buckets by the rows' number of training ratings
        (min_ratings, max_ratings, rows, count, rmse, mae); and baselines: name, rmse and mae of what needs no model.
    """

    def __init__(self, checkpoint: str, data: str, fold: str) -> None:
        super().__init__()
        self._checkpoint, self._data, self._fold = checkpoint, data, fold

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        shards = begin | ListShards(self._data)
        judged = shards | "Judge" >> beam.ParDo(_EvaluateShard(CheckpointHandle(self._checkpoint), self._fold))
        return (judged, shards) | _BesideBaselines(self._data, self._fold)
