"""Sparse linear maps whose cost follows the observed entries, forward and backward.

`encode` multiplies sparse rows by a matrix; `decode_at` multiplies codes by a matrix, only at the entries asked for.
Neither makes anything of size rows x columns, and the gradient of either matrix is a `RowGradient`: the batch is
transposed once, by a stable sort of its columns, and that `Transposed` serves both.

A matrix may be stored in bfloat16, which halves what a large catalogue takes: its rows that occur in the batch are
widened when they are read, and all arithmetic is that of the rows' or codes' own dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows


def transpose(rows: SparseRows) -> Transposed:
    """The column-wise view of a block, in which rows ascend within a column; O(entries), whatever the columns.

    Raises:
        ValueError: the block's offsets or columns are out of range; on a GPU that is not checked.
    """
    if rows.device.type == "cpu":
        rows.validate()
    return backend_of(rows.values).transpose(rows)


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: SparseRows, values: Tensor) -> Tensor:
        ctx.rows = rows
        return backend_of(values).row_sums(rows, values.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0].index_select(0, ctx.rows.row_indices())


def row_sums(rows: SparseRows, values: Tensor) -> Tensor:
    """The sum of each row's values, (rows,), in their dtype; in float64 within, in a fixed order.

    Args:
        rows: says which entries are a row's; its own values are not read.
        values: (entries,).
    """
    return _RowSums.apply(rows, values)


class _AtEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: SparseRows, values: Tensor) -> Tensor:
        ctx.rows = rows
        return values.index_select(0, rows.row_indices())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, backend_of(grads[0]).row_sums(ctx.rows, grads[0].contiguous())


def at_entries(rows: SparseRows, values: Tensor) -> Tensor:
    """The value of each entry's row, (entries,).

    It is `values[row]`, but that its gradient is `row_sums`: torch's own adds up atomically on a GPU, so that two runs
    differ, and in float32.

    Args:
        rows: says which entries are a row's; its own values are not read.
        values: (rows,).
    """
    return _AtEntries.apply(rows, values)


def _check(rows: SparseRows, matrix: Tensor, other: Tensor, transposed: Transposed | None) -> None:
    """Checks what the kernels take for granted.

    Raises:
        ValueError: sizes, dtypes or devices do not fit, or an index is out of range.
    """
    if rows.num_columns != len(matrix):
        raise ValueError(f"the rows have {rows.num_columns} columns, but the matrix has {len(matrix)} rows")
    fits = other.dtype == matrix.dtype or (other.dtype, matrix.dtype) == (torch.float32, torch.bfloat16)
    if not fits or other.device != matrix.device:
        raise ValueError(f"{other.dtype} on {other.device} does not go with {matrix.dtype} on {matrix.device}")
    if transposed is not None and len(transposed.order) != rows.num_entries:
        raise ValueError(f"a transpose of {len(transposed.order)} entries is not that of {rows.num_entries}")
    if matrix.device.type == "cpu":  # elsewhere this would wait for the device
        rows.validate()


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: SparseRows, transposed: Transposed | None) -> Tensor:
        ctx.rows, ctx.transposed, ctx.shape, ctx.dtype = rows, transposed, weight.shape, weight.dtype
        return backend_of(weight).weighted_sums(rows, rows.values.detach(), weight.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        transposed = ctx.transposed or transpose(ctx.rows)
        values = ctx.rows.values.detach()
        return RowGradient(transposed, grads[0].contiguous(), values, ctx.shape, ctx.dtype), None, None


def encode(weight: Tensor, rows: SparseRows, transposed: Transposed | None = None) -> Tensor:
    """Multiplies sparse rows by a dense matrix.

    Args:
        weight: (columns, units), float32, float64 or bfloat16; its gradient is a `RowGradient`.
        rows: a block of rows of the same dtype, of float32 for bfloat16; no gradient flows to its values.
        transposed: the block's transpose, where another kernel of the step has it already.

    Returns:
        (rows, units); a row without entries gives zeros.

    Raises:
        ValueError: sizes or dtypes do not fit, or an index is out of range.
    """
    _check(rows, weight, rows.values, transposed)
    return _Encode.apply(weight, rows, transposed)


class _DecodeAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        code: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        at: SparseRows,
        transposed: Transposed | None,
        dense_gradients: bool,
    ) -> Tensor:
        code = code.contiguous()
        ctx.save_for_backward(code, weight)
        ctx.at, ctx.transposed, ctx.dense_gradients = at, transposed, dense_gradients
        output = backend_of(weight).products_at(at, code.detach(), weight.detach())
        return output if bias is None else output.add_(bias.index_select(0, at.columns))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        code, weight = (tensor.detach() for tensor in ctx.saved_tensors)
        grad = grads[0].contiguous()
        for_code, for_weight, for_bias = ctx.needs_input_grad[:3]
        code_grad = backend_of(weight).weighted_sums(ctx.at, grad, weight) if for_code else None
        weight_grad: Tensor | None = None
        bias_grad: Tensor | None = None
        if for_weight or for_bias:
            transposed = ctx.transposed or transpose(ctx.at)
            if for_weight:
                weight_grad = RowGradient(transposed, code, grad, weight.shape, weight.dtype)
            if for_bias:
                ones = code.new_ones(len(code), 1)
                bias_grad = RowGradient(transposed, ones, grad, weight.shape[:1], code.dtype)
            if ctx.dense_gradients:
                weight_grad, bias_grad = (g if g is None else g.to_dense() for g in (weight_grad, bias_grad))
        return code_grad, weight_grad, bias_grad, None, None, None


def decode_at(
    code: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    at: SparseRows,
    transposed: Transposed | None = None,
    dense_gradients: bool = False,
) -> Tensor:
    """Computes `code @ weight.T + bias` only at given entries.

    Args:
        code: (rows, units).
        weight: (columns, units), of the same dtype, or bfloat16 where that is float32; its gradient is a
            `RowGradient`.
        bias: (columns,) or None; its gradient is a `RowGradient` of one unit.
        at: the entries, a block of as many rows; its values are not read. On a GPU columns must ascend within a row,
            without duplicates.
        transposed: the transpose of `at`, where another kernel of the step has it already.
        dense_gradients: make the gradients of weight and bias dense, for an optimiser of torch.

    Returns:
        (entries,), in the order of the entries of `at`.

    Raises:
        ValueError: sizes or dtypes do not fit, or an index is out of range.
    """
    _check(at, weight, code, transposed)
    if code.shape != (at.num_rows, weight.shape[1]):
        raise ValueError(f"codes must be {(at.num_rows, weight.shape[1])}, got {tuple(code.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"the bias must be {tuple(weight.shape[:1])}, got {tuple(bias.shape)}")
    return _DecodeAt.apply(code, weight, bias, at, transposed, dense_gradients)
