"""Dense products in less precision than their factors have, where that is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

#: In which dense products may be computed.
PRECISIONS = ("float32", "tf32", "bfloat16")

_rounding = threading.Lock()


@contextmanager
def tf32() -> Iterator[None]:
    """Lets CUDA's products round float32 to TF32, which torch knows as a setting of the process only.

    One thread at a time: of two that overlap, the second would take the first one's setting for what was there before.
    A product that another thread starts meanwhile, without this, may be rounded as well.
    """
    held = torch.backends.cuda.matmul
    with _rounding:
        before, held.fp32_precision = held.fp32_precision, "tf32"
        try:
            yield
        finally:
            held.fp32_precision = before


def product(left: Tensor, right: Tensor, precision: str, bias: Tensor | None = None) -> Tensor:
    """Computes `left @ right`, plus a bias, without a gradient of its own.

    Args:
        left: (n, m), float32 or float64.
        right: (m, k), of the same dtype.
        precision: "float32", as the factors are; "bfloat16", which rounds the factors and the product to 8 bits of
            mantissa; or "tf32", which on GPUs that have it rounds float32 factors to 11 bits, and elsewhere nothing.
        bias: (k,), added as it is.

    Returns:
        (n, k), of the factors' dtype.
    """
    if precision == "bfloat16":
        found = torch.mm(left.bfloat16(), right.bfloat16()).to(left.dtype)
        return found if bias is None else found.add_(bias)
    with tf32() if precision == "tf32" and left.is_cuda else nullcontext():
        return torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)
