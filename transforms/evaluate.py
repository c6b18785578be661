"""EvaluateRatings and EvaluateBlend: a model, or several, judged on one fold of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.comparison import MODEL, PartSums
from nnsparse_stream.evaluation.judging import Predictor, check_metrics
from nnsparse_stream.evaluation.metrics import Metric, parse_metrics
from nnsparse_stream.ratings.folds import FOLDS
from nnsparse_stream.scoring.combination import Combination
from nnsparse_stream.transforms.baselines import JudgeBaselines
from nnsparse_stream.transforms.judging import CompareJudged, judge_shard, judging, part_sums, unpacked
from nnsparse_stream.transforms.list_shards import ListShards
from nnsparse_stream.transforms.model_cache import CheckpointHandle
from nnsparse_stream.transforms.model_worker import ModelWorker
from nnsparse_stream.transforms.predict_fold import PredictFold


class _JudgeShard(beam.DoFn):
    def __init__(self, checkpoint: CheckpointHandle, num_columns: int, fold: int, metrics: tuple[Metric, ...]) -> None:
        self._checkpoint, self._num_columns, self._fold, self._metrics = checkpoint, num_columns, fold, metrics

    def process(self, shard: Shard) -> Iterator[PartSums | beam.pvalue.TaggedOutput]:
        from nnsparse_stream.evaluation.earlier_columns import EarlierColumns

        model: Predictor = self._checkpoint.get().model
        if len(model.column_counts) < self._num_columns:
            model = EarlierColumns(self._checkpoint.get().model, self._num_columns)
        yield from judge_shard(MODEL, model, shard, self._fold, self._metrics)


class _JudgePart(beam.DoFn):
    def __init__(self, combination: Combination, axis: str, metrics: tuple[Metric, ...]) -> None:
        self._combination, self._axis, self._metrics = combination, axis, metrics

    def process(self, keyed: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[PartSums | beam.pvalue.TaggedOutput]:
        from nnsparse_stream.scoring.blending import judge_blend

        part, blocks = keyed
        yield from part_sums(MODEL, part, judge_blend(list(blocks), self._combination, self._axis, self._metrics))


class EvaluateBlend(beam.PTransform):
    """Judges several models' predictions, combined, on one fold: the root of a pipeline, or of a branch.

    The models may be of either axis; their data sets hold the same ratings in the judged fold.

    Args:
        checkpoints: URLs of checkpoints' directories.
        data: URLs of their data sets, in the same order.
        combination: of the models' predictions.
        fold: "train", "validation" or "test".
        axis: the axis of the first model's rows, whose training ratings make the buckets.
        metrics: names of the metrics of predicted ratings to judge by.
        worker: what the steps that run a model ask for.

    Returns:
        A PCollection of one dictionary, as that of `EvaluateRatings`.

    Raises:
        InputError: there is no such metric, or it is one of lists; in a worker, where the data sets hold other ratings
            in the fold.
    """

    def __init__(
        self,
        checkpoints: list[str],
        data: list[str],
        combination: Combination,
        fold: str,
        axis: str,
        metrics: Sequence[str] = ("rmse", "mae"),
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        self._predict = PredictFold(checkpoints, data, fold, axis, worker)
        self._data, self._combination, self._fold, self._axis = data, combination, fold, axis
        self._metrics = parse_metrics(metrics)
        of_lists = [metric.name for metric in self._metrics if metric.k]
        if of_lists:
            raise InputError(
                f"`metrics`: several models are judged by their predicted ratings, not by {', '.join(of_lists)}"
            )

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        judge = judging(beam.ParDo(_JudgePart(self._combination, self._axis, self._metrics)))
        judged = unpacked(begin | self._predict | "Judge" >> judge)
        return (*judged, begin | ListShards(self._data[0])) | _BesideBaselines(self._data[0], self._fold, self._metrics)


class EvaluateRatings(beam.PTransform):
    """Judges a model on one fold: the root of a pipeline, or of a branch of one.

    The model sees the training fold's entries of a row; it predicts those of the judged fold, and ranks the columns
    that it does not see. Lists are not stored.

    Args:
        checkpoint: URL of a checkpoint's directory.
        data: URL of a data set of the checkpoint's axis and vocabulary, or of one that extends it: see
            `evaluation.earlier_columns.EarlierColumns` for the columns that the model has not.
        fold: "train", "validation" or "test".
        metrics: names of the metrics to judge by, such as "rmse" and "ndcg@100"; see `evaluation.metrics.METRICS`.
        worker: what the steps that run a model ask for.

    Returns:
        A PCollection of one dictionary: what `evaluation.comparison.compare` returns.

    Raises:
        InputError: there is no such metric, or it is one of lists and the fold is "train".
    """

    def __init__(
        self,
        checkpoint: str,
        data: str,
        fold: str,
        metrics: Sequence[str] = ("rmse", "mae"),
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        self._worker = worker
        self._checkpoint, self._data, self._fold = checkpoint, data, fold
        self._metrics = parse_metrics(metrics)
        check_metrics(self._metrics, fold)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        shards = begin | ListShards(self._data)
        judge = _JudgeShard(
            CheckpointHandle(self._checkpoint, self._worker.device),
            Manifest.read(self._data).num_columns,
            FOLDS.index(self._fold),
            self._metrics,
        )
        judged = unpacked(shards | "Judge" >> judging(self._worker.runs(judge)))
        return (*judged, shards) | _BesideBaselines(self._data, self._fold, self._metrics)


class _BesideBaselines(beam.PTransform):
    """Takes the `Judged` of a model, and the shards that it is judged on, to one report of it and the baselines."""

    def __init__(self, data: str, fold: str, metrics: tuple[Metric, ...]) -> None:
        super().__init__()
        self._data, self._fold, self._metrics = data, fold, metrics

    def expand(self, found: Sequence[beam.PCollection]) -> beam.PCollection[dict[str, Any]]:
        *model, shards = found
        baselines = shards | "Baselines" >> JudgeBaselines(self._data, FOLDS.index(self._fold), self._metrics)
        num_columns = Manifest.read(self._data).num_columns
        return (*model, *baselines) | "Compare" >> CompareJudged(self._metrics, self._fold, num_columns)
