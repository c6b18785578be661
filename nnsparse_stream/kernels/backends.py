"""Which backend serves a tensor: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

from torch import Tensor

from nnsparse_stream.kernels.backend import Backend
from nnsparse_stream.kernels.cpu.backend import CpuBackend
from nnsparse_stream.kernels.reference.backend import ReferenceBackend

Name = Literal["cpu", "reference", "gpu"]

_CPU, _REFERENCE = CpuBackend(), ReferenceBackend()
_forced: Name | None = None


@cache
def gpu_backend() -> Backend | None:
    """The kernels of Triton; None where it cannot be imported."""
    try:
        from nnsparse_stream.kernels.gpu.backend import GpuBackend
    except ImportError:
        return None
    return GpuBackend()


def backend_of(matrix: Tensor) -> Backend:
    """The backend for a matrix, and for what goes with it.

    Compiled loops for float32 and float64 on the CPU, Triton for float32 and bfloat16 on a GPU, otherwise torch
    operations with the same results.
    """
    if _forced is not None:
        found: Backend | None = _named(_forced)
    else:
        device = matrix.device.type
        found = _CPU if device == "cpu" else gpu_backend() if device == "cuda" else None
    return found if found is not None and matrix.dtype in found.dtypes else _REFERENCE


def _named(name: Name) -> Backend:
    found = {"cpu": _CPU, "reference": _REFERENCE, "gpu": gpu_backend()}[name]
    if found is None:
        raise ImportError("there is no backend gpu: triton cannot be imported")
    return found


@contextmanager
def using(name: Name) -> Iterator[None]:
    """Takes one backend for all tensors that it takes meanwhile, in the whole process, as tests and comparisons do.

    Raises:
        ImportError: Triton cannot be imported, and `name` is "gpu".
    """
    global _forced
    _named(name)
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before
