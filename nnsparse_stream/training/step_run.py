"""A training run by minibatches: steps, epochs, and checkpoints in between."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from nnsparse_stream.checkpoints.checkpoint import Checkpoint
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.fold_cache import cached_bytes, choose_cache
from nnsparse_stream.feeding.order import Cursor
from nnsparse_stream.feeding.stream import Minibatch, TrainingStream
from nnsparse_stream.feeding.survey import Survey
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.nn.optimisers import RowOptimizer
from nnsparse_stream.objectives.objective import StepObjective
from nnsparse_stream.objectives.objectives import objective_of
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.storage.output_directory import OutputDirectory
from nnsparse_stream.training.progress import Progress
from nnsparse_stream.training.run import Run, TrainingRequest
from nnsparse_stream.training.step_sums import READ_STEPS, StepSums, diverged
from nnsparse_stream.training.steps import Trainer


class StepRun(Run):
    """A run of a `StepObjective`."""

    def __init__(
        self,
        request: TrainingRequest,
        checkpoint: Checkpoint,
        dataset: Dataset,
        found: Survey,
        device: torch.device,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        """Takes up a run at a checkpoint; see `Run`."""
        super().__init__(request, checkpoint, dataset, found, device, progress, stop)
        recipe, objective = request.recipe, objective_of(request.recipe)
        assert isinstance(recipe, StepRecipe)
        assert issubclass(objective, StepObjective)
        self.recipe, self.objective = recipe, objective
        layer = recipe.stage(checkpoint.state["epoch"] + 1).layer
        self.trainer = Trainer(checkpoint, recipe, request.seed, device, layer)
        batchifier = Batchifier(recipe.batch_rows, recipe.batch_entries)
        size = cached_bytes(dataset.manifest)
        cache, told = choose_cache(request.cache, size, device, self.trainer.optimizer.missing_state_bytes())
        progress.cache_chosen(size, told)
        self.stream = TrainingStream(dataset, request.seed, batchifier, device, cache)
        self.shards = self.stream.shards
        self._sums = StepSums(checkpoint.state["sums"], device)

    @property
    def optimizer(self) -> RowOptimizer:
        """What updates the model."""
        return self.trainer.optimizer

    def _train(self, directory: OutputDirectory) -> None:
        state, recipe = self.checkpoint.state, self.recipe
        minibatches = self.stream.epochs(state["epoch"] + 1, recipe.all_epochs, Cursor(*state["cursor"]))
        with contextlib.closing(minibatches):
            while not self.is_over() and not self.stop() and self._train_epoch(state["epoch"] + 1, minibatches):
                figures = self._told()
                fill = figures.pop("fill")
                layer = recipe.stage(state["epoch"] + 1).layer
                metrics = self._judge(layer, state["sums"]["learning_rate"], figures, fill)
                self.trainer.begin(recipe.stage(state["epoch"] + 1).layer)
                self._keep(directory, metrics)

    def _train_epoch(self, epoch: int, minibatches: Iterator[Minibatch | None]) -> bool:
        """Trains on the minibatches up to the epoch's end; False where the run has to end before."""
        state, recipe = self.checkpoint.state, self.recipe
        sums, stage = state["sums"], recipe.stage(epoch)
        total = self.dataset.manifest.fold_entries["train"]
        waited_before, seconds_before = sums["waited"] - self.stream.waited, sums["seconds"]
        started = time.perf_counter()
        self._sums = StepSums(sums, self.device)
        self.progress.epoch_begun(epoch, sums["entries"], total)
        for minibatch in iter(minibatches.__next__, None):
            if self.stop() or self.is_over():
                return False
            rows = minibatch.rows
            progress = (stage.epoch - 1 + sums["entries"] / total) / stage.epochs
            learning_rate = recipe.learning_rate_at(stage.epoch, progress)
            terms = self.trainer.train_batch(rows, learning_rate, progress)
            state["step"] += 1
            state["cursor"] = list(minibatch.after)
            sums["learning_rate"] = learning_rate
            self._sums.add(rows, terms)
            sums["seconds"] = seconds_before + time.perf_counter() - started
            sums["waited"] = waited_before + self.stream.waited
            self.progress.batch_trained(sums, self._told)
            if state["step"] % READ_STEPS == 0:
                self._read()
            if self._is_due():
                self._save()
        self._read()
        sums["seconds"] = seconds_before + time.perf_counter() - started
        return True

    def _read(self) -> None:
        """Reads the sums of the steps so far from the device.

        Raises:
            InputError: they are not finite.
        """
        if not self._sums.read():
            raise self._diverged(self.checkpoint.state["epoch"] + 1)

    def _save(self) -> None:
        self._read()
        super()._save()

    def _told(self) -> dict[str, float]:
        """What is told of the epoch so far."""
        self._read()
        sums = self.checkpoint.state["sums"]
        fill = sums["rows"] / sums["batches"] / self.recipe.batch_rows
        return {**self.objective.figures(self.recipe, sums), "fill": fill}

    def _diverged(self, epoch: int) -> InputError:
        return diverged(self.dataset, self.recipe, epoch, self.trainer.learning_rate)

    def _is_due(self) -> bool:
        steps, minutes = self.request.checkpoint_steps, self.request.checkpoint_minutes
        if steps is not None and self.checkpoint.state["step"] % steps == 0:
            return True
        return minutes is not None and time.monotonic() - self._saved_at >= minutes * 60
