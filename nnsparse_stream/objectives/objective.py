"""What an objective is: what a block of entries means to a model in training, whatever the model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.nn.model import Model, ModelConfig
from nnsparse_stream.nn.optimisers import RowAdagrad, RowAdam, RowOptimizer, RowSGD, clip_grad_norm_
from nnsparse_stream.objectives.recipe import Recipe, StepRecipe
from nnsparse_stream.sparse.rows import SparseRows


class Objective(ABC):
    """Makes models of its kind.

    Attributes:
        metrics: what models are judged by on the validation fold where nothing else is asked for; the first decides
            which epoch is the best.
    """

    metrics: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def make_model(cls, recipe: Recipe, manifest: Manifest, generator: torch.Generator) -> Model:
        """A model with initial weights; its `column_counts` are still 0.

        Args:
            recipe: of this objective.
            manifest: of the data set, which has training entries.
            generator: source of the weights.
        """


class StepObjective(Objective):
    """An objective that a model is trained by, minibatch by minibatch.

    Attributes:
        optimizer: updates the model; a group's learning rate is the recipe's times the group's `rate`, where it has
            one.
    """

    optimizer: RowOptimizer

    @classmethod
    @abstractmethod
    def make_config(cls, recipe: Any, manifest: Manifest, earlier: Any = None) -> ModelConfig:
        """What a model is, apart from its weights.

        Args:
            recipe: of this objective.
            manifest: of the data set.
            earlier: the configuration of the model whose weights it takes over, of the same kind: what they are scaled
                by stays, unless the recipe says another value.
        """

    @classmethod
    @abstractmethod
    def make_model(cls, recipe: Any, manifest: Manifest, generator: torch.Generator, earlier: Any = None) -> Model:
        """See `Objective.make_model`; `earlier` as in `make_config`."""

    @abstractmethod
    def __init__(self, model: Model, recipe: Any, noise: torch.Generator, layer: int | None) -> None:
        """Prepares to train.

        Args:
            model: is changed in place.
            recipe: of this objective.
            noise: source of all randomness of a step; it is seeded anew for each.
            layer: the layer to train alone, from 1, the outermost; all together where None.
        """

    @abstractmethod
    def train_batch(self, rows: SparseRows, progress: float) -> dict[str, Tensor]:
        """One step, which does not wait for the device: nothing in it asks for a value, or has a shape that needs one.

        Args:
            rows: the raw training entries of some rows, on the model's device; each row has one or more.
            progress: share of the stage's entries that were trained on before, in [0, 1).

        Returns:
            Sums over the minibatch, by name, that add up over an epoch: 0-d float64 tensors on the model's device.
        """

    @classmethod
    @abstractmethod
    def figures(cls, recipe: Any, sums: dict[str, Any]) -> dict[str, float]:
        """What is told of an epoch's training, by name; "loss" is among them.

        Args:
            recipe: of this objective.
            sums: over the epoch so far: `entries`, `rows`, `batches`, and `terms`, what `train_batch` returned.
        """

    def _update(self, loss: Tensor, model: Model, recipe: StepRecipe) -> None:
        """A step against the gradient of a loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_norm:
            clip_grad_norm_(model.parameters(), recipe.clip_norm)
        self.optimizer.step()


class ClosedForm(Objective):
    """An objective whose model is the solution of sums over all rows: no minibatches, one epoch.

    A first pass over the rows counts (`count`), a second one adds up what the solution needs (`add`), which is cut into
    parts where several workers do it. Sums are whole numbers: they are the same in any order.
    """

    @classmethod
    @abstractmethod
    def count(cls, recipe: Any, rows: SparseRows) -> np.ndarray:
        """What must be known of all rows before anything is added: int64, of one shape, which adds up over blocks.

        Args:
            recipe: of this objective.
            rows: the raw training entries of some rows.
        """

    @abstractmethod
    def __init__(self, recipe: Any, counts: np.ndarray) -> None:
        """Makes room for the sums.

        Args:
            recipe: of this objective.
            counts: what `count` gives of all rows, added up.

        Raises:
            InputError: they would take more memory than the recipe allows.
        """

    @abstractmethod
    def add(self, rows: SparseRows) -> None:
        """Adds the raw training entries of some rows."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """The sums in parts of some MiB: the number of each, and its int32 sums, which add up over workers."""

    @abstractmethod
    def set_part(self, number: int, sums: np.ndarray) -> None:
        """Sets a part to what such parts have added up to."""

    @abstractmethod
    def solve(self, device: torch.device) -> tuple[Model, dict[str, float]]:
        """Solves, and gives up the sums.

        Args:
            device: where to compute.

        Returns:
            The model on the CPU, with its `column_counts`; and what is told of it, by name.

        Raises:
            InputError: there is no solution with this recipe.
        """


def make_optimizer(recipe: StepRecipe, groups: list[dict[str, Any]], decay_by_count: bool = False) -> RowOptimizer:
    """The recipe's optimiser of groups of parameters."""
    common: dict[str, Any] = {"lr": recipe.learning_rate, "decay_by_count": decay_by_count}
    if recipe.optimizer == "sgd":
        return RowSGD(groups, momentum=recipe.momentum, **common)
    if recipe.optimizer == "adagrad":
        return RowAdagrad(groups, **common)
    second_moment: Literal["element", "row"] = "row" if recipe.optimizer == "row_adam" else "element"
    return RowAdam(groups, betas=(recipe.momentum, recipe.second_moment), second_moment=second_moment, **common)
