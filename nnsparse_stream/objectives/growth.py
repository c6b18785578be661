"""Larger minibatches, where a GPU would wait for small ones: how a recipe grows with the data set."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.objectives.recipe import Recipe, StepRecipe

#: Rows of a minibatch with which a GPU moves memory at its speed; more would gain little.
MOST_ROWS = 4096
#: Minibatches that an epoch keeps: with fewer steps a run does not come as far.
LEAST_BATCHES = 64


def scaled(recipe: StepRecipe, factor: int) -> StepRecipe:
    """The recipe with minibatches of so many times the rows, and with what has to follow so that it learns as much.

    The learning rate of SGD is multiplied by the factor (Goyal et al., "Accurate, Large Minibatch SGD", 2017), that of
    the optimisers that divide by the gradient's size by its root (Malladi et al., "On the SDEs and Scaling Rules for
    Adaptive Gradient Algorithms", 2022). The L2 of ratings' recipes stays that of the smaller minibatches
    (`decay_rows`); `ranking` decays each column alike anyway, whatever share of the minibatches touches it. Its sampled
    columns stand for all rows of a minibatch, so that more rows make their noise no smaller: there are more of them, by
    the root.
    """
    root = math.sqrt(factor)
    rate = recipe.learning_rate * (factor if recipe.optimizer == "sgd" else root)
    larger: StepRecipe = replace(recipe, batch_rows=recipe.batch_rows * factor, learning_rate=rate)
    if isinstance(larger, RatingRecipe):
        return replace(larger, decay_rows=larger.decay_rows or recipe.batch_rows)
    if isinstance(larger, RankingRecipe):
        return replace(larger, sampled_columns=round(larger.sampled_columns * root))
    return larger


def grown(recipe: Recipe, manifest: Manifest, workers: int = 1) -> Recipe:
    """The recipe with minibatches of as many rows as the data set has room for.

    Rows are doubled as long as there are `MOST_ROWS` at most, an epoch of each worker has `LEAST_BATCHES` minibatches
    or more, and a mean minibatch fits into `batch_entries`. That bound stays: minibatches are cut from shuffle blocks
    of some times as many entries, of which each ends with a smaller one.

    A pure function, which needs no torch. A recipe that does not grow is returned as it is.

    Args:
        recipe: a preset's, or any other.
        manifest: of the data set.
        workers: that share its rows.
    """
    if not isinstance(recipe, StepRecipe):
        return recipe
    entries = manifest.fold_entries["train"] / max(manifest.num_rows, 1)
    most = min(MOST_ROWS, manifest.num_rows // (LEAST_BATCHES * workers), int(recipe.batch_entries / max(entries, 1)))
    factor = 1 << max(most // recipe.batch_rows, 1).bit_length() - 1
    return scaled(recipe, factor) if factor > 1 else recipe


def recipe_of_run(
    recipe: Recipe, manifest: Manifest, device: str, before: dict[str, Any] | None, workers: int = 1
) -> Recipe:
    """The recipe of a run that may grow: the larger one where the run was begun on a GPU.

    Args:
        recipe: what was asked for.
        manifest: of the data set.
        device: the type of torch's device, "cuda" or "cpu".
        before: the recipe of the run that goes on, as JSON, which the device does not change; None of a new run.
        workers: that share the data set's rows.
    """
    larger = grown(recipe, manifest, workers)
    if before is None:
        return larger if device == "cuda" else recipe
    return larger if larger.to_json().get("batch_rows") == before.get("batch_rows") else recipe
