"""The steps of training: a minibatch in, weights changed in place."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from nnsparse_stream.errors import InputError
from nnsparse_stream.kernels.operations import Transposed
from nnsparse_stream.nn.autoencoder import RatingAutoencoder
from nnsparse_stream.nn.criteria import DenoisingCriterion, SDAECriterion, SDAESparseCriterion, prepare_input
from nnsparse_stream.nn.optimisers import RowAdagrad, RowAdam, RowOptimizer, RowSGD, clip_grad_norm_
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.checkpoint import Checkpoint, load_optimizer
from nnsparse_stream.training.recipe import Recipe


def pick_device(name: str) -> torch.device:
    """The torch device of "auto", "cpu" or "cuda".

    Raises:
        InputError: CUDA is asked for and not usable.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("`device` cuda: torch sees no usable GPU here; `nnsparse-stream doctor` shows what it sees")
    return torch.device(name)


class Trainer:
    """Steps: a minibatch in, weights changed in place.

    All layers are trained together, or one alone, as in stacked pretraining (Vincent et al., "Stacked Denoising
    Autoencoders", 2010): the outermost as the model without its inner layers, each other one as a dense denoising
    autoencoder of the codes that it reads, with the layers before it as they are.
    """

    def __init__(
        self, checkpoint: Checkpoint, recipe: Recipe, seed: int, device: torch.device, layer: int | None = None
    ) -> None:
        """Prepares criterion and optimiser.

        Args:
            checkpoint: holds the model to train, which is moved to the device, the steps done, and the optimiser's
                state where it was read from storage.
            recipe: what to do.
            seed: of the run.
            device: where to compute.
            layer: the layer to train alone, from 1, the outermost; all together where None.
        """
        self.model: RatingAutoencoder = checkpoint.model.to(device).train()
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.step = int(checkpoint.state["step"])
        self.learning_rate = recipe.learning_rate
        self.noise = torch.Generator(device)
        self._begin(layer)
        if self.step:
            load_optimizer(checkpoint, self.optimizer)

    def begin(self, layer: int | None) -> None:
        """Trains another layer, or all, from now on, with an optimiser that has no state yet."""
        if layer != self.layer:
            self._begin(layer)

    def _begin(self, layer: int | None) -> None:
        self.layer = layer
        self.optimizer = _make_optimizer(self.model, self.recipe, layer)
        self.optimizer.generator = self.noise
        make: type[DenoisingCriterion] = SDAECriterion if self._is_inner else SDAESparseCriterion
        self.criterion = make(
            nn.MSELoss(),
            alpha=self.recipe.alpha,
            beta=self.recipe.beta,
            hide_ratio=self.recipe.hide_ratio,
            average="none",
            generator=self.noise,
        )

    @property
    def _is_inner(self) -> bool:
        return self.layer is not None and self.layer > 1

    def train_batch(self, batch: SparseRows, learning_rate: float) -> tuple[float, float | None]:
        """One step on a minibatch of raw ratings.

        Args:
            batch: the rows' training ratings.
            learning_rate: of this step.

        Returns:
            The loss summed over the minibatch, and the squared errors' sum in squared rating units; None where an
            inner layer is trained alone, which estimates no rating.
        """
        self.step += 1
        self.learning_rate = learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # The corruption is a function of (seed, step): a resumed run draws what the unbroken one would have drawn.
        self.noise.manual_seed((self.seed * 0x9E3779B97F4A7C15 + self.step) & (2**63 - 1))
        ratings = batch.to(self.device, non_blocking=True)
        targets = self.model.residuals(ratings, self.model.row_means(ratings))
        if self._is_inner:
            return self._train_inner(targets), None
        transposed = Transposed.of(targets)
        inputs = prepare_input(self.criterion, targets)
        visible = None if self.criterion.corrupted is None else ~self.criterion.corrupted
        estimates = self.model.estimate(inputs, targets, visible, transposed, self.layer)
        loss = self.criterion(estimates, targets)
        self._update(loss / (batch.num_rows if self.recipe.loss_average == "rows" else batch.num_entries))
        with torch.no_grad():
            squared = (estimates.values - targets.values).square().sum() * self.model.config.unit**2
        if self.recipe.refeed_columns and self.layer is None:
            self._refeed(targets)
        return float(loss.detach()), float(squared)

    def _train_inner(self, targets: SparseRows) -> float:
        """A step of an inner layer alone; returns the loss summed over the minibatch."""
        assert self.layer is not None
        with torch.no_grad():
            codes = self.model.code(targets, layers=self.layer - 1)
        estimates = self.model.reconstruct(prepare_input(self.criterion, codes), self.layer - 1)
        loss = self.criterion(estimates, codes)
        self._update(loss / len(codes))
        return float(loss.detach())

    def _refeed(self, targets: SparseRows) -> None:
        """A second step, on the model's own estimates: an input that is dense in the drawn columns, and its target.

        Dense re-feeding (Kuchaiev & Ginsburg, "Training Deep AutoEncoders for Collaborative Filtering", 2017); with
        fewer columns than the catalogue has, the cost stays rows x those.
        """
        width = self.model.config.num_columns
        drawn = torch.randperm(width, generator=self.noise, device=self.device)[: self.recipe.refeed_columns]
        columns = drawn.sort().values.to(torch.int32).repeat(targets.num_rows)
        count = min(self.recipe.refeed_columns, width)
        offsets = torch.arange(0, len(columns) + 1, count, dtype=torch.int32, device=self.device)
        at = SparseRows(offsets, columns, torch.zeros_like(columns, dtype=targets.dtype), width)
        with torch.no_grad():
            dense = self.model.estimate(targets, at)
        transposed = Transposed.of(dense)
        again = self.model.estimate(dense, dense, transposed=transposed)
        loss = nn.functional.mse_loss(again.values, dense.values, reduction="sum")
        self._update(loss / (dense.num_rows if self.recipe.loss_average == "rows" else dense.num_entries))

    def _update(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_norm:
            clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()


def _make_optimizer(model: RatingAutoencoder, recipe: Recipe, layer: int | None) -> RowOptimizer:
    """The recipe's optimiser of a layer's parameters, or of all. What is small and dense (biases) is not decayed."""
    inner = {id(parameter) for parameter in model.inner.parameters()}
    if layer is None:
        trained = list(model.parameters())
    elif layer == 1:
        trained = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    else:
        trained = [*model.inner[layer - 2].parameters(), *model.inner[1 - layer].parameters()]
    decays = {id(linear.weight): recipe.weight_decay for linear in model.inner}
    decays |= {id(matrix): recipe.weight_decay for matrix in (model.encoder, model.presence)}
    decays[id(model.decoder)] = recipe.decoder_weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [parameter], "weight_decay": decays.get(id(parameter), 0.0)} for parameter in trained
    ]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "decay_by_count": recipe.decay_by_count}
    if recipe.optimizer == "sgd":
        return RowSGD(groups, momentum=recipe.momentum, **common)
    if recipe.optimizer == "adagrad":
        return RowAdagrad(groups, **common)
    second_moment: Literal["element", "row"] = "row" if recipe.optimizer == "row_adam" else "element"
    return RowAdam(groups, betas=(recipe.momentum, recipe.second_moment), second_moment=second_moment, **common)
