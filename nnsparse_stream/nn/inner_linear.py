"""A dense layer whose product is computed in less precision than its weights have, where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: In which the products of inner layers may be computed.
PRECISIONS = ("float32", "tf32", "bfloat16")


class InnerLinear(nn.Linear):
    """`nn.Linear` in a precision; weights, their gradients, input and output stay float32 (or float64).

    Attributes:
        precision: "float32"; "bfloat16", which rounds what is multiplied and the result; or "tf32", which on GPUs that
            have it rounds what is multiplied to 10 bits of mantissa, and elsewhere is float32.
    """

    def __init__(self, in_features: int, out_features: int, precision: str = "float32") -> None:
        super().__init__(in_features, out_features)
        self.precision = precision

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (rows, out_features), of the dtype of x (rows, in_features)."""
        if self.precision == "bfloat16":
            low = (part.to(torch.bfloat16) for part in (x, self.weight, self.bias))
            return F.linear(*low).to(x.dtype)
        if self.precision == "tf32":
            return _TF32Linear.apply(x, self.weight, self.bias)
        return super().forward(x)


@contextmanager
def _tf32() -> Iterator[None]:
    """Lets CUDA's products round float32 to TF32; torch knows that as a setting of the process only."""
    held = torch.backends.cuda.matmul
    before, held.fp32_precision = held.fp32_precision, "tf32"
    try:
        yield
    finally:
        held.fp32_precision = before


class _TF32Linear(torch.autograd.Function):
    """The gradient's products are made later than the layer's, by other calls: both set the precision themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        with _tf32():
            return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        with _tf32():
            return grad @ weight if ctx.needs_input_grad[0] else None, grad.t() @ x, grad.sum(0)
