"""Memory that holds NaN when it is taken, so that what a kernel does not write is seen; for benchmarks/gpu.py, too."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Poisoned(TorchDispatchMode):
    """Memory that is allocated meanwhile holds NaN, or -1 or True, until it is written."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"):
            out.fill_(torch.nan if out.is_floating_point() else True if out.dtype == torch.bool else -1)
        return out
