"""Stochastic gradient descent that touches only the rows of a matrix that have a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowSGD(torch.optim.Optimizer):
    """Plain SGD with L2 weight decay, for dense parameters and for those with row-sparse gradients.

    A dense gradient updates the whole parameter: ``p -= lr * (g + weight_decay * p)``. A sparse one updates only the
    rows that it holds, by the same rule: a row that does not occur in a minibatch is neither read nor decayed, so that
    the cost of a step follows the observed entries. It keeps no state.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, weight_decay: float = 0.0
    ) -> None:
        """Prepares the parameters' groups.

        Args:
            params: parameters, or groups of them with `lr` and `weight_decay` of their own.
            lr: learning rate.
            weight_decay: L2 coefficient.

        Raises:
            ValueError: a coefficient is negative.
        """
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr and weight_decay must not be negative, got {lr} and {weight_decay}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, keep = group["lr"], 1 - group["lr"] * group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    grad = parameter.grad.coalesce()
                    index, rows = grad.indices()[0], grad.values()
                    updated = parameter.index_select(0, index).mul_(keep).sub_(rows, alpha=lr)
                    parameter.index_copy_(0, index, updated)
                else:
                    parameter.mul_(keep).sub_(parameter.grad, alpha=lr)
        return loss
