"""Training recipes by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from nnsparse_stream.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, apart from the data and the seed.

    Ratings are centred by their row's mean and scaled by half the rating range; learning rates and decays apply in
    those units.

    Attributes:
        hidden: units of each hidden layer, outermost first.
        activation: the hidden layers' activation.
        output_activation: the output's activation.
        alpha: weight of the squared error at hidden entries (the denoising part).
        beta: weight of the squared error at the other observed entries.
        hide_ratio: fraction of a row's entries that are hidden from the input.
        learning_rate: of SGD; the loss is the sum over a minibatch's entries divided by its rows.
        learning_rate_decay: epoch e (from 1) uses learning_rate / (1 + e * learning_rate_decay).
        weight_decay: L2 coefficient of the encoder and the inner layers; in the encoder, of the rows that occur in a
            minibatch. Biases are not decayed.
        decoder_weight_decay: L2 coefficient of the decoder's rows that occur in a minibatch.
        batch_rows: rows of a minibatch.
        batch_entries: entries of a minibatch at most; a heavier row makes a minibatch of its own.
        epochs: passes over the training fold.
    """

    hidden: tuple[int, ...] = (700,)
    activation: str = "tanh"
    output_activation: str = "tanh"
    alpha: float = 1.0
    beta: float = 0.5
    hide_ratio: float = 0.25
    learning_rate: float = 0.09
    learning_rate_decay: float = 0.176
    weight_decay: float = 0.025
    decoder_weight_decay: float = 0.025
    batch_rows: int = 35
    batch_entries: int = 1_000_000
    epochs: int = 10

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote."""
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})


#: The recipes that `train --preset` knows.
PRESETS: dict[str, Recipe] = {
    # CFN on MovieLens-1M (Strub, Gaudel & Mary, "Hybrid Recommender System based on Autoencoders", 2016; the numbers
    # are those of the application's own configuration file).
    "cfn": Recipe(
        hidden=(700,),
        alpha=1.108,
        beta=0.720,
        hide_ratio=0.138,
        learning_rate=0.06,
        learning_rate_decay=0.176,
        weight_decay=0.02,
        decoder_weight_decay=0.12,
        batch_rows=35,
        epochs=15,
    ),
}


def recipe(preset: str, **overrides: Any) -> Recipe:
    """The preset's recipe with some fields replaced.

    Args:
        preset: a name in `PRESETS`.
        **overrides: fields of `Recipe`; those that are None keep the preset's value.

    Raises:
        InputError: there is no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    return replace(PRESETS[preset], **{name: value for name, value in overrides.items() if value is not None})
