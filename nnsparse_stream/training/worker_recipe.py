"""What a worker of several does differently in its steps, so that together they learn as much as one alone.

A worker does 1/K of the steps of a run of K workers, and what its rows of weights become is averaged with the others'.
"""

from __future__ import annotations

from dataclasses import replace

from nnsparse_stream.training.ranking_recipe import RankingRecipe
from nnsparse_stream.training.recipe import StepRecipe


def worker_recipe(recipe: StepRecipe, workers: int) -> StepRecipe:
    """The recipe by which each of some workers trains on its share of the rows; of one worker, the recipe itself.

    Args:
        recipe: of the run.
        workers: how many share the rows.
    """
    if workers == 1:
        return recipe
    if isinstance(recipe, RankingRecipe):
        return replace(recipe, batch_rows=max(recipe.batch_rows // 2, 1))
    larger: StepRecipe = replace(
        recipe,
        learning_rate=recipe.learning_rate * workers,
        momentum=recipe.momentum**workers,
        second_moment=recipe.second_moment**workers,
    )
    return larger


def default_rounds(recipe: StepRecipe) -> int:
    """Rounds of an epoch, where nobody says how many."""
    return 1 if isinstance(recipe, RankingRecipe) else 4
