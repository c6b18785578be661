"""EvaluateRatings and EvaluateBlend: errors of a model, or of several, on one fold of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.shards import Shard
from nnsparse_stream.ratings.folds import FOLDS
from nnsparse_stream.scoring.combination import Combination
from nnsparse_stream.transforms.list_shards import ListShards
from nnsparse_stream.transforms.model_cache import CheckpointHandle
from nnsparse_stream.transforms.predict_fold import PredictFold

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


def _judge_part(keyed: tuple[int, Iterable[pa.RecordBatch]], combination: Combination, axis: str) -> PartErrors:
    from nnsparse_stream.evaluation.comparison import MODEL
    from nnsparse_stream.scoring.blending import judge_blend

    part, blocks = keyed
    return MODEL, part, judge_blend(list(blocks), combination, axis)


class EvaluateBlend(beam.PTransform):
    """Judges several models' predictions, combined, on one fold: the root of a pipeline, or of a branch.

    The models may be of either axis; their data sets hold the same ratings in the judged fold.

    Args:
        checkpoints: URLs of checkpoints' directories.
        data: URLs of their data sets, in the same order.
        combination: of the models' predictions.
        fold: "train", "validation" or "test".
        axis: the axis of the first model's rows, whose training ratings make the buckets.

    Returns:
        A PCollection of one dictionary, as that of `EvaluateRatings`.

    Raises:
        InputError: in a worker, where the data sets hold other ratings in the fold.
    """

    def __init__(self, checkpoints: list[str], data: list[str], combination: Combination, fold: str, axis: str) -> None:
        super().__init__()
        self._predict = PredictFold(checkpoints, data, fold, axis)
        self._data, self._combination, self._fold, self._axis = data, combination, fold, axis

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        judged = begin | self._predict | "Judge" >> beam.Map(_judge_part, self._combination, self._axis)
        return (judged, begin | ListShards(self._data[0])) | _BesideBaselines(self._data[0], self._fold)


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
