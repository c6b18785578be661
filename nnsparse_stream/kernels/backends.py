"""Which backend serves a tensor: the one place where that is decided."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Backend
from nnsparse_stream.kernels.cpu.backend import CpuBackend
from nnsparse_stream.kernels.reference.backend import ReferenceBackend

Name = Literal["cpu", "reference", "gpu"]

_CPU, _REFERENCE = CpuBackend(), ReferenceBackend()
_forced: Name | None = None


@cache
def gpu_backend() -> Backend | str:
    """The kernels of Triton; what is in the way where they cannot run, in one line."""
    try:
        import triton

        from nnsparse_stream.kernels.gpu.backend import GpuBackend

        if torch.cuda.is_available():
            # Has the C code compiled by which Triton starts kernels: that takes a compiler, and the headers of Python.
            _ = triton.runtime.driver.active
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    except Exception as error:  # whatever Triton and what it calls raise
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"triton cannot start kernels on this GPU, torch operations serve instead, several times slower: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return f"triton cannot start kernels ({reason})"
    return GpuBackend()


def backend_of(matrix: Tensor) -> Backend:
    """The backend for a matrix, and for what goes with it.

    Compiled loops for float32 and float64 on the CPU, Triton for float32 and bfloat16 on a GPU, otherwise torch
    operations with the same results.
    """
    if _forced is not None:
        found: Backend | str = _named(_forced)
    else:
        device = matrix.device.type
        found = _CPU if device == "cpu" else gpu_backend() if device == "cuda" else _REFERENCE
    return found if isinstance(found, Backend) and matrix.dtype in found.dtypes else _REFERENCE


def _named(name: Name) -> Backend:
    found = {"cpu": _CPU, "reference": _REFERENCE, "gpu": gpu_backend()}[name]
    if isinstance(found, str):
        raise ImportError(f"there is no backend gpu: {found}")
    return found


@contextmanager
def using(name: Name) -> Iterator[None]:
    """Takes one backend for all tensors that it takes meanwhile, in the whole process, as tests and comparisons do.

    Raises:
        ImportError: Triton cannot be imported or started, and `name` is "gpu".
    """
    global _forced
    _named(name)
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before
