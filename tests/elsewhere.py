"""What shows without a GPU that work stays on it: torch's device "meta", which has no memory, in its place.

Operations give shapes there, and no numbers: what asks for a number, or for a shape that needs one, fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnsparse_stream.kernels.backends import using

DEVICE = torch.device("meta")
# Between devices, which a GPU is waited for unless the host's memory is page-locked.
_COPIES = {"_to_copy", "copy_"}
# A GPU takes a number out of a tensor for these, out of torch's sight.
_WAITING = {
    torch.ops.aten.masked_fill_.Tensor,
    torch.ops.aten.masked_fill.Tensor,
    torch.ops.aten.index_fill_.int_Tensor,
}


class _Generator(torch.Generator):
    """One that says that it is on the device."""

    device = DEVICE

    def __new__(cls, device: Any = None) -> _Generator:
        return super().__new__(cls, "cpu")


class _Elsewhere(TorchDispatchMode):
    """Refuses operations on tensors of both devices, and copies between them.

    Args:
        waits: whether copies are allowed, and what needs numbers; all of these are made up.
    """

    def __init__(self, waits: bool) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        devices = {leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if self._waits:
            if devices == {DEVICE} and name == "nonzero":
                return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device=DEVICE)
            if devices == {DEVICE} and name == "_local_scalar_dense":
                return 1
            if devices == {DEVICE} and name == "_to_copy" and kwargs.get("device") == torch.device("cpu"):
                return torch.ones(args[0].shape, dtype=args[0].dtype)
        else:
            assert func not in _WAITING, f"a GPU is waited for by {func}"
        if not (self._waits and name in _COPIES):
            assert len(devices | ({kwargs["device"]} if kwargs.get("device") and devices else set())) <= 1, (
                f"{func} takes tensors of both devices"
            )
        return func(*args, **kwargs)


def _not_run(self: Any, *args: Any, **options: Any) -> None:
    for leaf in args:
        if isinstance(leaf, Tensor):
            assert leaf.device == DEVICE, "a kernel takes a tensor of the host"
            assert leaf.is_contiguous(), "a kernel takes a tensor that is not contiguous"


def _no_numbers(*args: Any, **kwargs: Any) -> Tensor:
    raise AssertionError("numbers of the host are copied to the device")


@contextmanager
def elsewhere(waits: bool = False) -> Iterator[None]:
    """Triton's kernels are called for tensors on `DEVICE` as for those on a GPU, and not run; see `_Elsewhere`."""
    interpreter, jit = (pytest.importorskip(f"triton.runtime.{name}") for name in ("interpreter", "jit"))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(interpreter.GridExecutor, "__call__", _not_run))
        stack.enter_context(mock.patch.object(jit.JITFunction, "run", _not_run))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        if not waits:
            stack.enter_context(mock.patch.object(torch, "tensor", _no_numbers))
            stack.enter_context(mock.patch.object(Tensor, "new_tensor", _no_numbers))
        stack.enter_context(using("gpu"))
        stack.enter_context(_Elsewhere(waits))
        yield
