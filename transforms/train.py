"""TrainAutoencoder: trains a model on a data set, by one worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam

if TYPE_CHECKING:
    from nnsparse_stream.training.run import TrainingRequest


class _Train(beam.DoFn):
    def process(self, request: TrainingRequest) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.training.start import train

        yield train(request)


class TrainAutoencoder(beam.PTransform):
    """Trains one model: the root of a pipeline, or of a branch of one.

    The run's directory receives the checkpoints, `metrics.jsonl` and, last, `run.json`.

    Args:
        request: data set, output, recipe, seed, device; see `nnsparse_stream.training.run.TrainingRequest`.

    Returns:
        A PCollection of one dictionary: what `run.json` holds.

    Hazard: a runner that retries a failed bundle repeats the run from its start, unless the request says `resume`.
    """

    def __init__(self, request: TrainingRequest) -> None:
        super().__init__()
        self._request = request

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        return begin | beam.Create([self._request], reshuffle=False) | beam.ParDo(_Train())
