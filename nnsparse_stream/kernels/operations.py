"""Sparse linear maps whose cost follows the observed entries, forward and backward.

`encode` multiplies sparse rows by a matrix; `decode_at` multiplies codes by a matrix, only at the entries asked for.
Neither makes anything of size rows x columns, and the gradient of either matrix is a `RowGradient`: the batch is
transposed once, by a stable sort of its columns, and that `Transposed` serves both.

On the CPU the loops are compiled (`cpu_kernels`); elsewhere they are torch operations with the same results.

A matrix may be stored in bfloat16, which halves what a large catalogue takes: its rows that occur in the batch are
widened when they are read, and all arithmetic is that of the rows' or codes' own dtype.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnsparse_stream.kernels import cpu as cpu_kernels
from nnsparse_stream.kernels.bag_sums import bag_sums
from nnsparse_stream.kernels.parts import by_rows
from nnsparse_stream.kernels.row_gradient import RowGradient, Transposed, is_compiled
from nnsparse_stream.sparse.rows import SparseRows

# A sum of so many products takes some ten milliseconds, and is worth a start of threads.
_MANY_PRODUCTS = 1 << 25

# torch warns once in a process that CSR tensors are in beta; we use two of their operations, and test both.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(
        torch.zeros(1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), (0, 0)
    )


def weighted_sums(rows: SparseRows, weights: Tensor, matrix: Tensor) -> Tensor:
    """For each row the sum of `weights[e] * matrix[column of e]` over its entries, (rows, units)."""
    if is_compiled(matrix):
        out = matrix.new_empty(rows.num_rows, matrix.shape[1])
        arrays = (rows.columns.numpy(), weights.numpy(), matrix.detach().numpy())
        offsets, sums = rows.offsets.numpy(), out.numpy()

        def add(first: int, last: int) -> None:
            cpu_kernels.weighted_sums(offsets[first : last + 1], *arrays, sums[first:last])

        if rows.num_entries * matrix.shape[1] >= _MANY_PRODUCTS:
            by_rows(add, rows.num_rows)
        else:
            add(0, rows.num_rows)
        return out
    if not rows.num_entries:
        return matrix.new_zeros(rows.num_rows, matrix.shape[1])
    return bag_sums(matrix, rows.columns, rows.offsets, weights)


def products_at(at: SparseRows, code: Tensor, matrix: Tensor) -> Tensor:
    """`code @ matrix.T` at the entries of `at` only, (entries,)."""
    if is_compiled(matrix):
        out = matrix.new_empty(at.num_entries)
        cpu_kernels.products_at(
            at.offsets.numpy(), at.columns.numpy(), code.detach().numpy(), matrix.detach().numpy(), out.numpy()
        )
        return out
    zeros = code.new_zeros(at.num_entries)
    if not at.num_entries:
        return zeros
    structure = torch.sparse_csr_tensor(at.offsets, at.columns, zeros, at.shape, check_invariants=False)
    return torch.sparse.sampled_addmm(structure, code, matrix.t(), beta=0.0).values()


def _in_use(rows: SparseRows, matrix: Tensor, dtype: torch.dtype, by: Transposed | None) -> tuple[SparseRows, Tensor]:
    """The matrix in the dtype of the arithmetic, and the block that indexes it.

    A narrower matrix is cut to its rows that occur, (distinct, units), and the block's columns are counted among them.
    """
    if matrix.dtype == dtype:
        return rows, matrix
    by = by or Transposed.of(rows)
    distinct = len(by.columns)
    places = torch.empty_like(rows.columns)
    places[by.order.long()] = torch.arange(distinct, dtype=torch.int32, device=rows.device).repeat_interleave(
        by.offsets.diff()
    )
    local = SparseRows(rows.offsets, places, rows.values, distinct)
    return local, matrix.detach()[by.columns.long()].to(dtype)


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
    if is_compiled(matrix):  # elsewhere this would wait for the device, and torch checks there
        rows.validate()


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: SparseRows, transposed: Transposed | None) -> Tensor:
        ctx.rows, ctx.transposed, ctx.shape, ctx.dtype = rows, transposed, weight.shape, weight.dtype
        block, matrix = _in_use(rows, weight, rows.dtype, transposed)
        return weighted_sums(block, rows.values.detach(), matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        transposed = ctx.transposed or Transposed.of(ctx.rows)
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
        block, matrix = _in_use(at, weight, code.dtype, transposed)
        ctx.save_for_backward(code, matrix)
        ctx.at, ctx.block, ctx.transposed, ctx.dense_gradients = at, block, transposed, dense_gradients
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        output = products_at(block, code, matrix)
        return output if bias is None else output.add_(bias.index_select(0, at.columns))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        code, matrix = ctx.saved_tensors
        code, grad = code.detach(), grads[0].contiguous()
        for_code, for_weight, for_bias = ctx.needs_input_grad[:3]
        code_grad = weighted_sums(ctx.block, grad, matrix) if for_code else None
        weight_grad: Tensor | None = None
        bias_grad: Tensor | None = None
        if for_weight or for_bias:
            transposed = ctx.transposed or Transposed.of(ctx.at)
            if for_weight:
                weight_grad = RowGradient(transposed, code, grad, ctx.shape, ctx.dtype)
            if for_bias:
                ones = code.new_ones(len(code), 1)
                bias_grad = RowGradient(transposed, ones, grad, ctx.shape[:1], code.dtype)
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
