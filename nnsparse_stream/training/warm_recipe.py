"""What a run does differently that begins from an earlier model, so that a few epochs are enough.

Of two epochs there are few steps, and what the log has gained since the earlier model is to be learned in them. What
was tried on nightly chains, and what it brought, is in docs/training.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.training.rating_recipe import RatingRecipe
from nnsparse_stream.training.recipe import Recipe

#: So many times the learning rate would be added, were all of the log new.
_MORE_RATE = 5.0
#: Momentum that remembers ten steps remembers nearly all of a short run.
_MOST_MOMENTUM = 0.5
#: A log that has more than doubled counts as doubled: minibatches of few rows would take long.
_MOST_GROWTH = 0.5


def is_for(recipe: Recipe, workers: int) -> bool:
    """Whether a run by the recipe trains as `warm_recipe` says.

    Recipes of lists do not, since scores that are products of vectors of any length would grow with the rate; nor does
    a run of several workers, whose steps are longer already.
    """
    return isinstance(recipe, RatingRecipe) and workers == 1


def warm_recipe(recipe: Recipe, manifest: Manifest, entries: int, workers: int = 1) -> Recipe:
    """The recipe of a run that begins from an earlier model.

    With s the share of the training entries that are new, 1/2 at most: the learning rate is multiplied by
    1 + 5 s, minibatches have 1 - s of the rows (and the L2 of larger ones, `decay_rows`), and momentum is
    1/2 at most.

    A pure function. A recipe that `is_for` is not for is returned as it is.

    Args:
        recipe: what was asked for.
        manifest: of the data set.
        entries: training entries of the earlier model.
        workers: that train.
    """
    if not is_for(recipe, workers):
        return recipe
    assert isinstance(recipe, RatingRecipe)
    new = min(max(1 - entries / manifest.fold_entries["train"], 0.0), _MOST_GROWTH)
    return replace(
        recipe,
        learning_rate=recipe.learning_rate * (1 + _MORE_RATE * new),
        momentum=min(recipe.momentum, _MOST_MOMENTUM),
        batch_rows=max(round(recipe.batch_rows * (1 - new)), 1),
        decay_rows=recipe.decay_rows or recipe.batch_rows,
    )


def entries_of(state: dict[str, Any]) -> int:
    """The training entries of a model, and of what it began from: the most that an epoch had.

    Args:
        state: of its checkpoint. In its first epoch it has only those of what it began from.
    """
    began = state.get("init", {}).get("entries", 0)
    return max([began, *(epoch["ratings"] for epoch in state["history"])])
