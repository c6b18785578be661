"""A training run that goes on, whatever it trains: validation, metrics, checkpoints, and when to end."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nnsparse_stream.checkpoints.checkpoint import Checkpoint, remove_checkpoint, save_checkpoint
from nnsparse_stream.checkpoints.state import checkpoints_of, remains_of, step_directory
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.shard_reader import ShardReader
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.judging import judge_batch
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import Metric, metrics_of_model
from nnsparse_stream.feeding.fold_cache import PLACES
from nnsparse_stream.feeding.order import Cursor
from nnsparse_stream.feeding.survey import Survey
from nnsparse_stream.nn.optimisers import RowOptimizer
from nnsparse_stream.objectives.objectives import objective_of
from nnsparse_stream.objectives.recipe import Recipe, StepRecipe
from nnsparse_stream.objectives.worker_recipe import DEFAULT_ROUNDS
from nnsparse_stream.storage.output_directory import OutputDirectory
from nnsparse_stream.training.progress import Progress, peak_memory
from nnsparse_stream.training.tensorboard import EVENTS_FILE, events


@dataclass(frozen=True)
class TrainingRequest:
    """One training run.

    Attributes:
        data: URL of the data set.
        output: URL of the run's directory.
        recipe: what to train, and how.
        preset: the name of the preset that the recipe was made of, for run.json.
        grow: where a new run's device is a GPU, take the recipe as `nnsparse_stream.objectives.growth.grown` makes it
            of the data set; a run that goes on keeps its own, whatever the device.
        seed: decides initial weights, order and corruption.
        device: "auto", "cpu", "cuda" or "cuda:N"; see `nnsparse_stream.nn.devices.pick_device`.
        cache: where the training fold stays after the first epoch, one of `nnsparse_stream.feeding.fold_cache.PLACES`;
            what fits where None.
        threads: threads of torch on the CPU; its own choice where None.
        max_steps: end after so many minibatches, if the recipe's epochs have not ended before.
        validation_metric: the metric of the validation fold by which an epoch is the best, `ndcg@100` for instance; the
            first of the objective's metrics where None.
        patience: end when that has not improved for so many epochs; the run's model is then the best epoch's and not
            the last one's.
        checkpoint_steps: write a checkpoint after every so many minibatches, beside those after each epoch.
        checkpoint_minutes: write one when so many minutes have passed since the last.
        keep_checkpoints: how many of the latest to keep, beside the best.
        workers: how many train side by side, in rounds; see `nnsparse_stream.rounds.rounds`.
        rounds: rounds of an epoch; 4 where None, and there are several workers.
        init: URL of an earlier model, a run's directory or a checkpoint's, from which a new run begins; see
            `nnsparse_stream.training.warm_start`.
        warm: where there is one, take the recipe as `nnsparse_stream.objectives.warm_recipe` makes it of how much the
            log has grown; the state of the optimiser may begin anew then.
        resume: go on from the last checkpoint in `output`.
        overwrite: replace an earlier run in `output`.
        tensorboard: write the metrics as events for TensorBoard, too.
    """

    data: str
    output: str
    recipe: Recipe
    preset: str | None = None
    grow: bool = False
    seed: int = 0
    device: str = "auto"
    cache: str | None = None
    threads: int | None = None
    max_steps: int | None = None
    validation_metric: str | None = None
    patience: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_minutes: float | None = None
    keep_checkpoints: int = 2
    workers: int = 1
    rounds: int | None = None
    init: str | None = None
    warm: bool = False
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.cache is not None and self.cache not in PLACES:
            raise InputError(f"`cache` is one of {', '.join(PLACES)}, not {self.cache}")
        in_steps: dict[str, Any] = {"steps": self.max_steps, "checkpoint_steps": self.checkpoint_steps,
                    "checkpoint_minutes": self.checkpoint_minutes}  # fmt: skip
        if self.init is not None:
            self._check_init()
        if not isinstance(self.recipe, StepRecipe):
            why = f"the objective {self.recipe.objective} has no steps but one"
            refused = {**in_steps, "patience": self.patience, "cache": self.cache, "rounds": self.rounds,
                       "workers": None if self.workers == 1 else self.workers}  # fmt: skip
        elif self.in_rounds:
            why, refused = "a run in rounds ends with an epoch, and has a checkpoint after each round", in_steps
        else:
            return
        for name, value in refused.items():
            if value is not None:
                raise InputError(f"{why}: leave out `{name}`")

    def _check_init(self) -> None:
        """Refuses a recipe that cannot begin from an earlier model."""
        if not isinstance(self.recipe, StepRecipe):
            raise InputError(
                f"the objective {self.recipe.objective} solves for its weights anew, whatever they were before: leave "
                "out `init`"
            )
        if self.recipe.stage(1).layer is not None:
            raise InputError(
                "`init` gives layers that are trained already, and training each alone would undo that: set "
                "`pretrain_epochs` to 0"
            )

    @property
    def in_rounds(self) -> bool:
        """Whether the run goes on in rounds, by one worker or several."""
        return self.workers > 1 or self.rounds is not None

    @property
    def rounds_of_epoch(self) -> int | None:
        """The rounds of an epoch; None where the run does not go on in rounds."""
        if not self.in_rounds:
            return None
        return self.rounds or DEFAULT_ROUNDS

    def metrics(self) -> tuple[Metric, ...]:
        """What the validation fold is judged by: the one that decides first, and the objective's.

        Raises:
            InputError: there is no such metric as `validation_metric`, or the model cannot be judged by it.
        """
        usual = objective_of(self.recipe).metrics
        return metrics_of_model([self.validation_metric or usual[0], *usual], usual)

    def check_data(self, manifest: Manifest) -> None:
        """Refuses a data set that the run cannot be made with.

        Args:
            manifest: that of `data`.

        Raises:
            InputError: that is so.
        """
        if not manifest.fold_entries["train"]:
            raise InputError(f"{self.data} has no rating in its training fold; prepare it with other `folds`")
        self.recipe.check_feedback(manifest.feedback, self.data)
        for name in ("patience", "validation_metric"):
            if getattr(self, name) is not None and not manifest.fold_entries["validation"]:
                raise InputError(
                    f"`{name}` needs a validation fold, and {self.data} has none; prepare it with other `folds`"
                )


def no_sums() -> dict[str, Any]:
    """The sums of an epoch before its first minibatch."""
    return {"entries": 0, "rows": 0, "batches": 0, "terms": {}, "learning_rate": 0.0, "seconds": 0.0, "waited": 0.0}


def is_over(request: TrainingRequest, state: dict[str, Any]) -> bool:
    """Whether all is trained that was asked for: epochs, steps, or as long as patience lasts."""
    waited = state["epoch"] - state["best"]["epoch"] if state["best"] else 0
    return (
        state["epoch"] >= request.recipe.all_epochs
        or (request.max_steps is not None and state["step"] >= request.max_steps)
        or (request.patience is not None and waited >= request.patience)
    )


def end_epoch(
    state: dict[str, Any],
    decides: Metric,
    layer: int | None,
    learning_rate: float,
    train: dict[str, float],
    validation: dict[str, float] | None,
    fill: float,
) -> dict[str, Any]:
    """Ends an epoch in a checkpoint's state: adds its metrics to the history, and returns them.

    Args:
        state: is changed.
        decides: the metric by which an epoch is the best.
        layer: the layer that was trained alone.
        learning_rate: of the last step.
        train: what the objective tells of the epoch.
        validation: the metrics of the validation fold, where there is one.
        fill: rows of a minibatch by those that it may have.
    """
    sums, epoch = state["sums"], state["epoch"] + 1
    metrics = {
        "epoch": epoch,
        "step": state["step"],
        "time": round(time.time(), 3),
        "layer": layer,
        "learning_rate": learning_rate,
        "train": train,
        "validation": validation,
        "ratings": sums["entries"],
        "seconds": round(sums["seconds"], 3),
        "ratings_per_second": round(sums["entries"] / max(sums["seconds"], 1e-9)),
        "batch_fill": fill,
        "waiting_for_data": sums["waited"] / max(sums["seconds"], 1e-9),
        "peak_memory_bytes": peak_memory(),
    }
    state["history"].append(metrics)
    if validation:
        value = validation[decides.name]
        if state["best"] is None or decides.is_better(value, state["best"]["value"]):
            state["best"] = {"epoch": epoch, "step": state["step"], "metric": decides.name, "value": value}
    state["epoch"], state["cursor"], state["sums"] = epoch, list(Cursor()), no_sums()
    return metrics


def write_metrics(directory: OutputDirectory, request: TrainingRequest, history: list[dict[str, Any]]) -> None:
    """Writes the metrics of each epoch so far: as lines of JSON, and as events where that is asked for."""
    lines = "".join(json.dumps(line) + "\n" for line in history)
    directory.write("metrics.jsonl", lines.encode())
    if request.tensorboard:
        directory.write(EVENTS_FILE, events(history))


def remove_old_checkpoints(request: TrainingRequest, state: dict[str, Any]) -> None:
    """Removes the checkpoints that are not to be kept, and what a kill has left of some."""
    best = state["best"] and step_directory(request.output, state["best"]["step"])
    old = checkpoints_of(request.output)[: -request.keep_checkpoints]
    for url in [*remains_of(request.output, state["step"]), *old]:
        if url != best:
            remove_checkpoint(url)


class Run(ABC):
    """A run that goes on: epochs, checkpoints, and when to end. A subclass trains.

    Attributes:
        shards: what reads the data set.
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
    ) -> None:
        """Takes up a run at a checkpoint.

        Args:
            request: the run.
            checkpoint: the model, which is moved to the device, and what has been done.
            dataset: the data set.
            found: what a pass over it found.
            device: where to compute.
            progress: is told what has been done.
            stop: asked between steps whether to write a checkpoint and end.
        """
        self.request, self.checkpoint, self.dataset = request, checkpoint, dataset
        self.device, self.progress, self.stop = device, progress, stop
        self.shards = ShardReader(dataset)
        self._validated, self._metrics = found.validated, request.metrics()
        self._saved_at = time.monotonic()
        self._saved_step = checkpoint.state["step"] or None  # what has done a step was read from storage

    def go(self, directory: OutputDirectory) -> None:
        """Trains until the run is over, or is stopped."""
        write_metrics(
            directory, self.request, self.checkpoint.state["history"]
        )  # what a kill between a checkpoint and its metrics left out
        self._train(directory)
        if self._saved_step != self.checkpoint.state["step"]:
            self._save()

    @property
    def optimizer(self) -> RowOptimizer | None:
        """What updates the model, where something does."""
        return None

    @abstractmethod
    def _train(self, directory: OutputDirectory) -> None:
        """Trains until the run is over, or is stopped; ends each epoch by `_judge` and `_keep`."""

    @abstractmethod
    def _diverged(self, epoch: int) -> InputError:
        """What is to be said where an epoch's figures, or its weights, are not finite."""

    def is_over(self) -> bool:
        """Whether all is trained that was asked for."""
        return is_over(self.request, self.checkpoint.state)

    def _judge(self, layer: int | None, learning_rate: float, train: dict[str, float], fill: float) -> dict[str, Any]:
        """Ends an epoch: judges the model, adds the epoch's metrics to the history, and returns them.

        Args:
            layer: the layer that was trained alone.
            learning_rate: of the last step.
            train: what the objective tells of the epoch.
            fill: rows of a minibatch by those that it may have.
        """
        state = self.checkpoint.state
        weights = self.checkpoint.model.parameters()
        if not all(map(math.isfinite, train.values())) or not all(bool(held.isfinite().all()) for held in weights):
            raise self._diverged(state["epoch"] + 1)
        validation = self._validate() if layer is None else None
        if validation and not all(map(math.isfinite, validation.values())):
            raise self._diverged(state["epoch"] + 1)
        return end_epoch(state, self._metrics[0], layer, learning_rate, train, validation, fill)

    def _keep(self, directory: OutputDirectory, metrics: dict[str, Any]) -> None:
        """Writes an epoch's checkpoint and metrics, and tells of it."""
        self._save()
        write_metrics(directory, self.request, self.checkpoint.state["history"])
        self.progress.epoch_ended(metrics, self.request.recipe.all_epochs)

    def _validate(self) -> dict[str, float] | None:
        """The metrics of the validation fold; None where the data set has none."""
        if not self.dataset.manifest.fold_entries["validation"]:
            return None
        sums = MetricSums.of(self._metrics, self.dataset.manifest.num_columns)
        for place in self._validated:
            sums += judge_batch(self.checkpoint.model, self.shards.read(*place), 1, self._metrics)
        return sums.values()

    def _save(self) -> None:
        """Writes a checkpoint, and removes those that are not to be kept."""
        state, output = self.checkpoint.state, self.request.output
        save_checkpoint(step_directory(output, state["step"]), self.checkpoint, self.optimizer)
        self._saved_at, self._saved_step = time.monotonic(), state["step"]
        remove_old_checkpoints(self.request, state)
