"""Trains an autoencoder on a data set by one worker, with checkpoints from which a stopped or killed run goes on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from nnsparse_stream import storage
from nnsparse_stream.batchifier import Batchifier
from nnsparse_stream.checkpoint import (
    Checkpoint,
    checkpoints_of,
    load_model,
    save_checkpoint,
    step_directory,
)
from nnsparse_stream.dataset import Dataset, vocabulary_fingerprint
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation import ErrorSums, evaluate_batch
from nnsparse_stream.loader import Cursor, Minibatch, TrainingStream
from nnsparse_stream.model import ModelConfig, RatingAutoencoder
from nnsparse_stream.output import OutputDirectory
from nnsparse_stream.presets import Recipe
from nnsparse_stream.progress import epoch_line, peak_memory, progress_text, run_report
from nnsparse_stream.tensorboard import EVENTS_FILE, check_installed, events
from nnsparse_stream.trainer import Trainer, pick_device

#: Set it (from a signal handler, say) to make the run that goes on in this process write a checkpoint and end.
stop_requested = threading.Event()


@dataclass(frozen=True)
class TrainingRequest:
    """One training run.

    Attributes:
        data: URL of the data set.
        output: URL of the run's directory.
        recipe: what to train, and how.
        seed: decides initial weights, order and corruption.
        device: "auto", "cpu" or "cuda".
        threads: threads of torch on the CPU; its own choice where None.
        max_steps: end after so many minibatches, if the recipe's epochs have not ended before.
        patience: end when the validation RMSE has not improved for so many epochs; the run's model is then the best
            epoch's and not the last one's.
        checkpoint_steps: write a checkpoint after every so many minibatches, beside those after each epoch.
        checkpoint_minutes: write one when so many minutes have passed since the last.
        keep_checkpoints: how many of the latest to keep, beside the best by validation RMSE.
        resume: go on from the last checkpoint in `output`.
        overwrite: replace an earlier run in `output`.
        tensorboard: write the metrics as events for TensorBoard, too.
    """

    data: str
    output: str
    recipe: Recipe
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    max_steps: int | None = None
    patience: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_minutes: float | None = None
    keep_checkpoints: int = 2
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False


def run_directory(request: TrainingRequest) -> OutputDirectory:
    """The run's directory, checked: nothing has been written or removed yet.

    Raises:
        InputError: it holds something else, or a run, and neither `resume` nor `overwrite` says what to do with it.
    """
    directory = OutputDirectory(
        request.output,
        contents=("checkpoints/step-*", "metrics.jsonl", EVENTS_FILE, "report.html"),
        completing="run.json",
        overwrite=request.overwrite or request.resume,
    )
    directory.check()
    state = directory.state()
    if state == "unfinished" and not (request.resume or request.overwrite):
        raise InputError(f"{request.output} holds a run that did not finish; pass --resume to go on, or --overwrite")
    if request.resume and state == "empty":
        raise InputError(f"{request.output} holds no run to resume; train without --resume")
    return directory


def train(request: TrainingRequest) -> dict[str, Any]:
    """Trains a model from its start, or from its last checkpoint.

    The result is a pure function of (data set, recipe, seed) on one machine and number of threads: a run that is
    stopped or killed at any step and resumed ends with bit-equal weights and metrics.

    Returns:
        What run.json holds: recipe, seed, checkpoint (relative to the run), epochs, steps and the last metrics. Where
        the run was stopped by `stop_requested`, only {"stopped": True, "checkpoint", "epochs", "steps"}: run.json is
        not written, and the run can be resumed.

    Raises:
        InputError: the data set or the output cannot be used, the run to resume is another one, or it diverged.
    """
    if request.tensorboard:
        check_installed()
    # Rows of a large matrix are read at random, each from a page of its own: torch asks Linux for huge pages, where its
    # first large tensor is still to come.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    directory = run_directory(request)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    device = pick_device(request.device)
    dataset = Dataset(request.data)
    if not dataset.manifest.fold_entries["train"]:
        raise InputError(f"{request.data} has no rating in its training fold; prepare it with other --folds")
    if request.patience is not None and not dataset.manifest.fold_entries["validation"]:
        raise InputError(
            f"--patience needs a validation fold, and {request.data} has none; prepare it with other --folds"
        )
    # Before anything is removed: files may be missing or damaged.
    dataset.check_files()
    dataset.vocabulary()
    checkpoint = _resumed(request, dataset) if request.resume else None
    if checkpoint and directory.state() == "complete" and checkpoint.state["epoch"] == request.recipe.all_epochs:
        print(f"{request.output} has ended; there is nothing to resume", flush=True)
        return storage.read_json(storage.join(request.output, "run.json"), "a run")
    directory.begin(resume=request.resume)
    try:
        run = Run(request, checkpoint or _fresh(request, dataset), dataset, device)
        run.go(directory)
    except BaseException:
        if not checkpoints_of(request.output):
            directory.abort()  # there is nothing to resume from
        raise
    state = run.checkpoint.state
    summary = {
        "checkpoint": "checkpoints/" + step_directory("", state["step"]).rsplit("/", 1)[-1],
        "epochs": state["epoch"],
        "steps": state["step"],
    }
    if run.stopped:
        return {"stopped": True, **summary}
    if request.patience is not None and state["best"]:
        summary["checkpoint"] = "checkpoints/" + step_directory("", state["best"]["step"]).rsplit("/", 1)[-1]
    summary |= {
        "kind": "nnsparse-stream run",
        "schema_version": 1,
        "recipe": request.recipe.to_json(),
        "seed": request.seed,
        "best": state["best"],
        "metrics": state["history"][-1] if state["history"] else None,
    }
    directory.write(
        "report.html", run_report(state["history"], request.recipe, f"{request.data}, seed {request.seed}").encode()
    )
    directory.complete(storage.to_json(summary))
    return summary


def _fingerprint(dataset: Dataset) -> str:
    """Identifies a data set by its manifest, which holds the checksums of its files."""
    return storage.sha256(dataset.manifest.to_json())


def _fresh(request: TrainingRequest, dataset: Dataset) -> Checkpoint:
    manifest, recipe = dataset.manifest, request.recipe
    # Known: there are training ratings.
    mean, low, high = (float(manifest.ratings[name] or 0.0) for name in ("mean", "min", "max"))
    config = ModelConfig(
        num_columns=manifest.num_columns,
        hidden=recipe.hidden,
        activation=recipe.activation,
        output_activation=recipe.output_activation,
        mean=mean,
        unit=recipe.unit or (high - low) / 2 or 1.0,
        mean_damping=recipe.mean_damping,
        input_scale=recipe.input_scale or None,
        presence=recipe.presence,
        row_offset=recipe.row_offset,
        rating_min=low,
        rating_max=high,
        storage=recipe.storage,
    )
    generator = torch.Generator().manual_seed(request.seed)
    model = RatingAutoencoder(config, generator, recipe.initial_std or None)
    state = {
        "axis": manifest.axis,
        "row_id_type": manifest.row_id_type,
        "column_id_type": manifest.column_id_type,
        "vocabulary": vocabulary_fingerprint(manifest),
        "data": _fingerprint(dataset),
        "recipe": recipe.to_json(),
        "seed": request.seed,
        "epoch": 0,
        "cursor": list(Cursor()),
        "sums": dict(_NO_SUMS),
        "step": 0,
        "best": None,
        "history": [],
    }
    return Checkpoint(model, dataset.vocabulary(), state, request.output)


def _resumed(request: TrainingRequest, dataset: Dataset) -> Checkpoint | None:
    """The last checkpoint, checked to be of this run; None where the run was killed before its first."""
    found = checkpoints_of(request.output)
    if not found:
        return None
    checkpoint = load_model(found[-1])
    if checkpoint.state["data"] != _fingerprint(dataset):
        raise InputError(f"{request.output} was trained on another data set than {request.data}; it cannot be resumed")
    before = {**checkpoint.state["recipe"], "seed": checkpoint.state["seed"]}
    now = {**request.recipe.to_json(), "seed": request.seed}
    # More epochs are no other run, unless the learning rate follows the length of the run.
    free = {"epochs"} if request.recipe.schedule != "cosine" and not request.recipe.warmup else set()
    changed = [name for name in now if name not in free and now[name] != before.get(name)]
    if changed:
        told = ", ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
        raise InputError(f"{request.output} cannot be resumed with other settings: {told}")
    if checkpoint.state["epoch"] > request.recipe.all_epochs:
        before_epochs = request.recipe.all_epochs - request.recipe.epochs
        raise InputError(
            f"{request.output} has trained {checkpoint.state['epoch'] - before_epochs} epochs already, more than "
            f"--epochs {request.recipe.epochs}"
        )
    checkpoint.state["recipe"] = request.recipe.to_json()
    return checkpoint


_NO_SUMS = {"entries": 0, "rows": 0, "batches": 0, "loss": 0.0, "squared": 0.0, "seconds": 0.0, "waited": 0.0}


class Run:
    """A run that goes on: steps, epochs, checkpoints, and when to end."""

    def __init__(
        self, request: TrainingRequest, checkpoint: Checkpoint, dataset: Dataset, device: torch.device
    ) -> None:
        """Takes up a run at a checkpoint.

        Args:
            request: the run.
            checkpoint: the model, which is moved to the device, and what has been done.
            dataset: the data set.
            device: where to compute.
        """
        self.request, self.checkpoint, self.dataset = request, checkpoint, dataset
        layer = request.recipe.stage(checkpoint.state["epoch"] + 1).layer
        self.trainer = Trainer(checkpoint, request.recipe, request.seed, device, layer)
        recipe = request.recipe
        batchifier = Batchifier(recipe.batch_rows, recipe.batch_entries)
        self.stream = TrainingStream(dataset, request.seed, batchifier, device)
        self.stopped = False
        self._saved_at = time.monotonic()

    def go(self, directory: OutputDirectory) -> None:
        """Trains until the run ends, or is stopped."""
        state, recipe = self.checkpoint.state, self.request.recipe
        self._write_metrics(directory)  # what a kill between a checkpoint and its metrics left out
        minibatches = self.stream.epochs(state["epoch"] + 1, recipe.all_epochs, Cursor(*state["cursor"]))
        with contextlib.closing(minibatches):
            while state["epoch"] < recipe.all_epochs and not self._has_to_end() and not self._has_lost_patience():
                if not self._train_epoch(state["epoch"] + 1, minibatches):
                    self._save()
                    return
                metrics = self._end_epoch()
                self._save()
                self._write_metrics(directory)
                print(epoch_line(metrics, recipe.all_epochs), flush=True)

    def _write_metrics(self, directory: OutputDirectory) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in self.checkpoint.state["history"])
        directory.write("metrics.jsonl", lines.encode())
        if self.request.tensorboard:
            directory.write(EVENTS_FILE, events(self.checkpoint.state["history"]))

    def _train_epoch(self, epoch: int, minibatches: Iterator[Minibatch | None]) -> bool:
        """Trains on the minibatches up to the epoch's end; False where the run has to end before."""
        state, recipe = self.checkpoint.state, self.request.recipe
        sums, stage = state["sums"], recipe.stage(epoch)
        total = self.dataset.manifest.fold_entries["train"]
        waited_before, seconds_before = sums["waited"] - self.stream.waited, sums["seconds"]
        started = time.perf_counter()
        with tqdm(
            total=total,
            initial=sums["entries"],
            unit=" ratings",
            unit_scale=True,
            desc=f"epoch {epoch}",
            leave=False,
            disable=None,
        ) as bar:
            for minibatch in iter(minibatches.__next__, None):
                if self._has_to_end():
                    return False
                rows = minibatch.rows
                progress = (stage.epoch - 1 + sums["entries"] / total) / stage.epochs
                learning_rate = recipe.learning_rate_at(stage.epoch, progress)
                loss, squared = self.trainer.train_batch(rows, learning_rate, epoch == 1)
                state["step"] += 1
                state["cursor"] = list(minibatch.after)
                for name, value in (
                    ("entries", rows.num_entries),
                    ("rows", rows.num_rows),
                    ("batches", 1),
                    ("loss", loss),
                    ("squared", squared or 0.0),
                ):
                    sums[name] += value
                sums["seconds"] = seconds_before + time.perf_counter() - started
                sums["waited"] = waited_before + self.stream.waited
                bar.update(rows.num_entries)
                if not bar.disable:
                    bar.set_postfix_str(progress_text(sums, recipe), refresh=False)
                if not math.isfinite(loss):
                    raise self._diverged(epoch)
                if self._is_due():
                    self._save()
                self.stopped = stop_requested.is_set()
        return True

    def _end_epoch(self) -> dict[str, Any]:
        """Judges the model, adds the epoch's metrics to the history, and returns them."""
        state, sums, recipe = self.checkpoint.state, self.checkpoint.state["sums"], self.request.recipe
        epoch = state["epoch"] + 1
        stage = recipe.stage(epoch)
        estimates = stage.layer in (None, 1)  # an inner layer alone estimates no rating
        if not all(bool(parameter.isfinite().all()) for parameter in self.trainer.model.parameters()):
            raise self._diverged(epoch)
        validation = self._validate() if stage.layer is None else None
        metrics = {
            "epoch": epoch,
            "step": state["step"],
            "time": round(time.time(), 3),
            "layer": stage.layer,
            "learning_rate": self.trainer.learning_rate,
            "loss": sums["loss"] / sums[recipe.loss_average],
            "train_rmse": math.sqrt(sums["squared"] / sums["entries"]) if estimates else None,
            "validation": validation,
            "ratings": sums["entries"],
            "seconds": round(sums["seconds"], 3),
            "ratings_per_second": round(sums["entries"] / max(sums["seconds"], 1e-9)),
            "batch_fill": sums["rows"] / sums["batches"] / recipe.batch_rows,
            "waiting_for_data": sums["waited"] / max(sums["seconds"], 1e-9),
            "peak_memory_bytes": peak_memory(),
        }
        state["history"].append(metrics)
        if validation and (state["best"] is None or validation["rmse"] < state["best"]["rmse"]):
            state["best"] = {"epoch": epoch, "step": state["step"], "rmse": validation["rmse"]}
        state["epoch"], state["cursor"], state["sums"] = epoch, list(Cursor()), dict(_NO_SUMS)
        self.trainer.begin(recipe.stage(epoch + 1).layer)
        return metrics

    def _validate(self) -> dict[str, float] | None:
        """RMSE and MAE of the validation fold; None where the data set has none."""
        if not self.dataset.manifest.fold_entries["validation"]:
            return None
        sums = ErrorSums()
        for batch in self.dataset.batches():
            sums += evaluate_batch(self.trainer.model, batch, 1)
        return {"rmse": sums.rmse, "mae": sums.mae}

    def _diverged(self, epoch: int) -> InputError:
        ratings = self.dataset.manifest.ratings
        return InputError(
            f"training diverged in epoch {epoch}, at a learning rate of {self.trainer.learning_rate:g}: lower "
            f"--learning_rate, or look for extreme ratings (those of {self.dataset.url} lie between {ratings['min']:g} "
            f"and {ratings['max']:g})"
        )

    def _has_to_end(self) -> bool:
        limit = self.request.max_steps
        return self.stopped or (limit is not None and self.checkpoint.state["step"] >= limit)

    def _has_lost_patience(self) -> bool:
        state, patience = self.checkpoint.state, self.request.patience
        return (
            patience is not None and state["best"] is not None and state["epoch"] - state["best"]["epoch"] >= patience
        )

    def _is_due(self) -> bool:
        steps, minutes = self.request.checkpoint_steps, self.request.checkpoint_minutes
        if steps is not None and self.checkpoint.state["step"] % steps == 0:
            return True
        return minutes is not None and time.monotonic() - self._saved_at >= minutes * 60

    def _save(self) -> None:
        """Writes a checkpoint, and removes those that are not to be kept."""
        state, output = self.checkpoint.state, self.request.output
        save_checkpoint(step_directory(output, state["step"]), self.checkpoint, self.trainer.optimizer)
        self._saved_at = time.monotonic()
        best = state["best"] and step_directory(output, state["best"]["step"])
        for old in checkpoints_of(output)[: -self.request.keep_checkpoints]:
            if old != best:
                fs, path = storage.filesystem(old)
                fs.rm(path, recursive=True)
