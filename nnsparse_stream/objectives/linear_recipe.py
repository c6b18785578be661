"""The recipe of the objective `linear`: item-to-item weights in closed form, for some ten thousand columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nnsparse_stream.objectives.recipe import Recipe, recipe_field


@dataclass(frozen=True)
class LinearRecipe(Recipe):
    """How a linear item model is solved for. Each field's metadata says what it means."""

    objective = "linear"

    l2: float = recipe_field(3.0, "L2 of the item-to-item weights, in mean training entries of a row")
    hide_ratio: float = recipe_field(0.5, "fraction of a row's entries that are as if hidden from the input")
    row_power: float = recipe_field(0.5, "a row of n entries has the weight n^-this; 0: all rows have the same")
    matrix_gb: float = recipe_field(8.0, "the most that the matrix of all pairs of columns may take, 4 bytes a pair")

    least: ClassVar[Mapping[str, float]] = {"l2": 0, "row_power": 0, "matrix_gb": 0}
    shares: ClassVar[tuple[str, ...]] = ("hide_ratio",)
