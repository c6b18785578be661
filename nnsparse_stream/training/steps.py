"""The steps of training: a minibatch in, weights changed in place."""

from __future__ import annotations

import torch
from torch import Tensor

from nnsparse_stream.checkpoints.checkpoint import Checkpoint, load_optimizer
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.optimisers import RowOptimizer
from nnsparse_stream.objectives.objective import StepObjective
from nnsparse_stream.objectives.objectives import objective_of
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.warm_start import load_earlier_optimizer


class Trainer:
    """Steps of a recipe's objective: what they have in common.

    Attributes:
        model: the model, on the device.
        step: how many were done.
        learning_rate: of the last.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: StepRecipe,
        seed: int,
        device: torch.device,
        layer: int | None = None,
        worker: int = 0,
    ) -> None:
        """Prepares the objective.

        Args:
            checkpoint: holds the model to train, which is moved to the device, the steps done, and the optimiser's
                state where it was read from storage. Before the first step that state is the earlier model's, of a run
                that began from one.
            recipe: what to do.
            seed: of the run.
            device: where to compute.
            layer: the layer to train alone, from 1, the outermost; all together where None.
            worker: whose optimiser's state it is, of those of a run in rounds.
        """
        self.model: Model = checkpoint.model.to(device).train()
        self.step = int(checkpoint.state["step"])
        self.learning_rate = recipe.learning_rate
        self._recipe, self._seed, self._device = recipe, seed, device
        self._noise = torch.Generator(device)
        self._begin(layer)
        if self.step:
            load_optimizer(checkpoint, self.optimizer, self.model, worker)
        elif began := checkpoint.state.get("init"):
            load_earlier_optimizer(began, self.optimizer, self.model, worker)

    @property
    def optimizer(self) -> RowOptimizer:
        """What updates the model."""
        return self.objective.optimizer

    def begin(self, layer: int | None) -> None:
        """Trains another layer, or all, from now on, with an optimiser that has no state yet."""
        if layer != self._layer:
            self._begin(layer)

    def _begin(self, layer: int | None) -> None:
        self._layer = layer
        objective = objective_of(self._recipe)
        assert issubclass(objective, StepObjective)
        self.objective = objective(self.model, self._recipe, self._noise, layer)
        self.objective.optimizer.generator = self._noise

    def train_batch(self, batch: SparseRows, learning_rate: float, progress: float = 0.0) -> dict[str, Tensor]:
        """One step on a minibatch of raw training entries.

        Args:
            batch: the rows' training entries.
            learning_rate: of this step.
            progress: share of the stage's entries that were trained on before, in [0, 1).

        Returns:
            Sums over the minibatch, by name, on the device; see `StepObjective.train_batch`.
        """
        self.step += 1
        self.learning_rate = learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate", 1.0)
        # What a step draws is a function of (seed, step): a resumed run draws what the unbroken one would have drawn.
        self._noise.manual_seed((self._seed * 0x9E3779B97F4A7C15 + self.step) & (2**63 - 1))
        return self.objective.train_batch(batch.to(self._device, non_blocking=True), progress)
