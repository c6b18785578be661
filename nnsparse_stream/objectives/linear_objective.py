"""The objective `linear`: item-to-item weights by one solution of the Gram matrix of the training entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.gram import GramMatrix, RowSums
from nnsparse_stream.nn.linear import LinearConfig, LinearItemModel, item_weights
from nnsparse_stream.objectives.linear_recipe import LinearRecipe
from nnsparse_stream.objectives.objective import ClosedForm
from nnsparse_stream.sparse.rows import SparseRows

_BYTES_A_PAIR = 4


class LinearObjective(ClosedForm):
    """EASE (Steck 2019) with weighted rows and hidden input (Steck 2020); `nn.linear.item_weights` has the formula.

    A training entry counts as an interaction, 1, whatever its value, and every other one as 0, as the method has it.
    """

    metrics = ("ndcg@100", "recall@20")

    @classmethod
    def make_model(cls, recipe: Any, manifest: Manifest, generator: torch.Generator) -> LinearItemModel:
        """A model that has no weights yet: every row is one without an entry to it."""
        return LinearItemModel(LinearConfig(manifest.num_columns, trained_columns=0, trained_rows=0))

    @classmethod
    def count(cls, recipe: Any, rows: SparseRows) -> np.ndarray:
        """What `RowSums` holds of some rows."""
        return RowSums.of(rows, recipe.row_power).array

    def __init__(self, recipe: Any, counts: np.ndarray) -> None:
        """Makes room for the Gram matrix; see `ClosedForm`."""
        assert isinstance(recipe, LinearRecipe)
        self._recipe, self._counts = recipe, RowSums(counts)
        columns = int(np.count_nonzero(self._counts.counts))
        size = columns**2 * _BYTES_A_PAIR / 1e9
        if size > recipe.matrix_gb:
            raise InputError(
                f"the matrix of all pairs of {columns:,} columns takes {size:,.2f} GB, more than `matrix_gb` "
                f"{recipe.matrix_gb:g}: train with `preset` ranking, whose cost follows the entries, or raise it"
            )
        self._gram = GramMatrix(self._counts, recipe.row_power)

    def add(self, rows: SparseRows) -> None:
        """Adds the co-occurrences of some rows."""
        self._gram.add(rows)

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """The parts of the Gram matrix."""
        return self._gram.parts()

    def set_part(self, number: int, sums: np.ndarray) -> None:
        """Sets a part of the Gram matrix."""
        self._gram.set_part(number, sums)

    def solve(self, device: torch.device) -> tuple[LinearItemModel, dict[str, float]]:
        """The model; and its loss, a row's mean weighted squared error with its share of the regularisation."""
        weights = self._gram.to_floats().to(device)
        counts, rows = torch.tensor(self._counts.counts), self._counts.num_rows
        # The best strength grows with the entries of a row, from which the others are estimated.
        l2 = self._recipe.l2 * float(counts.sum()) / rows
        try:
            least = item_weights(weights, l2, self._recipe.hide_ratio)
        except ValueError as error:
            raise InputError(f"{error}; raise `l2`") from error
        model = LinearItemModel(LinearConfig(len(counts), len(weights), rows), weights.cpu())
        model.column_counts.copy_(counts)
        return model, {"loss": least / rows}
