"""Scores of a minibatch's own entries and of columns sampled for all of it: what ranking objectives decode.

The cost is O(entries + rows x sampled columns), whatever the catalogue's size: the sampled part is one small dense
product, and the gradient of a matrix is a `RowGradient` of the rows that either part touched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnsparse_stream.kernels.row_gradient import RowGradient, Transposed
from nnsparse_stream.sparse.rows import SparseRows


def sample_columns(num_columns: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws distinct columns uniformly without replacement, in O(count log count) whatever the number of columns.

    Args:
        num_columns: columns to draw from.
        count: how many; all columns where there are no more.
        generator: source of the draw, on the device of the result.

    Returns:
        int32 (min(count, num_columns),), ascending.
    """
    device = generator.device
    if 2 * count >= num_columns:
        drawn = torch.randperm(num_columns, generator=generator, device=device)[:count]
        return drawn.sort().values.to(torch.int32)
    # The first `count` distinct ones of independent draws; in 2 * count there are as many but for some one in e^count.
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    first = drawn
    while len(first) < count:
        drawn = torch.cat([drawn, torch.randint(num_columns, (2 * count,), generator=generator, device=device)])
        ascending, places = drawn.sort(stable=True)
        new = torch.ones_like(ascending, dtype=torch.bool)
        new[1:] = ascending[1:] != ascending[:-1]
        first = places[new].sort().values
    return drawn[first[:count]].sort().values.to(torch.int32)


def _one_each(columns: Tensor) -> Transposed:
    """The transpose of a block in which row i has the one entry `columns[i]`; they ascend, all distinct."""
    places = torch.arange(len(columns) + 1, dtype=torch.int32, device=columns.device)
    return Transposed(places[:-1], places[:-1], columns, places)


def _gradient_of_rows(columns: Tensor, rows: Tensor, like: Tensor) -> RowGradient:
    """A gradient whose rows are given: `rows` (n, units) at the distinct, ascending `columns` (n,)."""
    return RowGradient(_one_each(columns), rows, rows.new_ones(len(rows)), like.shape, like.dtype)


class _DecodeColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code: Tensor, weight: Tensor, bias: Tensor, columns: Tensor) -> Tensor:
        index = columns.long()
        matrix = weight.detach()[index]
        ctx.save_for_backward(code, weight, bias, columns, matrix)
        return torch.addmm(bias[index], code, matrix.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        code, weight, bias, columns, matrix = ctx.saved_tensors
        grad = grads[0]
        return (
            grad @ matrix,
            _gradient_of_rows(columns, grad.t() @ code, weight),
            _gradient_of_rows(columns, grad.sum(0)[:, None], bias),
            None,
        )


def decode_columns(code: Tensor, weight: Tensor, bias: Tensor, columns: Tensor) -> Tensor:
    """Computes `code @ weight.T + bias` at some columns for all rows; gradients of weight and bias are by rows.

    Args:
        code: (rows, units).
        weight: (columns, units), of the same dtype.
        bias: (columns,).
        columns: int32 (sampled,), distinct and ascending.

    Returns:
        (rows, sampled).
    """
    return _DecodeColumns.apply(code, weight, bias, columns)


class _BiasAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, at: SparseRows, transposed: Transposed) -> Tensor:
        ctx.save_for_backward(bias)
        ctx.num_rows, ctx.transposed = at.num_rows, transposed
        return bias.index_select(0, at.columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (bias,) = ctx.saved_tensors
        ones = bias.new_ones(ctx.num_rows, 1)
        return RowGradient(ctx.transposed, ones, grads[0].contiguous(), bias.shape, bias.dtype), None, None


def bias_at(bias: Tensor, at: SparseRows, transposed: Transposed) -> Tensor:
    """The bias of each entry's column, (entries,); the gradient of `bias` (columns,) is a `RowGradient`."""
    return _BiasAt.apply(bias, at, transposed)


class _OwnProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encoder: Tensor, decoder: Tensor, transposed: Transposed) -> Tensor:
        index = transposed.columns.long()
        encoded, decoded = encoder.detach()[index], decoder.detach()[index]
        ctx.save_for_backward(encoder, decoder, encoded, decoded)
        ctx.transposed = transposed
        products = torch.linalg.vecdot(encoded, decoded)
        out = products.new_empty(len(transposed.order))
        out[transposed.order.long()] = products.repeat_interleave(
            transposed.offsets.diff(), output_size=len(transposed.order)
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        encoder, decoder, encoded, decoded = ctx.saved_tensors
        by: Transposed = ctx.transposed
        # The sum over a column's entries, in float64: many equal numbers must not stand still.
        sums = torch.segment_reduce(grads[0].double()[by.order.long()], "sum", offsets=by.offsets.long())
        weights, once = sums.to(encoder.dtype), _one_each(by.columns)
        return (
            RowGradient(once, decoded, weights, encoder.shape, encoder.dtype),
            RowGradient(once, encoded, weights, decoder.shape, decoder.dtype),
            None,
        )


def own_products(encoder: Tensor, decoder: Tensor, transposed: Transposed) -> Tensor:
    """The product of the encoder's and the decoder's row of each entry's column, (entries,).

    It is what an entry of weight 1 adds to its own estimate in a linear autoencoder.

    Args:
        encoder: (columns, units); its gradient is a `RowGradient`.
        decoder: likewise; the same tensor where they are tied.
        transposed: the transpose of the block of entries.
    """
    return _OwnProducts.apply(encoder, decoder, transposed)
