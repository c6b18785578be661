"""Numbers of rows and numbers of their entries: sums over a row, and a row's number at each of its entries.

Each is the gradient of the other. Both add up in float64 and in a fixed order: a float32 sum of many numbers stands
still where it is large, and atomic sums, which torch's own gradient of an index takes on a GPU, differ from run to run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnsparse_stream.sparse.rows import SparseRows


def _sums(rows: SparseRows, values: Tensor) -> Tensor:
    sums = torch.segment_reduce(values.double(), "sum", offsets=rows.offsets.long(), unsafe=True)
    return sums.to(values.dtype)


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: SparseRows, values: Tensor) -> Tensor:
        ctx.rows = rows
        return _sums(rows, values.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0].index_select(0, ctx.rows.row_indices())


class _AtEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: SparseRows, values: Tensor) -> Tensor:
        ctx.rows = rows
        return values.index_select(0, rows.row_indices())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, _sums(ctx.rows, grads[0].contiguous())


def row_sums(rows: SparseRows, values: Tensor) -> Tensor:
    """The sum of each row's values, (rows,), in their dtype.

    Args:
        rows: which entries a row has.
        values: (entries,).
    """
    return _RowSums.apply(rows, values)


def at_entries(rows: SparseRows, values: Tensor) -> Tensor:
    """The value of each entry's row, (entries,).

    Args:
        rows: which entries a row has.
        values: (rows,).
    """
    return _AtEntries.apply(rows, values)
