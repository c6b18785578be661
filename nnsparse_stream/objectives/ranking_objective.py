"""The objective `ranking`: what a row has is foretold from the rest of it, against columns sampled from all others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.kernels.operations import transpose
from nnsparse_stream.kernels.sampled import sample_columns
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.ranking_losses import LOSSES, Negatives
from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.objectives.objective import StepObjective, make_optimizer
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.sparse.rows import SparseRows


class RankingObjective(StepObjective):
    """Every stored entry is an interaction, whatever its value; a row's own are ranked above what it lacks.

    A minibatch is scored at its entries, each by the rest of its row, and at columns drawn uniformly for the whole
    minibatch, which stand for all that a row lacks: a step costs O(entries + rows x sampled columns), whatever the
    catalogue's size.
    """

    metrics = ("ndcg@100", "recall@20")

    @classmethod
    def make_config(cls, recipe: Any, manifest: Manifest, earlier: Any = None) -> RankingConfig:
        """The recipe's units and kind; nothing in it is a scale that the data set decides."""
        assert isinstance(recipe, RankingRecipe)
        return RankingConfig(
            num_columns=manifest.num_columns,
            num_rows=manifest.num_rows,
            units=recipe.units,
            tied=recipe.tied,
            temperature=recipe.temperature or None,
            code_power=recipe.code_power,
            popularity_power=recipe.popularity_power,
        )

    @classmethod
    def make_model(cls, recipe: Any, manifest: Manifest, generator: torch.Generator, earlier: Any = None) -> Model:
        """A model of the recipe's units and kind."""
        return RankingAutoencoder(cls.make_config(recipe, manifest, earlier), generator, recipe.initial_std)

    def __init__(self, model: Model, recipe: Any, noise: torch.Generator, layer: int | None) -> None:
        """Prepares the optimiser; see `StepObjective`."""
        assert isinstance(model, RankingAutoencoder)
        assert isinstance(recipe, RankingRecipe)
        self._model, self._recipe, self._noise = model, recipe, noise
        # What is never listed needs no negatives.
        self._trained = model.column_counts.nonzero()[:, 0].to(torch.int32)
        self.optimizer = make_optimizer(recipe, self._groups())

    @classmethod
    def figures(cls, recipe: Any, sums: dict[str, Any]) -> dict[str, float]:
        """The loss, a weighted mean over rows or entries."""
        return {"loss": sums["terms"]["loss"] / sums["terms"]["weight"]}

    def train_batch(self, rows: SparseRows, progress: float) -> dict[str, Tensor]:
        """One step; returns the sums of weighted losses, `loss`, and of the weights, `weight`."""
        recipe, transposed = self._recipe, transpose(rows)
        drawn = sample_columns(len(self._trained), recipe.sampled_columns, self._noise)
        columns = self._trained[drawn.long()]
        visible, weights = self._hidden(rows)
        estimates = self._model.estimate(rows, columns, transposed, visible, recipe.inner_precision)
        negatives = Negatives(rows, transposed, columns, len(self._trained))
        losses = LOSSES[recipe.loss](estimates, weights, negatives)
        lengths = rows.lengths().to(rows.dtype)
        of_rows = lengths.pow(-recipe.row_power)
        loss = (of_rows * losses).sum()
        weight = (of_rows * lengths if recipe.loss_average == "entries" else of_rows).sum()
        self._update(loss / weight, self._model, recipe)
        return {"loss": loss.detach().double(), "weight": weight.double()}

    def _hidden(self, rows: SparseRows) -> tuple[Tensor | None, Tensor]:
        """Which entries the code is made of, bool (entries,), all where None; and what the loss at each weighs."""
        recipe = self._recipe
        if not recipe.hide_ratio:
            return None, torch.full_like(rows.values, recipe.beta)
        drawn = torch.rand(rows.num_entries, generator=self._noise, device=rows.device)
        visible = drawn >= recipe.hide_ratio
        return visible, torch.where(visible, recipe.beta, recipe.alpha).to(rows.dtype)

    def _groups(self) -> list[dict[str, Any]]:
        """The parameters' groups of the optimiser.

        A row is decayed when a minibatch touches it, divided by the share of minibatches that do: in all, each is
        decayed alike. The encoder's row of a column is touched by its entries, the decoder's also where it is sampled.
        """
        model, recipe = self._model, self._recipe
        num_rows = max(model.config.num_rows, 1)
        missed = (1 - min(recipe.batch_rows / num_rows, 1)) ** model.column_counts.double()
        not_drawn = 1 - min(recipe.sampled_columns / max(len(self._trained), 1), 1)
        shares = {"decoder": 1 - missed * not_drawn, "encoder": 1 - missed * (not_drawn if recipe.tied else 1)}
        groups: list[dict[str, Any]] = [{"params": [model.decoder_bias], "weight_decay": 0.0}]
        for name, parameter in model.named_parameters():
            if name in shares:
                groups.append(
                    {
                        "params": [parameter],
                        "weight_decay": recipe.weight_decay / num_rows,
                        # A column without an entry is touched by nothing.
                        "decay_scales": shares[name].clamp(min=1e-9).reciprocal().to(parameter.dtype),
                        "unit_rows": name in model.unit_row_tensors,
                    }
                )
        return groups
