"""TrainAutoencoder: trains a model on a data set."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.storage import files as storage
from nnsparse_stream.training.progress import Told
from nnsparse_stream.transforms.closed_form import SUMS, AddUp, Count, empty_sums, read_sums
from nnsparse_stream.transforms.list_shards import ListShards
from nnsparse_stream.transforms.model_worker import ModelWorker
from nnsparse_stream.transforms.train_rounds import TrainRounds

if TYPE_CHECKING:
    from nnsparse_stream.objectives.objective import ClosedForm
    from nnsparse_stream.training.run import TrainingRequest

_LOGGER = logging.getLogger(__name__)


class _Train(beam.DoFn):
    def __init__(self, job: str) -> None:
        self._job = job

    def process(self, request: TrainingRequest) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.training.start import train

        yield train(request, progress=Told(_LOGGER.info), job=self._job)


class _Begin(beam.DoFn):
    """Marks a run's directory, before anything is written there, if the sums will not take too much memory."""

    def __init__(self, job: str) -> None:
        self._job = job

    def process(self, request: TrainingRequest, counts: pa.RecordBatch) -> Iterator[TrainingRequest]:
        from nnsparse_stream.training.start import run_directory

        empty_sums(request.recipe, counts)
        run_directory(request, self._job).begin(resume=request.resume)
        yield request


class _Solve(beam.DoFn):
    """Trains a model of a closed form whose sums other workers have made."""

    def __init__(self, job: str) -> None:
        self._job = job

    def process(
        self, request: TrainingRequest, counts: pa.RecordBatch, parts: list[tuple[int, str]]
    ) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.training.start import train

        def summed_up() -> ClosedForm:
            return read_sums(request.recipe, counts, parts)

        yield train(request, progress=Told(_LOGGER.info), job=self._job, summed_up=summed_up)


class TrainAutoencoder(beam.PTransform):
    """Trains one model: the root of a pipeline, or of a branch of one.

    One worker trains, or in rounds as many as the request says (`TrainRounds`). Where the objective is of a closed form
    (`linear`), all workers add up what its solution needs, to files in `_sums/` of the run's directory, which are
    removed when it is solved.

    The run's directory receives the checkpoints, `metrics.jsonl` and, last, `run.json`. The worker logs the
    recipe that is used and a line an epoch (logger `nnsparse_stream.transforms.train`, level INFO).

    Where an engine makes the work again, because a worker died for instance, it goes on from the last checkpoint. What
    makes it the same run is a name that is drawn when the transform is applied: a pipeline that is built once and run
    twice takes up what its first run has left.

    Args:
        request: data set, output, recipe, seed, device; see `nnsparse_stream.training.run.TrainingRequest`.
        worker: the hints of the step that trains or solves; its device is the request's.

    Returns:
        A PCollection of one dictionary: what `run.json` holds.

    Raises:
        InputError: when the pipeline is built: the output holds something else, or a run, and neither `resume` nor
            `overwrite` says what to do with it; in a worker: what `nnsparse_stream.training.start.train` raises.
    """

    def __init__(self, request: TrainingRequest, worker: ModelWorker = ModelWorker()) -> None:  # noqa: B008 (immutable)
        super().__init__()
        self._request, self._worker = request, worker

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        from nnsparse_stream.objectives.objective import ClosedForm
        from nnsparse_stream.objectives.objectives import objective_of
        from nnsparse_stream.rounds.rounds import rounds_left
        from nnsparse_stream.training.start import run_directory

        run_directory(self._request)
        job = uuid.uuid4().hex
        if self._request.in_rounds:
            return begin | TrainRounds(self._request, self._worker, job, rounds_left(self._request))
        requests = begin | beam.Create([self._request], reshuffle=False)
        if not issubclass(objective_of(self._request.recipe), ClosedForm):
            return requests | self._worker.runs(_Train(job))
        shards = begin | ListShards(self._request.data)
        num_columns = Manifest.read(self._request.data).num_columns
        counts = beam.pvalue.AsSingleton(shards | Count(self._request.recipe, num_columns))
        begun = requests | "Begin" >> beam.ParDo(_Begin(job), counts)
        folder = storage.join(self._request.output, SUMS)
        parts = shards | AddUp(self._request.recipe, num_columns, counts, beam.pvalue.AsSingleton(begun), folder)
        return begun | "Solve" >> self._worker.runs(_Solve(job), counts, beam.pvalue.AsList(parts))
