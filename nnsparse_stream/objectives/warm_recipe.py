"""What a run does differently that begins from an earlier model, so that a few epochs are enough.

Of two epochs there are few steps, and what the log has gained since the earlier model is to be learned in them. What
was tried on nightly chains, and what it brought, is in docs/training.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.objectives.recipe import Recipe

#: What the rate would be multiplied by beyond 1, were all of the log new, with so many units or fewer.
_MORE_RATE = 5.0
_FEW_UNITS = 128
#: Momentum that remembers ten steps remembers nearly all of a short run.
_MOST_MOMENTUM = 0.5
#: A log that has more than doubled counts as doubled: minibatches of few rows would take long.
_MOST_NEW = 0.5
#: The part of the rate of training anew that is enough for lists of a log that has not grown.
_LEAST_RATE = 0.1


def renews(recipe: Recipe, workers: int) -> bool:
    """Whether the optimiser's state begins anew in a run that trains as `warm_recipe` says."""
    return isinstance(recipe, RatingRecipe) and workers == 1


def warm_recipe(recipe: Recipe, manifest: Manifest, entries: int, workers: int = 1) -> Recipe:
    """The recipe of a run that begins from an earlier model.

    Let s be the share of the training entries that are new, 1/2 at most. To predict ratings, minibatches have 1 - s of
    the rows (and the L2 of larger ones, `decay_rows`), momentum is 1/2 at most, and the learning rate is multiplied by
    1 + 5 s, where there are 128 units or fewer. Of H units it is 1 + 5 s x 128 / H: an optimiser that divides by the
    gradient's size moves each weight about as far, and what they add up to grows with their number.

    Lists whose scores are products of vectors of any length come apart at the rate that they are first made with: it is
    multiplied by s + 0.1.

    A pure function. The recipe of a run of several workers, whose steps are longer already, and any other is returned
    as it is.

    Args:
        recipe: what was asked for.
        manifest: of the data set.
        entries: training entries of the earlier model.
        workers: that train.
    """
    new = min(max(1 - entries / manifest.fold_entries["train"], 0.0), _MOST_NEW)
    if isinstance(recipe, RatingRecipe) and workers == 1:
        more = _MORE_RATE * min(_FEW_UNITS / recipe.hidden[0], 1.0)
        return replace(
            recipe,
            learning_rate=recipe.learning_rate * (1 + more * new),
            momentum=min(recipe.momentum, _MOST_MOMENTUM),
            batch_rows=max(round(recipe.batch_rows * (1 - new)), 1),
            decay_rows=recipe.decay_rows or recipe.batch_rows,
        )
    if isinstance(recipe, RankingRecipe) and not recipe.temperature and workers == 1:
        return replace(recipe, learning_rate=recipe.learning_rate * (new + _LEAST_RATE))
    return recipe


def entries_of(state: dict[str, Any]) -> int:
    """The training entries of a model, and of what it began from: the most that an epoch had.

    Args:
        state: of its checkpoint. In its first epoch it has only those of what it began from.
    """
    began = state.get("init", {}).get("entries", 0)
    return max([began, *(epoch["ratings"] for epoch in state["history"])])
