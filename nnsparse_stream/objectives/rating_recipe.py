"""The recipe of the objective `rating`: ratings are predicted, by squared error at the observed entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nnsparse_stream.objectives.recipe import PRECISIONS, Stage, StepRecipe, recipe_field


@dataclass(frozen=True)
class RatingRecipe(StepRecipe):
    """How an autoencoder of ratings is made and trained. Each field's metadata says what it means."""

    objective = "rating"
    feedback: ClassVar[tuple[str, ...]] = ("explicit",)

    hidden: tuple[int, ...] = recipe_field((512,), "units of each hidden layer, outermost first: N[,N...]")
    mirrored: bool = recipe_field(True, "decode by way of the hidden layers in reverse order; false: from the last")
    activation: str = recipe_field(
        "tanh", "of the hidden layers: identity, tanh, sigmoid, shifted_sigmoid (less 1/2), relu, elu, selu, silu"
    )
    output_activation: str = recipe_field("identity", "of the output, likewise")
    unit: float = recipe_field(0.0, "rating units of one unit of a residual (rating less row mean); 0: half the range")
    mean_damping: float = recipe_field(0.0, "a row's mean is damped by so many ratings of the mean training rating")
    raw_input: bool = recipe_field(False, "the input is the ratings themselves, and not the residuals")
    input_scale: float = recipe_field(0.0, "a row's input is multiplied by this / sqrt(its visible ratings); 0: not")
    presence: bool = recipe_field(False, "encode which columns are visible, too, by a second matrix")
    feature_scale: float = recipe_field(
        1.0, "a row's features, where there are any, are encoded, multiplied by this / sqrt(their number); 0: not"
    )
    row_offset: bool = recipe_field(False, "add a linear function of the code to all estimates of a row")
    initial_std: float = recipe_field(0.0, "of normal initial weights; 0: uniform, as the original")
    inner_gain: float = recipe_field(
        0.0, "standard deviation of the inner layers' initial weights, times sqrt(their inputs); 0: as the others"
    )
    storage: str = recipe_field("float32", "of the large matrices: float32, or bfloat16 (half the memory; for GPUs)")
    inner_precision: str = recipe_field(
        "float32", "of the inner layers' products: float32, tf32 or bfloat16 (faster on GPUs; on a CPU tf32 is float32)"
    )
    alpha: float = recipe_field(1.0, "weight of the squared error at hidden entries")
    beta: float = recipe_field(1.0, "weight of the squared error at the other observed entries")
    hide_ratio: float = recipe_field(0.25, "fraction of a row's ratings that are hidden from the input")
    rescale: bool = recipe_field(
        False, "what is visible is divided by 1 - hide_ratio, and what is hidden counts as visible (as in dropout)"
    )
    loss_average: str = recipe_field("rows", "what a minibatch's sum of losses is divided by: its rows or its entries")
    encoder_rate: float = recipe_field(1.0, "learning rate of encoder and presence, as a factor of the others'")
    weight_decay: float = recipe_field(
        0.0, "L2 of encoder and presence (their rows in a minibatch) and inner layers; never of biases"
    )
    decoder_weight_decay: float = recipe_field(0.0, "L2 of the decoder's rows in a minibatch")
    decay_by_count: bool = recipe_field(False, "both times sqrt(a column's entries in the minibatch / their mean)")
    decay_by_size: bool = recipe_field(False, "both divided by sqrt(training entries)")
    decay_ramp: float = recipe_field(0.0, "fraction of the run in which both rise from 0")
    decay_rows: int = recipe_field(
        0, "both as if minibatches had so many rows, whatever the share of them that a column is in; 0: as they are"
    )
    pretrain_epochs: int = recipe_field(
        0, "passes for each layer alone, outermost first, before all are trained together"
    )
    refeed_columns: int = recipe_field(
        0, "columns, drawn for each minibatch, of whose estimates it is trained on once more"
    )

    least: ClassVar[Mapping[str, float]] = {
        **StepRecipe.least,
        **dict.fromkeys(("unit", "mean_damping", "input_scale", "feature_scale", "initial_std"), 0),
        **dict.fromkeys(("inner_gain", "encoder_rate", "decay_rows"), 0),
        **dict.fromkeys(("weight_decay", "decoder_weight_decay", "pretrain_epochs", "refeed_columns"), 0),
    }
    shares: ClassVar[tuple[str, ...]] = (*StepRecipe.shares, "hide_ratio", "decay_ramp")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **StepRecipe.choices,
        "storage": ("float32", "bfloat16"),
        "inner_precision": PRECISIONS,
        "loss_average": ("rows", "entries"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hidden, default=0) < 1:
            raise ValueError(f"hidden is {self.hidden}, not one or more sizes of 1 or more")
        if self.presence and self.rescale:
            raise ValueError("presence does not go with rescale, which counts hidden ratings as visible")
        if self.refeed_columns and self.raw_input:
            raise ValueError("refeed_columns needs an input of residuals, not raw_input: estimates are residuals")
        if self.pretrain_epochs and not self.mirrored:
            raise ValueError("pretrain_epochs needs mirrored layers: a layer alone learns to give back what it reads")
        if self.pretrain_epochs and len(self.hidden) < 2:
            raise ValueError("pretrain_epochs needs two or more hidden layers: one alone is trained as a whole")

    @property
    def all_epochs(self) -> int:
        """Passes over the training fold, those of the layers alone included."""
        return self.pretrain_epochs * len(self.hidden) + self.epochs

    @property
    def extendable(self) -> frozenset[str]:
        """See `StepRecipe.extendable`; where L2 rises over the run, that follows its length, too."""
        return frozenset() if self.decay_ramp else super().extendable

    def decay_share_at(self, progress: float) -> float:
        """The share of L2 that counts in a step; `progress` as in `learning_rate_at`."""
        return progress / self.decay_ramp if progress < self.decay_ramp else 1.0

    def stage(self, epoch: int) -> Stage:
        """What an epoch trains; `epoch` counts from 1 over all stages."""
        layer, before = divmod(epoch - 1, self.pretrain_epochs) if self.pretrain_epochs else (0, epoch - 1)
        if self.pretrain_epochs and layer < len(self.hidden):
            return Stage(layer + 1, before + 1, self.pretrain_epochs)
        return Stage(None, epoch - self.pretrain_epochs * len(self.hidden), self.epochs)
