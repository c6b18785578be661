"""Training recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.linear_recipe import LinearRecipe
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.objectives.recipe import Recipe

# CFN on MovieLens-1M (Strub, Gaudel & Mary, "Hybrid Recommender System based on Autoencoders", 2016; the numbers
# are those of the application's own configuration file, but for the learning rate, the decay and the epochs, which
# docs/quickstart.md explains).
_CFN = RatingRecipe(
    hidden=(700,),
    output_activation="tanh",
    alpha=1.108,
    beta=0.720,
    hide_ratio=0.138,
    learning_rate=0.06,
    schedule="inverse",
    learning_rate_decay=0.176,
    weight_decay=0.02,
    decoder_weight_decay=0.12,
    batch_rows=35,
    epochs=15,
)

# Our own, for rows of items: scaled input, SELU, Adam with one second moment a row, decay by popularity, cosine.
_BEST = RatingRecipe(
    hidden=(512,),
    activation="selu",
    unit=1.0,
    mean_damping=1.0,
    input_scale=15.0,
    feature_scale=20.0,
    row_offset=True,
    initial_std=0.01,
    hide_ratio=0.25,
    loss_average="entries",
    optimizer="row_adam",
    momentum=0.9,
    learning_rate=5e-4,
    schedule="cosine",
    warmup=0.1,
    weight_decay=6e-4,
    decoder_weight_decay=1.2e-3,
    decay_by_count=True,
    batch_rows=128,
    epochs=16,
)

# For some hundred thousand ratings: fewer units, stronger L2 and more damping; what is rated counts beside how.
_SMALL = replace(
    _BEST,
    hidden=(128,),
    activation="tanh",
    mean_damping=5.0,
    input_scale=7.0,
    feature_scale=5.0,
    presence=True,
    initial_std=0.005,
    alpha=1.5,
    hide_ratio=0.35,
    learning_rate=2e-3,
    weight_decay=4e-3,
    decoder_weight_decay=4e-3,
    batch_rows=64,
    epochs=20,
)

# Our most accurate, for rows of items: two sigmoid layers on raw ratings, half of them hidden and the others doubled,
# and L2 by the size of the training fold, which comes in over half the run.
_DEEP = RatingRecipe(
    hidden=(500, 500),
    mirrored=False,
    activation="shifted_sigmoid",
    unit=1.0,
    mean_damping=50.0,
    raw_input=True,
    input_scale=12.0,
    feature_scale=5.0,
    initial_std=0.02,
    inner_gain=4.0,
    hide_ratio=0.5,
    rescale=True,
    loss_average="entries",
    optimizer="row_adam",
    momentum=0.9,
    learning_rate=3e-3,
    encoder_rate=1 / 3,
    schedule="cosine",
    warmup=0.1,
    weight_decay=0.17,
    decoder_weight_decay=0.17,
    decay_by_size=True,
    decay_ramp=0.5,
    batch_rows=64,
    epochs=32,
)

# Lists of a log whose columns have many entries: linear, all that a row lacks weighed in by columns sampled from it.
_RANKING_DENSE = RankingRecipe(
    units=128,
    code_power=0.25,
    initial_std=0.02,
    loss="squared",
    sampled_columns=2000,
    row_power=0.5,
    optimizer="adam",
    momentum=0.9,
    learning_rate=1.5e-2,
    schedule="cosine",
    warmup=0.1,
    weight_decay=100.0,
    batch_rows=256,
    epochs=40,
)

# Of one whose columns have few: one matrix of unit rows, cosines, sampled softmax.
_RANKING_SPARSE = RankingRecipe(
    units=256,
    tied=True,
    temperature=8.0,
    popularity_power=0.25,
    initial_std=0.1,
    loss="multinomial",
    sampled_columns=1000,
    loss_average="entries",
    optimizer="adam",
    momentum=0.9,
    learning_rate=1e-2,
    schedule="cosine",
    warmup=0.1,
    batch_rows=512,
    epochs=40,
)

#: The recipes that `train --preset` knows.
PRESETS: dict[str, Recipe] = {
    "cfn": _CFN,
    # The same, two layers deep, trained layer by layer and then together, as CFN's deeper networks.
    "cfn-stacked": replace(_CFN, hidden=(700, 500), learning_rate=0.03, pretrain_epochs=5, epochs=12),
    "best": _BEST,
    # The same for rows of users.
    "best-user": replace(
        _BEST,
        activation="tanh",
        input_scale=12.0,
        feature_scale=10.0,
        learning_rate=1e-3,
        weight_decay=4e-4,
        decoder_weight_decay=2e-3,
        epochs=12,
    ),
    "best-small": _SMALL,
    "best-small-user": replace(
        _SMALL,
        hidden=(256,),
        input_scale=9.0,
        initial_std=0.01,
        alpha=1.0,
        hide_ratio=0.25,
        learning_rate=1e-3,
        weight_decay=3e-3,
    ),
    "deep": _DEEP,
    # The same for rows of users: no better than best-user alone, and unlike enough to help a blend.
    "deep-user": replace(
        _DEEP,
        hidden=(256, 256),
        mean_damping=1.0,
        feature_scale=2.0,
        inner_gain=16.0,
        hide_ratio=0.2,
        learning_rate=1e-2,
        encoder_rate=0.4,
        weight_decay=0.09,
        decoder_weight_decay=0.31,
        decay_by_count=True,
        decay_ramp=0.7,
        epochs=20,
    ),
    "linear": LinearRecipe(),
    "ranking-dense": _RANKING_DENSE,
    "ranking-sparse": _RANKING_SPARSE,
}

# Entries of a column, in the mean, from which a log is dense.
_DENSE_FROM = 100


def ranking_preset(manifest: Manifest) -> str:
    """The preset of lists for a data set: by how many training entries its columns have in the mean."""
    dense = manifest.fold_entries["train"] >= _DENSE_FROM * manifest.num_columns
    return "ranking-dense" if dense else "ranking-sparse"


# Training entries from which what is best on MovieLens-1M is taken, and not what is best on MovieLens-100K.
_LARGE_FROM = 300_000
# The columns of which `linear` needs 400 MB.
_LINEAR_COLUMNS = 10_000


def auto_preset(manifest: Manifest) -> str:
    """The preset for a data set, by feedback, axis and size: of those for it, what was the most accurate alone."""
    large = manifest.fold_entries["train"] >= _LARGE_FROM
    if manifest.feedback == "implicit":
        return ranking_preset(manifest) if large or manifest.num_columns > _LINEAR_COLUMNS else "linear"
    if manifest.axis == "item":
        return "deep"
    return "best-user" if large else "best-small-user"


#: Presets that are another one by name, depending on the data set; each with the function that says which.
CHOICES: dict[str, Callable[[Manifest], str]] = {"auto": auto_preset, "ranking": ranking_preset}


def chosen_preset(preset: str, manifest: Manifest) -> str:
    """The name in `PRESETS` of what a preset is for a data set: itself, or what `CHOICES` says."""
    return CHOICES[preset](manifest) if preset in CHOICES else preset


def recipe(preset: str, **overrides: Any) -> Recipe:
    """The preset's recipe with some fields replaced.

    Args:
        preset: a name in `PRESETS`.
        **overrides: fields of its recipe; those that are None keep the preset's value.

    Raises:
        InputError: there is no such preset, its objective has no such field, or a field has no such value.
    """
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; there are {', '.join([*PRESETS, *CHOICES])}")
    found = PRESETS[preset]
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in given.keys() - {field.name for field in fields(found)}:
        raise InputError(f"the objective of preset {preset!r}, {found.objective}, has no `{name}`; leave it out")
    try:
        return replace(found, **given)
    except ValueError as error:
        raise InputError(str(error)) from error
