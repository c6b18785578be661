"""The objective `rating`: an autoencoder predicts the ratings of a row, by squared error at its observed entries."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.kernels.operations import row_sums, transpose
from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.nn.criteria import DenoisingCriterion, SDAECriterion, SDAESparseCriterion, prepare_input
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.optimisers import RowOptimizer
from nnsparse_stream.objectives.objective import StepObjective, make_optimizer
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.sparse.rows import SparseRows

#: A row of so many ratings counts half as much as one of very many where its mean is to be foretold.
_MEANS_DAMPING = 5.0


class RatingObjective(StepObjective):
    """Denoising: some ratings of a row are hidden from the input, and all are estimated.

    All layers are trained together, or one alone, as in stacked pretraining (Vincent et al., "Stacked Denoising
    Autoencoders", 2010): the outermost as the model without its inner layers, each other one as a dense denoising
    autoencoder of the codes that it reads, with the layers before it as they are.
    """

    metrics = ("rmse", "mae")

    @classmethod
    def make_config(cls, recipe: Any, manifest: Manifest, earlier: Any = None) -> AutoencoderConfig:
        """The recipe's layers, and the data set's rating statistics.

        Of an earlier model stay the mean and the unit, in which residuals are, so that its weights say the same; the
        range of ratings grows where new ones lie beyond it.
        """
        assert isinstance(recipe, RatingRecipe)
        # Known: there are training ratings.
        mean, low, high = (float(manifest.ratings[name] or 0.0) for name in ("mean", "min", "max"))
        unit = (high - low) / 2 or 1.0
        if earlier is not None:
            mean, unit = earlier.mean, earlier.unit
            low, high = min(low, earlier.rating_min), max(high, earlier.rating_max)
        return AutoencoderConfig(
            num_columns=manifest.num_columns,
            hidden=recipe.hidden,
            mirrored=recipe.mirrored,
            activation=recipe.activation,
            output_activation=recipe.output_activation,
            mean=mean,
            unit=recipe.unit or unit,
            mean_damping=recipe.mean_damping,
            raw_input=recipe.raw_input,
            input_scale=recipe.input_scale or None,
            presence=recipe.presence,
            num_features=manifest.features.rows if manifest.features and recipe.feature_scale else 0,
            feature_scale=recipe.feature_scale if manifest.features else 0.0,
            row_offset=recipe.row_offset,
            rating_min=low,
            rating_max=high,
            storage=recipe.storage,
            inner_precision=recipe.inner_precision,
            num_rows=manifest.num_rows,
        )

    @classmethod
    def make_model(cls, recipe: Any, manifest: Manifest, generator: torch.Generator, earlier: Any = None) -> Model:
        """An autoencoder of the recipe's layers, and of the data set's rating statistics."""
        config = cls.make_config(recipe, manifest, earlier)
        return RatingAutoencoder(config, generator, recipe.initial_std or None, recipe.inner_gain or None)

    def __init__(self, model: Model, recipe: Any, noise: torch.Generator, layer: int | None) -> None:
        """Prepares criterion and optimiser; see `StepObjective`."""
        assert isinstance(model, RatingAutoencoder)
        assert isinstance(recipe, RatingRecipe)
        self._model, self._recipe, self._noise, self._layer = model, recipe, noise, layer
        self.optimizer = _make_optimizer(model, recipe, layer)
        make: type[DenoisingCriterion] = SDAECriterion if self._is_inner else SDAESparseCriterion
        self.criterion = make(
            nn.MSELoss(),
            alpha=recipe.alpha,
            beta=recipe.beta,
            hide_ratio=recipe.hide_ratio,
            average="none",
            generator=noise,
        )

    @classmethod
    def figures(cls, recipe: Any, sums: dict[str, Any]) -> dict[str, float]:
        """The loss, and where ratings were estimated their RMSE, of corrupted input, in rating units."""
        figures = {"loss": sums["terms"]["loss"] / sums[recipe.loss_average]}
        if "squared" in sums["terms"]:
            figures["rmse"] = math.sqrt(sums["terms"]["squared"] / sums["entries"])
        return figures

    @property
    def _is_inner(self) -> bool:
        return self._layer is not None and self._layer > 1

    def train_batch(self, rows: SparseRows, progress: float) -> dict[str, torch.Tensor]:
        """One step; returns `loss` and, in squared rating units, `squared`.

        An inner layer that is trained alone estimates no rating, and has no `squared`.
        """
        for group in self.optimizer.param_groups:
            group["weight_decay"] = group["decay"] * self._recipe.decay_share_at(progress)
        means = self._model.row_means(rows)
        targets, clean = self._model.residuals(rows, means), self._model.inputs(rows, means)
        if self._is_inner:
            return self._train_inner(clean)
        transposed = transpose(targets)
        inputs = prepare_input(self.criterion, clean)
        visible = None if self.criterion.corrupted is None else ~self.criterion.corrupted
        if self._recipe.rescale:
            inputs, visible = inputs.with_values(inputs.values / (1 - self._recipe.hide_ratio)), None
        estimates = self._model.estimate(inputs, targets, visible, transposed, self._layer)
        loss = self.criterion(estimates, targets)
        average = loss / (rows.num_rows if self._recipe.loss_average == "rows" else rows.num_entries)
        self._step(average + self._loss_of_means(rows))
        with torch.no_grad():
            squared = (estimates.values - targets.values).square().sum() * self._model.config.unit**2
        if self._recipe.refeed_columns and self._layer is None:
            self._refeed(clean)
        return {"loss": loss.detach().double(), "squared": squared.double()}

    def _loss_of_means(self, rows: SparseRows) -> torch.Tensor | float:
        """The squared error of the means that features foretell, averaged over rows; a mean of few ratings counts less.

        A residual does not depend on it: its row's mean has the row's own ratings in it, which are all there is to
        learn of the row's level.
        """
        if not self._model.reads_features or rows.features is None:
            return 0.0
        lengths = rows.lengths()
        means = (row_sums(rows, rows.values.double()) / lengths).to(rows.dtype)
        errors = (self._model.expected_means(rows) - means).square()
        return (errors * lengths / (lengths + _MEANS_DAMPING)).mean()

    def _train_inner(self, targets: SparseRows) -> dict[str, torch.Tensor]:
        """A step of an inner layer alone."""
        assert self._layer is not None
        with torch.no_grad():
            codes = self._model.code(targets, layers=self._layer - 1)
        estimates = self._model.reconstruct(prepare_input(self.criterion, codes), self._layer - 1)
        loss = self.criterion(estimates, codes)
        self._step(loss / len(codes))
        return {"loss": loss.detach().double()}

    def _refeed(self, targets: SparseRows) -> None:
        """A second step, on the model's own estimates: an input that is dense in the drawn columns, and its target.

        Dense re-feeding (Kuchaiev & Ginsburg, "Training Deep AutoEncoders for Collaborative Filtering", 2017); with
        fewer columns than the catalogue has, the cost stays rows x those.
        """
        width = self._model.num_columns
        drawn = torch.randperm(width, generator=self._noise, device=targets.device)[: self._recipe.refeed_columns]
        columns = drawn.sort().values.to(torch.int32).repeat(targets.num_rows)
        count = min(self._recipe.refeed_columns, width)
        offsets = torch.arange(0, len(columns) + 1, count, dtype=torch.int32, device=targets.device)
        nothing = torch.zeros_like(columns, dtype=targets.dtype)
        at = SparseRows(offsets, columns, nothing, width, targets.features)
        with torch.no_grad():
            dense = self._model.estimate(targets, at)
        transposed = transpose(dense)
        again = self._model.estimate(dense, dense, transposed=transposed)
        loss = nn.functional.mse_loss(again.values, dense.values, reduction="sum")
        self._step(loss / (dense.num_rows if self._recipe.loss_average == "rows" else dense.num_entries))

    def _step(self, loss: torch.Tensor) -> None:
        self._update(loss, self._model, self._recipe)


def _make_optimizer(model: RatingAutoencoder, recipe: RatingRecipe, layer: int | None) -> RowOptimizer:
    """The recipe's optimiser of a layer's parameters, or of all. What is small and dense (biases) is not decayed."""
    inner = {id(parameter) for parameter in model.inner.parameters()}
    if layer is None:
        trained = list(model.parameters())
    elif layer == 1:
        trained = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    else:
        trained = [*model.inner[layer - 2].parameters(), *model.inner[1 - layer].parameters()]
    encoders = {id(matrix) for matrix in (model.encoder, model.presence, model.features, model.feature_means)}
    decays = dict.fromkeys(encoders | {id(linear.weight) for linear in model.inner}, recipe.weight_decay)
    decays[id(model.decoder)] = recipe.decoder_weight_decay
    size = math.sqrt(max(int(model.column_counts.sum()), 1)) if recipe.decay_by_size else 1.0
    of_columns = {id(matrix) for matrix in (model.encoder, model.presence, model.decoder)}
    scales = _decay_scales(model, recipe) if recipe.decay_rows else None
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter],
            "decay": decays.get(id(parameter), 0.0) / size,
            "decay_scales": scales if id(parameter) in of_columns else None,
            "rate": recipe.encoder_rate if id(parameter) in encoders else 1.0,
        }
        for parameter in trained
    ]
    return make_optimizer(recipe, groups, decay_by_count=recipe.decay_by_count)


def _decay_scales(model: RatingAutoencoder, recipe: RatingRecipe) -> torch.Tensor:
    """What L2 of each column's rows is multiplied by: float32 (columns,).

    A row is decayed when a minibatch touches it. The minibatches of an epoch, each an average over its entries, add up
    to as much gradient of the loss whatever their size, but larger ones touch seldom columns in a larger share of them:
    their L2 would outgrow the loss. By count, a column of n entries in a minibatch is decayed by sqrt(n / mean n),
    whose expectation is close to sqrt(P / sum of P), with P the share of the minibatches that touch it, but for
    factors that the size does not change.
    """

    def touching(batch_rows: int) -> torch.Tensor:
        share = min(batch_rows / max(model.config.num_rows, 1), 1)
        return 1 - (1 - share) ** model.column_counts.double()

    few, many = touching(recipe.decay_rows), touching(recipe.batch_rows)
    # A column without an entry is touched by nothing.
    scales = torch.where(many > 0, few / many, 1.0)
    if recipe.decay_by_count:
        scales = (scales * few.sum() / many.sum()).sqrt()
    return scales.float()
