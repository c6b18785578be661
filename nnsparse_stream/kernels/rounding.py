"""Float32 values as bfloat16, rounded at random."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """The values in the dtype of the arithmetic: float32 for bfloat16, otherwise they themselves."""
    return values.float() if values.dtype == torch.bfloat16 else values


def rounded(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """Float32 values as bfloat16, rounded up or down at random so that the mean is kept."""
    # A bfloat16 is the upper half of a float32: what is added to the lower half carries over in proportion to it.
    noise = torch.randint(0, 1 << 16, values.shape, generator=generator, dtype=torch.int32, device=values.device)
    up = ((values.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32)
    # A GPU's own NaN has all bits set: the noise would make a zero of it.
    return torch.where(values.isnan(), values, up).to(torch.bfloat16)
