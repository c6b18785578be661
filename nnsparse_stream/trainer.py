"""The steps of training: a minibatch in, weights changed in place."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from nnsparse_stream.checkpoint import Checkpoint, load_optimizer
from nnsparse_stream.criteria import SDAESparseCriterion, prepare_input
from nnsparse_stream.errors import InputError
from nnsparse_stream.kernels import Transposed
from nnsparse_stream.model import RatingAutoencoder
from nnsparse_stream.optim import RowAdagrad, RowAdam, RowSGD, clip_grad_norm_
from nnsparse_stream.presets import Recipe
from nnsparse_stream.rows import SparseRows


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


class Trainer:
    """Steps: a minibatch in, weights changed in place."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, seed: int, device: torch.device) -> None:
        """Prepares criterion and optimiser.

        Args:
            checkpoint: holds the model to train, which is moved to the device, the steps done, and the optimiser's
                state where it was read from storage.
            recipe: what to do.
            seed: of the run.
            device: where to compute.
        """
        self.model: RatingAutoencoder = checkpoint.model.to(device).train()
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.step = int(checkpoint.state["step"])
        self.learning_rate = recipe.learning_rate
        self.noise = torch.Generator(device)
        self.criterion = SDAESparseCriterion(
            nn.MSELoss(),
            alpha=recipe.alpha,
            beta=recipe.beta,
            hide_ratio=recipe.hide_ratio,
            average="none",
            generator=self.noise,
        )
        self.optimizer = _make_optimizer(self.model, recipe)
        if self.step:
            load_optimizer(checkpoint.url, self.optimizer)

    def train_batch(self, batch: SparseRows, learning_rate: float, count_columns: bool = False) -> tuple[float, float]:
        """One step on a minibatch of raw ratings.

        Args:
            batch: the rows' training ratings.
            learning_rate: of this step.
            count_columns: add the ratings to the model's counts, which say what columns it knows: in the first epoch.

        Returns:
            The loss summed over the minibatch, and the squared errors' sum in squared rating units.
        """
        self.step += 1
        self.learning_rate = learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # The corruption is a function of (seed, step): a resumed run draws what the unbroken one would have drawn.
        self.noise.manual_seed((self.seed * 0x9E3779B97F4A7C15 + self.step) & (2**63 - 1))
        ratings = batch.to(self.device, non_blocking=True)
        if count_columns:
            columns = ratings.columns.long()
            self.model.column_counts.index_add_(0, columns, torch.ones_like(columns))
        targets = self.model.residuals(ratings, self.model.row_means(ratings))
        transposed = Transposed.of(targets)
        inputs = prepare_input(self.criterion, targets)
        visible = None if self.criterion.corrupted is None else ~self.criterion.corrupted
        estimates = self.model.estimate(inputs, targets, visible, transposed)
        loss = self.criterion(estimates, targets)
        self.optimizer.zero_grad(set_to_none=True)
        (loss / (batch.num_rows if self.recipe.loss_average == "rows" else batch.num_entries)).backward()
        if self.recipe.clip_norm:
            clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            squared = (estimates.values - targets.values).square().sum() * self.model.config.unit**2
        return float(loss.detach()), float(squared)


def _make_optimizer(model: RatingAutoencoder, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser. Biases, and what else is small and dense, are not decayed."""
    matrices = [model.encoder, *(layer.weight for layer in model.inner), model.decoder]
    decayed = {id(matrix) for matrix in matrices}
    groups: list[dict[str, Any]] = [
        {"params": matrices[:-1], "weight_decay": recipe.weight_decay},
        {"params": matrices[-1:], "weight_decay": recipe.decoder_weight_decay},
        {"params": [p for p in model.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "decay_by_count": recipe.decay_by_count}
    if recipe.optimizer == "sgd":
        return RowSGD(groups, momentum=recipe.momentum, **common)
    if recipe.optimizer == "adagrad":
        return RowAdagrad(groups, **common)
    second_moment: Literal["element", "row"] = "row" if recipe.optimizer == "row_adam" else "element"
    return RowAdam(groups, betas=(recipe.momentum, recipe.second_moment), second_moment=second_moment, **common)
