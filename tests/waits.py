"""What shows on the CPU that a step would not wait for a GPU, nor differ from run to run there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

from nnsparse_stream.kernels import backends
from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.reference.backend import ReferenceBackend
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows

# Numbers for the host, shapes that depend on data, and tensors of the host's numbers.
_WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "argwhere", "masked_select",
    "bincount", "histc", "unique_dim", "_unique", "_unique2", "unique_consecutive", "unique_dim_consecutive",
    "lift_fresh",
}  # fmt: skip
# Sums that a GPU adds up atomically, in any order.
_ATOMIC = {
    "index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_reduce",
    "_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_backward", "embedding_dense_backward",
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}


class NeverWaiting(TorchDispatchMode):
    """Refuses operations that would wait for a GPU or add up atomically there, but for those within kernels."""

    within_kernel = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not NeverWaiting.within_kernel:
            name = func.overloadpacket.__name__
            if name in _WAITING | _ATOMIC:
                raise AssertionError(f"a step calls {name}")
            if name == "repeat_interleave" and kwargs.get("output_size") is None:
                raise AssertionError("a step calls repeat_interleave without output_size")
            if name in _INDEXING:
                if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
                    raise AssertionError("a step indexes by a mask")
                if kwargs.get("accumulate") or True in args[3:4]:
                    raise AssertionError("a step accumulates by an index")
        return func(*args, **kwargs)


class PaddedBackend(ReferenceBackend):
    """The reference with transposes as a GPU has them: places without entries, so that no shape depends on data."""


def _exact(argument: Any) -> Any:
    """A transpose, or what holds one, without its places that have no entries."""
    if isinstance(argument, Factors):
        return argument._replace(by=_exact(argument.by))
    if not isinstance(argument, Transposed):
        return argument
    counts, columns = argument.counts(), argument.columns
    held = int((counts > 0).sum())
    assert (counts[:held] > 0).all()
    assert int(argument.offsets[0]) == 0
    assert int(argument.offsets[-1]) == len(argument.order) == len(argument.rows)
    assert (columns[:held].diff() > 0).all()
    assert (columns[held:] == columns[max(held - 1, 0)]).all()
    assert torch.equal(argument.order.sort().values, torch.arange(len(argument.order), dtype=torch.int32))
    return Transposed(argument.order, argument.rows, columns[:held], argument.offsets[: held + 1])


def _padded(by: Transposed, places: int) -> Transposed:
    missing = places - len(by.columns)
    offsets = torch.cat([by.offsets, by.offsets[-1:].expand(missing)])
    return Transposed(by.order, by.rows, torch.cat([by.columns, by.columns[-1:].expand(missing)]), offsets)


def _kernel(name: str) -> Callable[..., Any]:
    original = getattr(ReferenceBackend, name)

    def call(self: PaddedBackend, *arguments: Any) -> Any:
        outer, NeverWaiting.within_kernel = NeverWaiting.within_kernel, True
        try:
            exact = [_exact(argument) for argument in arguments]
            if name == "update":
                exact[3] = exact[3][: len(exact[2].by.columns)]
            found = original(self, *exact)
            if name == "transpose":
                return _padded(found, min(arguments[0].num_entries, arguments[0].num_columns))
            if name == "merge":
                return _padded(found, len(arguments[0].columns) + len(arguments[1].columns))
            if name == "gradient_rows":
                return pad(found, (0, 0, 0, len(arguments[0].by.columns) - len(found)))
            return found
        finally:
            NeverWaiting.within_kernel = outer

    return call


for _name in (
    "transpose", "merge", "weighted_sums", "products_at", "own_products", "row_sums", "fill_at", "gradient_rows",
    "squared_norm", "update",
):  # fmt: skip
    setattr(PaddedBackend, _name, _kernel(_name))


@contextmanager
def never_waiting() -> Iterator[None]:
    """Steps on the CPU as on a GPU: `PaddedBackend`, no look at indices, and no operation that would wait."""

    def unchecked(rows: SparseRows) -> SparseRows:
        return rows

    with (
        mock.patch.object(backends, "_CPU", PaddedBackend()),
        mock.patch.object(SparseRows, "validate", unchecked),
        NeverWaiting(),
    ):
        yield
