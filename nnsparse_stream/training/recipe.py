"""What a training run does: every choice that its weights depend on, checked and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

_NOT_NEGATIVE = (
    "unit", "mean_damping", "input_scale", "initial_std", "learning_rate", "learning_rate_decay", "weight_decay",
    "decoder_weight_decay", "clip_norm",
)  # fmt: skip
_LEAST = {"batch_rows": 1, "batch_entries": 1, "epochs": 1, "pretrain_epochs": 0, "refeed_columns": 0}
OPTIMIZERS = ("sgd", "adagrad", "adam", "row_adam")
SCHEDULES = ("constant", "inverse", "cosine")


def _field(default: Any, explanation: str) -> Any:
    return field(default=default, metadata={"help": explanation})


class Stage(NamedTuple):
    """What an epoch trains: one layer (from 1, the outermost), or all of them where `layer` is None.

    `epoch` counts from 1 within the stage, which has `epochs`.
    """

    layer: int | None
    epoch: int
    epochs: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, apart from the data and the seed.

    Each field's metadata says what it means; it is also the help of the flag of the same name.
    """

    hidden: tuple[int, ...] = _field((512,), "units of each hidden layer, outermost first: N[,N...]")
    activation: str = _field("tanh", "of the hidden layers: identity, tanh, sigmoid, relu, elu, selu, silu")
    output_activation: str = _field("identity", "of the output, likewise")
    unit: float = _field(0.0, "rating units of one unit of a residual (rating less row mean); 0: half the range")
    mean_damping: float = _field(0.0, "a row's mean is damped by so many ratings of the mean training rating")
    input_scale: float = _field(0.0, "a row's input is multiplied by this / sqrt(its visible ratings); 0: not")
    presence: bool = _field(False, "encode which columns are visible, too, by a second matrix")
    row_offset: bool = _field(False, "add a linear function of the code to all estimates of a row")
    initial_std: float = _field(0.0, "of normal initial weights; 0: uniform, as the original")
    storage: str = _field("float32", "of the large matrices: float32, or bfloat16 (half the memory; for GPUs)")
    alpha: float = _field(1.0, "weight of the squared error at hidden entries")
    beta: float = _field(1.0, "weight of the squared error at the other observed entries")
    hide_ratio: float = _field(0.25, "fraction of a row's ratings that are hidden from the input")
    loss_average: str = _field("rows", "what a minibatch's sum of losses is divided by: its rows or its entries")
    optimizer: str = _field("sgd", "sgd, adagrad, adam, or row_adam (one second moment a row of a matrix)")
    momentum: float = _field(0.0, "of SGD, or of Adam's first moment")
    second_moment: float = _field(0.99, "decay of Adam's second moment")
    learning_rate: float = _field(0.06, "the schedule's highest")
    schedule: str = _field("constant", "constant; inverse: / (1 + epoch * decay); cosine: to 0 at the end of the run")
    learning_rate_decay: float = _field(0.0, "of the inverse schedule")
    warmup: float = _field(0.0, "fraction of the run in which the learning rate rises to the schedule's")
    weight_decay: float = _field(
        0.0, "L2 of encoder and presence (their rows in a minibatch) and inner layers; never of biases"
    )
    decoder_weight_decay: float = _field(0.0, "L2 of the decoder's rows in a minibatch")
    decay_by_count: bool = _field(False, "both times sqrt(a column's entries in the minibatch / their mean)")
    clip_norm: float = _field(0.0, "the gradient's norm is cut to this; 0: not")
    batch_rows: int = _field(128, "rows of a minibatch")
    batch_entries: int = _field(1_000_000, "entries of a minibatch; of a heavier row so many are drawn each epoch")
    epochs: int = _field(10, "passes over the training fold")
    pretrain_epochs: int = _field(0, "passes for each layer alone, outermost first, before all are trained together")
    refeed_columns: int = _field(0, "columns, drawn for each minibatch, of whose estimates it is trained on once more")

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"there is no optimizer {self.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"there is no schedule {self.schedule!r}; there are {', '.join(SCHEDULES)}")
        if self.storage not in ("float32", "bfloat16"):
            raise ValueError(f"storage is {self.storage!r}, not float32 or bfloat16")
        if self.loss_average not in ("rows", "entries"):
            raise ValueError(f"loss_average is {self.loss_average!r}, not rows or entries")
        if min(self.hidden, default=0) < 1:
            raise ValueError(f"hidden is {self.hidden}, not one or more sizes of 1 or more")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, not {least} or more")
        if self.pretrain_epochs and len(self.hidden) < 2:
            raise ValueError("pretrain_epochs needs two or more hidden layers: one alone is trained as a whole")
        for name in ("hide_ratio", "warmup", "momentum", "second_moment"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not in [0, 1)")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, not 0 or more")

    @property
    def all_epochs(self) -> int:
        """Passes over the training fold, those of the layers alone included."""
        return self.pretrain_epochs * len(self.hidden) + self.epochs

    def stage(self, epoch: int) -> Stage:
        """What an epoch trains; `epoch` counts from 1 over all stages."""
        layer, before = divmod(epoch - 1, self.pretrain_epochs) if self.pretrain_epochs else (0, epoch - 1)
        if self.pretrain_epochs and layer < len(self.hidden):
            return Stage(layer + 1, before + 1, self.pretrain_epochs)
        return Stage(None, epoch - self.pretrain_epochs * len(self.hidden), self.epochs)

    def learning_rate_at(self, epoch: int, progress: float) -> float:
        """The learning rate of a step.

        Args:
            epoch: of its stage, from 1.
            progress: share of the stage's entries that were trained on before the step, in [0, 1).
        """
        rate = self.learning_rate
        if self.schedule == "inverse":
            rate /= 1 + epoch * self.learning_rate_decay
        elif self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * max(progress - self.warmup, 0.0) / (1 - self.warmup)))
        return rate * min(1.0, progress / self.warmup) if progress < self.warmup else rate

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote."""
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})
