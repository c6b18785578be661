"""Sparse linear maps whose cost follows the observed entries, forward and backward.

`encode` multiplies sparse rows by a matrix; `decode_at` multiplies codes by a matrix, only at the entries asked for.
Neither makes anything of size rows x columns, and the gradient of either matrix is a sparse COO tensor of (distinct
columns, hidden units): the batch is transposed once, by a stable sort of its columns, and that `Transposed` serves
both.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nnsparse_stream.rows import SparseRows

# torch warns once in a process that CSR tensors are in beta; we use two of their operations, and test both.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(
        torch.zeros(1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), (0, 0)
    )


@dataclass(frozen=True)
class Transposed:
    """The column-wise view of a block of sparse rows, which the backward passes read.

    Attributes:
        order: int64 (entries,), the permutation that sorts the entries by column; rows ascend within a column.
        rows: int32 (entries,), the row of each entry in that order.
        columns: int32 (distinct,), the columns that occur, ascending.
        offsets: int32 (distinct + 1,), entries `offsets[i]:offsets[i + 1]` in that order belong to `columns[i]`.
    """

    order: Tensor
    rows: Tensor
    columns: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: SparseRows) -> Transposed:
        """Transposes a block; O(entries log entries), whatever the number of columns."""
        sorted_columns, order = torch.sort(rows.columns, stable=True)
        columns, counts = torch.unique_consecutive(sorted_columns, return_counts=True)
        offsets = torch.zeros(len(columns) + 1, dtype=torch.int32, device=columns.device)
        torch.cumsum(counts, 0, dtype=torch.int32, out=offsets[1:])
        return cls(order, rows.row_indices()[order], columns, offsets)

    def weighted_sums(self, per_row: Tensor, weights: Tensor) -> Tensor:
        """Sums `weights[e] * per_row[row of e]` over the entries of each distinct column.

        Args:
            per_row: (rows, units), one vector a row.
            weights: (entries,), in the order of the block's entries.

        Returns:
            (distinct, units).
        """
        return F.embedding_bag(
            self.rows, per_row, self.offsets[:-1], mode="sum", per_sample_weights=weights[self.order]
        )

    def row_gradient(self, rows: Tensor, num_columns: int) -> Tensor:
        """One gradient row for each distinct column, as a coalesced sparse COO tensor of `num_columns` rows."""
        return torch.sparse_coo_tensor(
            self.columns[None].long(), rows, (num_columns, *rows.shape[1:]), is_coalesced=True, check_invariants=False
        )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: SparseRows, transposed: Transposed) -> Tensor:
        ctx.rows, ctx.transposed = rows, transposed
        return F.embedding_bag(
            rows.columns, weight, rows.offsets[:-1], mode="sum", per_sample_weights=rows.values.detach()
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        sums = ctx.transposed.weighted_sums(grads[0].contiguous(), ctx.rows.values.detach())
        return ctx.transposed.row_gradient(sums, ctx.rows.num_columns), None, None


def encode(weight: Tensor, rows: SparseRows, transposed: Transposed | None = None) -> Tensor:
    """Multiplies sparse rows by a dense matrix.

    Args:
        weight: (columns, units), float32 or float64; its gradient is sparse, one row for each distinct column.
        rows: a block of rows; no gradient flows to its values.
        transposed: the block's transpose, where another kernel of the step has it already.

    Returns:
        (rows, units); a row without entries gives zeros.
    """
    if len(rows.columns) == 0:
        return weight.new_zeros(rows.num_rows, weight.shape[1])
    return _Encode.apply(weight, rows, transposed or Transposed.of(rows))


class _DecodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code: Tensor, weight: Tensor, bias: Tensor, at: SparseRows, transposed: Transposed) -> Tensor:
        ctx.save_for_backward(code, weight)
        ctx.at, ctx.transposed = at, transposed
        return _sampled_product(code, weight, at).add_(bias.index_select(0, at.columns))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        code, weight = ctx.saved_tensors
        at: SparseRows = ctx.at
        transposed: Transposed = ctx.transposed
        grad = grads[0].contiguous()
        code_grad = F.embedding_bag(at.columns, weight, at.offsets[:-1], mode="sum", per_sample_weights=grad)
        weight_rows = transposed.weighted_sums(code, grad)
        bias_rows = torch.segment_reduce(grad[transposed.order], "sum", offsets=transposed.offsets.long())
        return (
            code_grad,
            transposed.row_gradient(weight_rows, at.num_columns),
            transposed.row_gradient(bias_rows, at.num_columns),
            None,
            None,
        )


def _sampled_product(code: Tensor, weight: Tensor, at: SparseRows) -> Tensor:
    """`code @ weight.T` at the entries of `at` only, (entries,)."""
    structure = torch.sparse_csr_tensor(
        at.offsets,
        at.columns,
        code.new_zeros(len(at.columns)),
        (at.num_rows, at.num_columns),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(structure, code, weight.t(), beta=0.0).values()


def decode_at(
    code: Tensor, weight: Tensor, bias: Tensor, at: SparseRows, transposed: Transposed | None = None
) -> Tensor:
    """Computes `code @ weight.T + bias` only at given entries.

    Args:
        code: (rows, units).
        weight: (columns, units); its gradient is sparse, one row for each distinct column.
        bias: (columns,); its gradient is sparse likewise.
        at: the entries, a block of as many rows; columns must ascend within a row, without duplicates. Its values are
            not read.
        transposed: the transpose of `at`, where another kernel of the step has it already.

    Returns:
        (entries,), in the order of the entries of `at`.
    """
    if len(at.columns) == 0:
        return code.new_zeros(0)
    return _DecodeAt.apply(code, weight, bias, at, transposed or Transposed.of(at))
