"""PredictFold: what several models predict for the ratings of one fold, brought together by the first one's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.ratings.folds import FOLDS
from nnsparse_stream.transforms.list_shards import ListShards, with_position
from nnsparse_stream.transforms.model_cache import CheckpointHandle
from nnsparse_stream.transforms.model_worker import ModelWorker


class PredictFold(beam.PTransform):
    """Predictions of one fold's ratings by several models, of either axis: the root of a pipeline, or of a branch.

    Each model sees the training ratings of a row.

    Args:
        checkpoints: URLs of checkpoints' directories.
        data: URLs of their data sets, in the same order.
        fold: "train", "validation" or "test".
        axis: the axis of the first model's rows.
        worker: what the steps that run a model ask for.

    Returns:
        A PCollection of (part, blocks as `predict_fold` makes them): in as many parts as the data set of the most
        shards has, all predictions for some rows of the first model.
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        data: Sequence[str],
        fold: str,
        axis: str,
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        self._worker = worker
        self._checkpoints, self._data, self._fold, self._axis = checkpoints, data, fold, axis

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]:
        """Applies the transform to the pipeline."""
        predict = _PredictShard(
            [CheckpointHandle(url, self._worker.device) for url in self._checkpoints],
            self._fold,
            self._axis,
            max(len(Dataset(url).shards) for url in self._data),
        )
        shards = {at: begin | f"Shards of model {at}" >> ListShards(url) for at, url in enumerate(self._data)}
        return (
            with_position(shards)
            | "Predict" >> self._worker.runs(predict).with_output_types(tuple[int, pa.RecordBatch])
            | "By row" >> beam.GroupByKey()
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
