"""What an optimiser does to rows that have a gradient; `nn.optimisers` has the formulas, and their sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Rule(ABC):
    """An update of rows and their state, row by row the same."""

    @abstractmethod
    def apply(self, rows: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        """Updates rows and their state in place, by torch operations.

        Args:
            rows: (rows, units), float32 or float64.
            gradient: (rows, units), with the L2 term; it may be overwritten.
            state: what the rule keeps, each (rows, units) or (rows, 1).
        """


@dataclass(frozen=True)
class SGD(Rule):
    """Stochastic gradient descent; state: `velocity` where there is momentum."""

    lr: float
    momentum: float

    def apply(self, rows: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        """See `Rule.apply`."""
        velocity = state["velocity"].mul_(self.momentum).add_(gradient) if state else gradient
        rows.sub_(velocity, alpha=self.lr)


@dataclass(frozen=True)
class Adagrad(Rule):
    """Adagrad; state: `squares`, their sums."""

    lr: float
    eps: float

    def apply(self, rows: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        """See `Rule.apply`."""
        squares = state["squares"].addcmul_(gradient, gradient)
        rows.addcdiv_(gradient, squares.sqrt().add_(self.eps), value=-self.lr)


@dataclass(frozen=True)
class Adam(Rule):
    """Adam by each row's own updates; state: `first`, `second`, of one number an element or a row, and `updates`."""

    lr: float
    beta1: float
    beta2: float
    eps: float

    def apply(self, rows: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        """See `Rule.apply`."""
        updates = state["updates"].add_(1).double()
        first = state["first"].mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
        squares = gradient.square()
        if state["second"].shape[1] != rows.shape[1]:
            squares = squares.mean(1, keepdim=True)
        second = state["second"].mul_(self.beta2).add_(squares, alpha=1 - self.beta2)
        rate = (self.lr / (1 - self.beta1**updates)).to(rows.dtype)
        scale = (1 - self.beta2**updates).rsqrt().to(rows.dtype)
        rows.sub_(rate * first / (second.sqrt() * scale + self.eps))


def apply_rule(
    rule: Rule, rows: Tensor, gradient: Tensor, decays: Tensor, state: dict[str, Tensor], unit_rows: bool
) -> None:
    """Updates rows and their state in place, with decay, and on the unit sphere where rows have norm 1 and keep it.

    Args:
        rule: what to do.
        rows: (rows, units), float32 or float64.
        gradient: (rows, units), without the L2 term.
        decays: (rows,), the L2 coefficient of each row.
        state: what the rule keeps, each (rows, units) or (rows, 1).
        unit_rows: whether the rows have norm 1 and keep it.
    """
    if unit_rows:
        gradient = gradient - torch.linalg.vecdot(gradient, rows)[:, None] * rows
    rule.apply(rows, gradient.addcmul(rows, decays[:, None]), state)
    if unit_rows:
        rows.copy_(torch.nn.functional.normalize(rows))
