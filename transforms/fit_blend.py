"""FitBlend: how several models' predictions are best combined, by the ratings of the validation fold."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.transforms.model_worker import ModelWorker
from nnsparse_stream.transforms.predict_fold import PredictFold

if TYPE_CHECKING:
    from nnsparse_stream.scoring.combination import PredictionMoments


class FitBlend(beam.PTransform):
    """Sums up what several models predict for the validation fold: the root of a pipeline, or of a branch of one.

    The models may be of either axis; their data sets hold the same ratings in that fold.

    Args:
        checkpoints: URLs of checkpoints' directories.
        data: URLs of their data sets, in the same order.
        axis: the axis of the first model's rows.
        worker: what the steps that run a model ask for.

    Returns:
        A PCollection of one `PredictionMoments`, whose `fit` is the combination.

    Raises:
        InputError: in a worker, where the data sets hold other ratings in the fold.
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        data: Sequence[str],
        axis: str,
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        self._predict = PredictFold(checkpoints, data, "validation", axis, worker)
        self._models = len(checkpoints)
        self._origin = Manifest.read(data[0]).ratings["mean"] or 0.0

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[PredictionMoments]:
        """Applies the transform to the pipeline."""
        return (
            begin
            | self._predict
            | "Moments" >> beam.Map(_moments, self._models, self._origin)
            | "Of all" >> beam.combiners.ToList()
            | "Add" >> beam.Map(_sum, self._models, self._origin)
        )


def _moments(keyed: tuple[int, Iterable[pa.RecordBatch]], models: int, origin: float) -> tuple[int, PredictionMoments]:
    from nnsparse_stream.scoring.blending import blend_moments

    part, blocks = keyed
    return part, blend_moments(list(blocks), models, origin)


def _sum(parts: Iterable[tuple[int, PredictionMoments]], models: int, origin: float) -> PredictionMoments:
    """Adds up in the order of the parts, since a float sum depends on it."""
    from nnsparse_stream.scoring.combination import PredictionMoments

    total = PredictionMoments(models, origin)
    for _, moments in sorted(parts, key=operator.itemgetter(0)):
        total += moments
    return total
