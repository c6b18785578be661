"""Trains an autoencoder on a data set by one worker, epoch by epoch; a killed run goes on from its checkpoint."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from nnsparse_stream import storage
from nnsparse_stream.batchifier import Batchifier
from nnsparse_stream.checkpoint import (
    Checkpoint,
    checkpoints_of,
    load_model,
    save_checkpoint,
    step_directory,
    vocabulary_fingerprint,
)
from nnsparse_stream.criteria import SDAESparseCriterion, prepare_input
from nnsparse_stream.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation import ErrorSums, evaluate_batch
from nnsparse_stream.kernels import Transposed
from nnsparse_stream.loader import shuffled_training_rows
from nnsparse_stream.model import ModelConfig, RatingAutoencoder
from nnsparse_stream.optim import RowSGD
from nnsparse_stream.presets import Recipe
from nnsparse_stream.rows import SparseRows

_CHECKPOINTS_KEPT = 2


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
        resume: go on from the last checkpoint in `output`.
        overwrite: replace an earlier run in `output`.
    """

    data: str
    output: str
    recipe: Recipe
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False


def run_directory(request: TrainingRequest) -> storage.OutputDirectory:
    """The run's directory, checked: nothing has been written or removed yet.

    Raises:
        InputError: it holds something else, or a run, and neither `resume` nor `overwrite` says what to do with it.
    """
    directory = storage.OutputDirectory(
        request.output,
        contents=("checkpoints", "metrics.jsonl"),
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


def pick_device(name: str) -> torch.device:
    """The torch device of "auto", "cpu" or "cuda".

    Raises:
        InputError: CUDA is asked for and not usable.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no usable GPU here; `nnsparse-stream doctor` shows what it sees")
    return torch.device(name)


def peak_memory() -> int:
    """The process's peak resident memory in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def train(request: TrainingRequest) -> dict[str, Any]:
    """Trains a model from its start, or from its last checkpoint, to the recipe's number of epochs.

    The result is a pure function of (data set, recipe, seed) on one machine and number of threads: a run that is killed
    and resumed ends with bit-equal weights.

    Returns:
        What run.json holds: recipe, seed, checkpoint (relative to the run), epochs, steps and the last metrics.

    Raises:
        InputError: the data set or the output cannot be used, or the run to resume is another one.
    """
    directory = run_directory(request)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    device = pick_device(request.device)
    dataset = Dataset(request.data)
    if not dataset.manifest.fold_entries["train"]:
        raise InputError(f"{request.data} has no rating in its training fold; prepare it with other --folds")
    checkpoint = _resumed(request, dataset) if request.resume else None
    directory.begin(resume=request.resume)
    if checkpoint is None:
        checkpoint = _fresh(request, dataset)
    trainer = Trainer(checkpoint, dataset, request.recipe, request.seed, device)
    history: list[dict[str, Any]] = checkpoint.state["history"]
    for epoch in range(checkpoint.state["epoch"] + 1, request.recipe.epochs + 1):
        metrics = trainer.epoch(epoch)
        history.append(metrics)
        checkpoint.state.update(epoch=epoch, step=metrics["step"])
        save_checkpoint(step_directory(request.output, metrics["step"]), checkpoint)
        directory.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history).encode())
        for old in checkpoints_of(request.output)[:-_CHECKPOINTS_KEPT]:
            fs, path = storage.filesystem(old)
            fs.rm(path, recursive=True)
        print(_epoch_line(metrics, request.recipe.epochs), flush=True)
    summary = {
        "kind": "nnsparse-stream run",
        "schema_version": 1,
        "recipe": request.recipe.to_json(),
        "seed": request.seed,
        "checkpoint": f"checkpoints/step-{checkpoint.state['step']:09d}",
        "epochs": checkpoint.state["epoch"],
        "steps": checkpoint.state["step"],
        "metrics": history[-1],
    }
    directory.complete(storage.to_json(summary))
    return summary


def _fingerprint(dataset: Dataset) -> str:
    """Identifies a data set by its manifest, which holds the checksums of its files."""
    return storage.sha256(dataset.manifest.to_json())


def _fresh(request: TrainingRequest, dataset: Dataset) -> Checkpoint:
    manifest = dataset.manifest
    # Known: there are training ratings.
    mean, low, high = (float(manifest.ratings[name] or 0.0) for name in ("mean", "min", "max"))
    config = ModelConfig(
        num_columns=manifest.num_columns,
        hidden=request.recipe.hidden,
        activation=request.recipe.activation,
        output_activation=request.recipe.output_activation,
        mean=mean,
        rating_min=low,
        rating_max=high,
    )
    model = RatingAutoencoder(config, torch.Generator().manual_seed(request.seed))
    state = {
        "axis": manifest.axis,
        "row_id_type": manifest.row_id_type,
        "column_id_type": manifest.column_id_type,
        "vocabulary": vocabulary_fingerprint(manifest),
        "data": _fingerprint(dataset),
        "recipe": request.recipe.to_json(),
        "seed": request.seed,
        "epoch": 0,
        "step": 0,
        "history": [],
    }
    return Checkpoint(model, dataset.vocabulary(), state, request.output)


def _resumed(request: TrainingRequest, dataset: Dataset) -> Checkpoint | None:
    """The last checkpoint, checked to be of this run; None where the run was killed before its first."""
    if not checkpoints_of(request.output):
        return None
    checkpoint = load_model(request.output)
    if checkpoint.state["data"] != _fingerprint(dataset):
        raise InputError(f"{request.output} was trained on another data set than {request.data}; it cannot be resumed")
    before = {**checkpoint.state["recipe"], "seed": checkpoint.state["seed"]}
    now = {**request.recipe.to_json(), "seed": request.seed}
    changed = [name for name in now if name != "epochs" and now[name] != before[name]]
    if changed:
        told = ", ".join(f"{name} was {before[name]}, is {now[name]}" for name in changed)
        raise InputError(f"{request.output} cannot be resumed with other settings: {told}")
    if checkpoint.state["epoch"] > request.recipe.epochs:
        raise InputError(
            f"{request.output} has trained {checkpoint.state['epoch']} epochs already, more than --epochs "
            f"{request.recipe.epochs}"
        )
    checkpoint.state["recipe"] = request.recipe.to_json()
    return checkpoint


class Trainer:
    """The steps of a run: minibatches in, weights changed in place."""

    def __init__(
        self, checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe, seed: int, device: torch.device
    ) -> None:
        """Prepares criterion and optimiser.

        Args:
            checkpoint: holds the model to train, which is moved to the device, and the steps done.
            dataset: the data set.
            recipe: what to do.
            seed: of the run.
            device: where to compute.
        """
        self.model: RatingAutoencoder = checkpoint.model.to(device).train()
        self.dataset = dataset
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.step = int(checkpoint.state["step"])
        self.batchifier = Batchifier(recipe.batch_rows, recipe.batch_entries)
        self.noise = torch.Generator(device)
        self.criterion = SDAESparseCriterion(
            nn.MSELoss(),
            alpha=recipe.alpha,
            beta=recipe.beta,
            hide_ratio=recipe.hide_ratio,
            average="none",
            generator=self.noise,
        )
        model = self.model
        biases = [model.encoder_bias, model.decoder_bias, *(layer.bias for layer in model.inner)]
        self.optimizer = RowSGD(
            [
                {
                    "params": [model.encoder, *(layer.weight for layer in model.inner)],
                    "weight_decay": recipe.weight_decay,
                },
                {"params": [model.decoder], "weight_decay": recipe.decoder_weight_decay},
                {"params": biases, "weight_decay": 0.0},
            ],
            recipe.learning_rate,
        )

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Trains one epoch.

        Args:
            epoch: from 1.

        Returns:
            Metrics of the epoch, as JSON values; `train_rmse` is that of the corrupted inputs, in rating units.
        """
        rate = self.recipe.learning_rate / (1 + epoch * self.recipe.learning_rate_decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        entries = rows = 0
        loss = squared = 0.0
        started = time.perf_counter()
        total = self.dataset.manifest.fold_entries["train"]
        with tqdm(
            total=total, unit=" ratings", unit_scale=True, desc=f"epoch {epoch}", leave=False, disable=None
        ) as bar:
            for batch in self.batchifier(shuffled_training_rows(self.dataset, self.seed, epoch)):
                if epoch == 1:
                    columns = batch.columns.long()
                    self.model.column_counts.index_add_(
                        0, columns.to(self.device), torch.ones_like(columns, device=self.device)
                    )
                batch_loss, batch_squared = self.train_batch(batch)
                loss, squared = loss + batch_loss, squared + batch_squared
                entries, rows = entries + batch.num_entries, rows + batch.num_rows
                bar.update(batch.num_entries)
                bar.set_postfix_str(
                    f"loss {loss / rows:.4f}, rmse {math.sqrt(squared / entries):.4f}, {peak_memory() / 1e6:,.0f} MB",
                    refresh=False,
                )
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise InputError(f"training diverged in epoch {epoch}: the loss is {loss}; lower --learning_rate")
        return {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": rate,
            "loss": loss / rows,
            "train_rmse": math.sqrt(squared / entries),
            "validation": self.validate(),
            "ratings": entries,
            "seconds": round(seconds, 3),
            "ratings_per_second": round(entries / seconds),
            "peak_memory_bytes": peak_memory(),
        }

    def train_batch(self, batch: SparseRows) -> tuple[float, float]:
        """One step on a minibatch of raw ratings.

        Returns:
            The loss summed over the minibatch, and the squared errors' sum in squared rating units.
        """
        self.step += 1
        # The corruption is a function of (seed, step): a resumed run draws what the unbroken one would have drawn.
        self.noise.manual_seed((self.seed * 0x9E3779B97F4A7C15 + self.step) & (2**63 - 1))
        ratings = batch.to(self.device, non_blocking=True)
        targets = self.model.residuals(ratings, self.model.row_means(ratings))
        transposed = Transposed.of(targets)
        inputs = prepare_input(self.criterion, targets)
        estimates = self.model.estimate(inputs, targets, transposed)
        loss = self.criterion(estimates, targets)
        self.optimizer.zero_grad(set_to_none=True)
        (loss / batch.num_rows).backward()
        self.optimizer.step()
        with torch.no_grad():
            squared = (estimates.values - targets.values).square().sum() * self.model.half_range**2
        return float(loss.detach()), float(squared)

    def validate(self) -> dict[str, float] | None:
        """RMSE and MAE of the validation fold; None where the data set has none."""
        if not self.dataset.manifest.fold_entries["validation"]:
            return None
        sums = ErrorSums()
        for batch in self.dataset.batches():
            sums += evaluate_batch(self.model, batch, 1)
        return {"rmse": sums.rmse, "mae": sums.mae}


def _epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    validation = metrics["validation"]
    judged = f"validation RMSE {validation['rmse']:.4f} MAE {validation['mae']:.4f}  " if validation else ""
    return (
        f"epoch {metrics['epoch']:>3}/{epochs}  loss {metrics['loss']:.4f}  train RMSE {metrics['train_rmse']:.4f}  "
        f"{judged}{metrics['seconds']:.1f} s  {metrics['ratings_per_second']:,} ratings/s  "
        f"peak {metrics['peak_memory_bytes'] / 1e6:,.0f} MB"
    )
