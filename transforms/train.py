"""TrainAutoencoder: trains a model on a data set, by one worker."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from nnsparse_stream.training.progress import Progress, epoch_line

if TYPE_CHECKING:
    from nnsparse_stream.training.run import TrainingRequest

_LOGGER = logging.getLogger(__name__)


class _Logged(Progress):
    """A line an epoch in the worker's log."""

    def epoch_ended(self, metrics: dict[str, Any], epochs: int) -> None:
        _LOGGER.info(epoch_line(metrics, epochs))


class _Train(beam.DoFn):
    def __init__(self, job: str) -> None:
        self._job = job

    def process(self, request: TrainingRequest) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.training.start import train

        yield train(request, progress=_Logged(), job=self._job)


class TrainAutoencoder(beam.PTransform):
    """Trains one model: the root of a pipeline, or of a branch of one.

    The run's directory receives the checkpoints, `metrics.jsonl` and, last, `run.json`. The worker logs a line an epoch
    (logger `nnsparse_stream.transforms.train`, level INFO).

    Where an engine makes the work again, because a worker died for instance, it goes on from the last checkpoint. What
    makes it the same run is a name that is drawn when the transform is applied: a pipeline that is built once and run
    twice takes up what its first run has left.

    Args:
        request: data set, output, recipe, seed, device; see `nnsparse_stream.training.run.TrainingRequest`.

    Returns:
        A PCollection of one dictionary: what `run.json` holds.

    Raises:
        InputError: when the pipeline is built: the output holds something else, or a run, and neither `resume` nor
            `overwrite` says what to do with it; in a worker: what `nnsparse_stream.training.start.train` raises.
    """

    def __init__(self, request: TrainingRequest) -> None:
        super().__init__()
        self._request = request

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        from nnsparse_stream.training.start import run_directory

        run_directory(self._request)
        return begin | beam.Create([self._request], reshuffle=False) | beam.ParDo(_Train(uuid.uuid4().hex))
