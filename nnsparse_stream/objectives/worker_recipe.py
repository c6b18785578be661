"""What a worker of several does differently in its steps, so that together they learn as much as one alone.

A worker does 1/K of the steps of a run of K workers, and what its rows of weights become is averaged with the others'.
docs/training.md has what was measured.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.objectives.recipe import StepRecipe

#: Rounds of an epoch, where nobody says how many.
DEFAULT_ROUNDS = 4


def worker_recipe(recipe: StepRecipe, workers: int) -> StepRecipe:
    """The recipe by which each of K workers trains on its share of the rows; of one worker, the recipe itself.

    Steps are K times as long, and momentum and the decay of the second moment are taken to the power K: the averages
    then reach back as much of an epoch as those of one worker. Where scores are products of vectors of any length,
    which such steps would let grow, steps stay as long, and there are more of them: minibatches have 1 / sqrt(K) of the
    rows.

    Args:
        recipe: of the run.
        workers: K.
    """
    if isinstance(recipe, RankingRecipe) and not recipe.temperature:
        smaller: StepRecipe = replace(recipe, batch_rows=max(round(recipe.batch_rows / math.sqrt(workers)), 1))
        return smaller
    longer: StepRecipe = replace(
        recipe,
        learning_rate=recipe.learning_rate * workers,
        momentum=recipe.momentum**workers,
        second_moment=recipe.second_moment**workers,
    )
    return longer
