"""What a training run does: every choice that its weights depend on, checked and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple

from nnsparse_stream.errors import InputError

OPTIMIZERS = ("sgd", "adagrad", "adam", "row_adam")
SCHEDULES = ("constant", "inverse", "cosine")
# As `kernels.dense.PRECISIONS`: recipes are read without torch.
PRECISIONS = ("float32", "tf32", "bfloat16")


def recipe_field(default: Any, explanation: str) -> Any:
    """A field of a recipe; the explanation is also the help of the flag of the same name."""
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

    Attributes:
        objective: the name under which `objectives.objectives` finds what the recipe is of.
        feedback: of the data sets that the objective makes sense of, "explicit" (ratings) or "implicit" (interactions).
    """

    objective: ClassVar[str]
    feedback: ClassVar[tuple[str, ...]] = ("explicit", "implicit")
    #: Fields and the least value of each.
    least: ClassVar[Mapping[str, float]] = {}
    #: Fields that lie in [0, 1).
    shares: ClassVar[tuple[str, ...]] = ()
    #: Fields of a few values, and these.
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __post_init__(self) -> None:
        for name, among in self.choices.items():
            if getattr(self, name) not in among:
                raise ValueError(f"there is no {name} {getattr(self, name)!r}; there are {', '.join(among)}")
        for name in self.shares:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not in [0, 1)")
        for name, least in self.least.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}, not {least} or more")

    def check_feedback(self, feedback: str, url: str) -> None:
        """Refuses a data set of which the objective can make no sense.

        Args:
            feedback: the manifest's.
            url: of the data set.

        Raises:
            InputError: that is so.
        """
        if feedback not in self.feedback:
            raise InputError(
                f"{url} holds interactions without ratings (feedback {feedback}), and the objective {self.objective} "
                "is about ratings: train with `preset` ranking or linear, or prepare with `feedback` explicit"
            )

    @property
    def all_epochs(self) -> int:
        """Passes over the training fold, those of the layers alone included."""
        return 1

    @property
    def extendable(self) -> frozenset[str]:
        """Fields that may be another's when a run goes on."""
        return frozenset()

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"objective": self.objective, **fields}


@dataclass(frozen=True)
class StepRecipe(Recipe):
    """What is trained minibatch by minibatch: optimiser, schedule, minibatches, epochs."""

    optimizer: str = recipe_field("sgd", "sgd, adagrad, adam, or row_adam (one second moment a row of a matrix)")
    momentum: float = recipe_field(0.0, "of SGD, or of Adam's first moment")
    second_moment: float = recipe_field(0.99, "decay of Adam's second moment")
    learning_rate: float = recipe_field(0.06, "the schedule's highest")
    schedule: str = recipe_field(
        "constant", "constant; inverse: / (1 + epoch * decay); cosine: to 0 at the end of the run"
    )
    learning_rate_decay: float = recipe_field(0.0, "of the inverse schedule")
    warmup: float = recipe_field(0.0, "fraction of the run in which the learning rate rises to the schedule's")
    clip_norm: float = recipe_field(0.0, "the gradient's norm is cut to this; 0: not")
    batch_rows: int = recipe_field(128, "rows of a minibatch")
    batch_entries: int = recipe_field(
        1_000_000, "entries of a minibatch; of a heavier row so many are drawn each epoch"
    )
    epochs: int = recipe_field(10, "passes over the training fold")

    least: ClassVar[Mapping[str, float]] = {
        "batch_rows": 1, "batch_entries": 1, "epochs": 1, "learning_rate": 0, "learning_rate_decay": 0, "clip_norm": 0,
    }  # fmt: skip
    shares: ClassVar[tuple[str, ...]] = ("warmup", "momentum", "second_moment")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}

    @property
    def all_epochs(self) -> int:
        """Passes over the training fold, those of the layers alone included."""
        return self.epochs

    @property
    def extendable(self) -> frozenset[str]:
        """The epochs: more of them are no other run, unless the learning rate follows the length of the run."""
        return frozenset(() if self.schedule == "cosine" or self.warmup else ("epochs",))

    def stage(self, epoch: int) -> Stage:
        """What an epoch trains; `epoch` counts from 1 over all stages."""
        return Stage(None, epoch, self.epochs)

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
