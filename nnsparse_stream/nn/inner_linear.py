"""A dense layer whose products are computed in less precision than its weights have, where that is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nnsparse_stream.kernels.dense import product


class InnerLinear(nn.Linear):
    """`nn.Linear` in a precision; weights, their gradients, input and output stay float32 (or float64).

    Attributes:
        precision: of the products, see `nnsparse_stream.kernels.dense.product`.
    """

    def __init__(self, in_features: int, out_features: int, precision: str = "float32") -> None:
        super().__init__(in_features, out_features)
        self.precision = precision

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (rows, out_features), of the dtype of x (rows, in_features)."""
        if self.precision == "float32":
            return super().forward(x)
        return _Linear.apply(x, self.weight, self.bias, self.precision)


class _Linear(torch.autograd.Function):
    """The gradient's products are made later than the layer's, by other calls: both say the precision themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, precision: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.precision = precision
        return product(x, weight.t(), precision, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        of_x = product(grad, weight, ctx.precision) if ctx.needs_input_grad[0] else None
        return of_x, product(grad.t(), x, ctx.precision), grad.sum(0), None
