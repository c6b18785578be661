"""The objectives by name: the one place that knows which there are, and the recipes of each.

An objective's class is imported on first use, since it needs torch; recipes need nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nnsparse_stream.objectives.linear_recipe import LinearRecipe
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.objectives.recipe import Recipe
from nnsparse_stream.storage.json_types import typed

if TYPE_CHECKING:
    from nnsparse_stream.objectives.objective import Objective

#: Of each objective: the class of its recipes, and the module and name of its own.
OBJECTIVES: dict[str, tuple[type[Recipe], str]] = {
    "rating": (RatingRecipe, "nnsparse_stream.objectives.rating_objective.RatingObjective"),
    "linear": (LinearRecipe, "nnsparse_stream.objectives.linear_objective.LinearObjective"),
    "ranking": (RankingRecipe, "nnsparse_stream.objectives.ranking_objective.RankingObjective"),
}


def recipe_types() -> tuple[type[Recipe], ...]:
    """The classes of recipes, one an objective."""
    return tuple(recipe for recipe, _ in OBJECTIVES.values())


def objective_of(recipe: Recipe) -> type[Objective]:
    """The class of a recipe's objective."""
    module, _, name = OBJECTIVES[recipe.objective][1].rpartition(".")
    found: type[Objective] = getattr(importlib.import_module(module), name)
    return found


def recipe_from_json(value: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_json` wrote; a field that is missing has its default.

    Raises:
        ValueError: there is no such objective, or a field is not known or has no such value.
    """
    name = value.get("objective")
    if name not in OBJECTIVES:
        raise ValueError(f"recipe.objective is {name!r}, not one of {', '.join(OBJECTIVES)}")
    return typed(OBJECTIVES[name][0], {field: held for field, held in value.items() if field != "objective"}, "recipe")
