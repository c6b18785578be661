"""TrainGrid: trains independent runs side by side, and compares them."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from nnsparse_stream.storage.json_types import typed
from nnsparse_stream.training.progress import Told
from nnsparse_stream.transforms.model_worker import ModelWorker

if TYPE_CHECKING:
    from nnsparse_stream.grids.grid_comparison import Member

_LOGGER = logging.getLogger(__name__)

# A process trains one run at a time, however many bundles its threads are given: torch's threads, and the memory of one
# run, are there once.
_training = threading.Lock()


class _Begin(beam.DoFn):
    """Marks the grid's directory, and names the runs."""

    def __init__(self, output: str, resume: bool, overwrite: bool, job: str, names: list[str]) -> None:
        self._output, self._resume, self._overwrite, self._job = output, resume, overwrite, job
        self._names = names

    def process(self, _: str) -> Iterator[str]:
        from nnsparse_stream.grids.grid_members import grid_directory

        directory = grid_directory(self._output, resume=self._resume, overwrite=self._overwrite, job=self._job)
        directory.begin(resume=self._resume)
        yield from self._names


class _Train(beam.DoFn):
    """Trains runs by name; gives what became of each as JSON."""

    def __init__(self, members: Sequence[Member], resume: bool, job: str) -> None:
        self._members = {member.run.name: member for member in members}
        self._resume, self._job = resume, job

    def process(self, name: str) -> Iterator[bytes]:
        from nnsparse_stream.grids.grid_members import train_member

        progress = Told(lambda line: _LOGGER.info("%s: %s", name, line))
        with _training:
            outcome = train_member(self._members[name], resume=self._resume, progress=progress, job=self._job)
        assert outcome is not None  # nobody stops it
        yield json.dumps(asdict(outcome), sort_keys=True).encode()


def _finish(_: str, outcomes: Iterable[bytes], output: str, members: Sequence[Member], job: str) -> dict[str, Any]:
    from nnsparse_stream.grids.grid_comparison import Outcome
    from nnsparse_stream.grids.grid_members import finish, grid_directory

    directory = grid_directory(output, resume=True, overwrite=False, job=job)
    return finish(directory, members, [typed(Outcome, json.loads(outcome)) for outcome in outcomes], job)


class TrainGrid(beam.PTransform):
    """Trains the runs of a grid, each in `runs/NAME` of an output: the root of a pipeline, or of a branch of one.

    A worker trains one run at a time, and as many run side by side as there are workers. A run that fails by its
    settings or its size fails alone. Where an engine makes work again, each run goes on from its last checkpoint, as
    that of `TrainAutoencoder` does, and one that has ended stays. At the end `table.csv`, `report.html` and, last,
    `grid.json` are written.

    Args:
        members: the runs, and what they ask for; the outputs of their requests are
            `nnsparse_stream.grids.grid_members.run_url`s.
        output: URL of the grid's directory.
        resume: keep the runs that have ended, and go on with the others.
        overwrite: replace an earlier grid.
        worker: the hints of the step that trains; its device is the requests'.

    Returns:
        A PCollection of one dictionary: what `grid.json` holds.

    Raises:
        InputError: when the pipeline is built: the output holds something else, or a grid, and neither `resume` nor
            `overwrite` says what to do with it.
    """

    def __init__(
        self,
        members: Sequence[Member],
        output: str,
        *,
        resume: bool = False,
        overwrite: bool = False,
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        self._members, self._output, self._worker = list(members), output, worker
        self._resume, self._overwrite = resume, overwrite

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        from nnsparse_stream.grids.grid_members import grid_directory

        grid_directory(self._output, resume=self._resume, overwrite=self._overwrite)
        job = uuid.uuid4().hex
        names = [member.run.name for member in self._members]
        outcomes = (
            begin
            | beam.Create([self._output], reshuffle=False)
            | beam.ParDo(_Begin(self._output, self._resume, self._overwrite, job, names)).with_output_types(str)
            | beam.Reshuffle()
            | "Train" >> self._worker.runs(_Train(self._members, self._resume, job)).with_output_types(bytes)
        )
        return (
            begin
            | "Grid" >> beam.Create([self._output], reshuffle=False)
            | "Finish" >> beam.Map(_finish, beam.pvalue.AsList(outcomes), self._output, self._members, job)
        )
