"""Optimisers whose step costs what the minibatch touched, for gradients by rows and dense ones alike.

A parameter is taken as a matrix with one row for each index of its first dimension. Where its gradient is a
`RowGradient`, only the rows that the minibatch touched are read and written: their weights, their state, their decay. A
row that is not touched stays as it is, bit for bit, and so does its state: no momentum moves it, no moment fades. With
a dense gradient every row is touched, by the same formulas, so that biases and inner layers need no second optimiser.

In all formulas g is the row's gradient plus d times the row (L2 in the gradient), where d is `weight_decay`, or, with
`decay_by_count`, `weight_decay * sqrt(n / mean n)`: n is the number of the minibatch's entries in the row, and the mean
is taken over the rows that it touched. A dense gradient has no counts; there d is `weight_decay` always.

Where a group has `decay_scales`, a tensor (rows,), d is also multiplied by the row's: what is touched seldom can be
decayed as much in all as what is touched always. Where a group has `unit_rows`, its rows have norm 1 and keep it: what
of the gradient lies along the row is taken out, and the row is normalised after its update.

The compiled loops and Triton's kernels compute and apply the gradient's rows in one pass and never store them. The
state is tensors only, of the parameter's dtype, so that `state_dict` fits into safetensors and a resumed run continues
bit for bit.

A bfloat16 parameter is updated in float32, with float32 state, and rounded up or down at random, with probabilities by
the distances (stochastic rounding; Gupta et al., "Deep Learning with Limited Numerical Precision", 2015): most updates
are smaller than the distance of two bfloat16 numbers, and rounding to the nearest would lose them all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.kernels.rounding import wide
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam, Rule
from nnsparse_stream.kernels.transposed import Transposed

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class RowOptimizer(torch.optim.Optimizer, ABC):
    """What the optimisers share: the walk over the parameters, and their state.

    Attributes:
        generator: draws the rounding of bfloat16 parameters, on their device; torch's own where None.
        touches: of parameters whose updates are counted, int32 (rows,) on their device: a step adds 1 where it updates.
    """

    generator: torch.Generator | None = None
    touches: dict[Tensor, Tensor]

    def __init__(self, params: Parameters, **defaults: Any) -> None:
        for name in ("lr", "weight_decay", "momentum", "eps"):
            if defaults.get(name, 0) < 0:
                raise ValueError(f"{name} must not be negative, got {defaults[name]}")
        super().__init__(params, {**defaults, "decay_scales": None, "unit_rows": False})
        self.touches = {}

    @abstractmethod
    def state_shapes(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes of a parameter's state by name; each has one row for each of the parameter's."""

    @staticmethod
    def state_dtype(parameter: Tensor) -> torch.dtype:
        """The dtype of a parameter's state."""
        return torch.float32 if parameter.dtype == torch.bfloat16 else parameter.dtype

    def missing_state_bytes(self) -> int:
        """What the state of the parameters will take that have not been updated yet."""
        return sum(
            math.prod(shape) * self.state_dtype(parameter).itemsize
            for group in self.param_groups
            for parameter in group["params"]
            if parameter not in self.state
            for shape in self.state_shapes(parameter, group).values()
        )

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """A parameter's state; 0 before its first update.

        Raises:
            ValueError: it is not of the parameter's shape; the kernels that update it would not notice.
        """
        shapes = self.state_shapes(parameter, group)
        if parameter not in self.state:
            dtype, device = self.state_dtype(parameter), parameter.device
            self.state[parameter] = {name: torch.zeros(s, dtype=dtype, device=device) for name, s in shapes.items()}
        state: dict[str, Tensor] = self.state[parameter]
        found = {name: tuple(value.shape) for name, value in state.items()}
        if found != shapes:
            raise ValueError(f"the state of a parameter of shape {tuple(parameter.shape)} is {found}, not {shapes}")
        return state

    @abstractmethod
    def rule(self, group: dict[str, Any]) -> Rule:
        """What a step does to the rows of a group's parameters."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        Raises:
            ValueError: a gradient is a sparse tensor of torch.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.layout != torch.strided:
            raise ValueError(f"a gradient must be dense or by rows, got one of layout {gradient.layout}")
        matrix, rule, unit_rows = _as_matrix(parameter), self.rule(group), group["unit_rows"]
        state = {name: _as_matrix(value) for name, value in self._state_of(parameter, group).items()}
        factors = gradient.factors() if isinstance(gradient, RowGradient) else _all_rows(_as_matrix(gradient))
        by, decays = factors.by, factors.vectors.new_full(factors.by.columns.shape, group["weight_decay"])
        if parameter in self.touches:
            self.touches[parameter].index_add_(0, by.columns.long(), (by.counts() > 0).to(torch.int32))
        if group["decay_by_count"] and group["weight_decay"]:
            counts = by.counts().to(decays.dtype)
            decays *= (counts / (counts.sum() / (counts > 0).sum())).sqrt()
        if group["decay_scales"] is not None and group["weight_decay"]:
            decays *= group["decay_scales"][by.columns.long()]
        backend_of(matrix).update(rule, matrix, factors, decays, state, unit_rows, self.generator)


class RowSGD(RowOptimizer):
    """Stochastic gradient descent: v = momentum * v + g, row -= lr * v.

    v is 0 before a row's first update, and without momentum it is not kept. This is `torch.optim.SGD` on the touched
    rows.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay_by_count: bool = False,
    ) -> None:
        """Prepares the parameters' groups.

        Args:
            params: parameters, or groups of them with values of their own for the arguments below.
            lr: learning rate.
            momentum: factor of v.
            weight_decay: L2 coefficient.
            decay_by_count: weigh it by the row's entries in the minibatch, as the module says.

        Raises:
            ValueError: a coefficient is negative.
        """
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, decay_by_count=decay_by_count)

    def state_shapes(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The velocity's, as the parameter; none without momentum."""
        return {"velocity": tuple(parameter.shape)} if group["momentum"] else {}

    def rule(self, group: dict[str, Any]) -> Rule:
        """See `RowOptimizer.rule`."""
        return SGD(group["lr"], group["momentum"])


class RowAdagrad(RowOptimizer):
    """Adagrad: s += g * g, row -= lr * g / (sqrt(s) + eps), element by element.

    s is 0 before a row's first update. This is `torch.optim.Adagrad` on the touched rows.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        decay_by_count: bool = False,
    ) -> None:
        """Prepares the parameters' groups.

        Args:
            params: parameters, or groups of them with values of their own for the arguments below.
            lr: learning rate.
            eps: added to the root.
            weight_decay: L2 coefficient.
            decay_by_count: weigh it by the row's entries in the minibatch, as the module says.

        Raises:
            ValueError: a coefficient is negative.
        """
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, decay_by_count=decay_by_count)

    def state_shapes(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The sum of squares', as the parameter."""
        return {"squares": tuple(parameter.shape)}

    def rule(self, group: dict[str, Any]) -> Rule:
        """See `RowOptimizer.rule`."""
        return Adagrad(group["lr"], group["eps"])


class RowAdam(RowOptimizer):
    """Adam: m = b1 * m + (1 - b1) * g, s = b2 * s + (1 - b2) * g * g, row -= lr * m' / (sqrt(s') + eps).

    m' = m / (1 - b1^t) and s' = s / (1 - b2^t), where t counts the updates of the row, not the optimiser's steps: each
    row goes through exactly what `torch.optim.Adam` would do with its gradients alone, however seldom they come. With
    the optimiser's steps instead, a row touched for the first time late would take up to twice the step for a while,
    because the second moment fills more slowly than the first.

    With `second_moment="row"`, s is one number a row, and the mean of g * g over the row takes the place of g * g. That
    halves the state and, with b2 = .99, was more accurate for ratings than one number an element.

    State: m as the parameter, s likewise or (rows, 1), t (rows,), in the parameter's dtype; in float32 t stays at 2^24,
    where 1 - b^t has long been 1.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay_by_count: bool = False,
        second_moment: Literal["element", "row"] = "element",
    ) -> None:
        """Prepares the parameters' groups.

        Args:
            params: parameters, or groups of them with values of their own for the arguments below.
            lr: learning rate.
            betas: b1 and b2.
            eps: added to the root.
            weight_decay: L2 coefficient; in the gradient, so it passes through both moments.
            decay_by_count: weigh it by the row's entries in the minibatch, as the module says.
            second_moment: one second moment an element, or one a row.

        Raises:
            ValueError: a coefficient is out of range, or there is no such second moment.
        """
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decay_by_count=decay_by_count,
            second_moment=second_moment,
        )
        for group in self.param_groups:
            if not all(0 <= beta < 1 for beta in group["betas"]):
                raise ValueError(f"betas must lie between 0 and 1, got {group['betas']}")
            if group["second_moment"] not in ("element", "row"):
                raise ValueError(f"second_moment must be 'element' or 'row', got {group['second_moment']!r}")

    def state_shapes(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The moments' and the count of updates'."""
        rows, shape = len(_as_matrix(parameter)), tuple(parameter.shape)
        second = shape if group["second_moment"] == "element" else (rows, 1)
        return {"first": shape, "second": second, "updates": (rows,)}

    def rule(self, group: dict[str, Any]) -> Rule:
        """See `RowOptimizer.rule`."""
        beta1, beta2 = group["betas"]
        return Adam(group["lr"], beta1, beta2, group["eps"])


def _all_rows(gradient: Tensor) -> Factors:
    """A dense gradient (rows, units) as one by rows: so it takes one kernel, and not one for each part of a formula."""
    vectors = wide(gradient).contiguous()
    return Factors(_each_once(len(vectors), vectors.device), vectors, vectors.new_ones(len(vectors)))


@lru_cache(maxsize=16)  # each step asks for the same few again
def _each_once(rows: int, device: torch.device) -> Transposed:
    return Transposed.of_rows(torch.arange(rows, dtype=torch.int32, device=device))


def _as_matrix(parameter: Tensor) -> Tensor:
    """A tensor as (rows, units), with the same memory; a number is one row."""
    return parameter.detach().view(parameter.shape[0] if parameter.dim() else 1, -1)


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales gradients so that the norm of all of them together is at most `max_norm`, as torch's function does.

    The norm of a gradient by rows is computed without storing its rows.

    Args:
        parameters: parameters with dense gradients, gradients by rows, or none.
        max_norm: the greatest norm.

    Returns:
        The norm before, a 0-d tensor; where it is NaN, so are all gradients after.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    squares = [g.squared_norm() if isinstance(g, RowGradient) else g.square().sum() for g in gradients]
    norm = torch.stack(squares).sum().sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        _ = gradient.scale_(factor) if isinstance(gradient, RowGradient) else gradient.mul_(factor)
    return norm
