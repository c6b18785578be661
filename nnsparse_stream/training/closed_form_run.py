"""A training run by one solution: sums over all rows, and the model that follows from them."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import torch

from nnsparse_stream.checkpoints.checkpoint import Checkpoint
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.survey import Survey
from nnsparse_stream.objectives.objective import ClosedForm
from nnsparse_stream.objectives.objectives import objective_of
from nnsparse_stream.objectives.recipe import Recipe
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.storage.output_directory import OutputDirectory
from nnsparse_stream.training.progress import Progress
from nnsparse_stream.training.run import Run, TrainingRequest

#: Gives the sums over all rows; None where the run is to end before they are there.
SummedUp = Callable[[], ClosedForm | None]


def closed_form_of(recipe: Recipe) -> type[ClosedForm]:
    """The class of a recipe's objective, which is one of a closed form."""
    objective = objective_of(recipe)
    assert issubclass(objective, ClosedForm)
    return objective


def training_rows(batches: Iterable[pa.RecordBatch], num_columns: int) -> Iterator[SparseRows]:
    """The training entries of batches of a shard."""
    for batch in batches:
        yield fold_rows(batch, (0,), num_columns)


class ClosedFormRun(Run):
    """A run of a `ClosedForm`: one epoch of one step, whatever the number of rows.

    A run that was killed, or stopped before its solution, begins anew when it is resumed.
    """

    def __init__(
        self,
        request: TrainingRequest,
        checkpoint: Checkpoint,
        dataset: Dataset,
        found: Survey,
        device: torch.device,
        progress: Progress,
        stop: Callable[[], bool],
        summed_up: SummedUp | None = None,
    ) -> None:
        """Takes up a run; see `Run`.

        Args:
            request, checkpoint, dataset, found, device, progress, stop: as there.
            summed_up: gives the sums over all rows, where somebody else has added them up.
        """
        super().__init__(request, checkpoint, dataset, found, device, progress, stop)
        self._summed_up = summed_up or self._sum_up
        self._sums = None if summed_up or self.is_over() else self._counted()

    def _train(self, directory: OutputDirectory) -> None:
        state, entries = self.checkpoint.state, self.dataset.manifest.fold_entries["train"]
        if self.is_over():
            return
        self.progress.epoch_begun(1, 0, entries)
        started = time.perf_counter()
        sums = self._summed_up()
        if sums is None:
            return
        model, figures = sums.solve(self.device)
        self._sums = sums = None  # a matrix as large as the model
        self.checkpoint.model = model.to(self.device)
        state["step"] = 1
        state["sums"] |= {"entries": entries, "seconds": time.perf_counter() - started}
        self._keep(directory, self._judge(None, 0.0, figures, 1.0))

    def _counted(self) -> ClosedForm:
        """Room for the sums; the memory is checked before anything of an earlier run is removed."""
        recipe, objective = self.request.recipe, closed_form_of(self.request.recipe)
        return objective(
            recipe, functools.reduce(operator.add, (objective.count(recipe, rows) for rows in self._rows()))
        )

    def _sum_up(self) -> ClosedForm | None:
        """The sums over all rows, added up here; None where the run is to end before."""
        assert self._sums is not None
        told: dict[str, Any] = {"entries": 0, "rows": 0, "batches": 0, "waited": 0.0}
        started = time.perf_counter()
        for rows in self._rows():
            if self.stop():
                return None
            self._sums.add(rows)
            for name, value in (("entries", rows.num_entries), ("rows", rows.num_rows), ("batches", 1)):
                told[name] += value
            told["seconds"] = time.perf_counter() - started
            self.progress.batch_trained(told, lambda: {"fill": 1.0})
        return None if self.stop() else self._sums

    def _rows(self) -> Iterator[SparseRows]:
        """All training entries, in the order of the data set."""
        for shard, entry in enumerate(self.dataset.shards):
            batches = (self.shards.read(shard, group) for group in range(len(entry.row_groups)))
            yield from training_rows(batches, self.dataset.manifest.num_columns)

    def _diverged(self, epoch: int) -> InputError:
        return InputError("the solution is not finite; raise `l2`")
