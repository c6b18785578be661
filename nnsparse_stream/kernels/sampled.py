"""Scores of a minibatch's own entries and of columns sampled for all of it: what ranking objectives decode.

The cost is O(entries + rows x sampled columns), whatever the catalogue's size: the sampled part is one small dense
product, and the gradient of a matrix is a `RowGradient` of the rows that either part touched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.kernels.dense import product
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows

# Draws at least: among 512 of more than 510 columns there are 255 distinct ones, and among 2n of more than 2n columns n
# where n is more, but for less than one time in 10^20.
_DRAWS = 512


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
    # The first `count` distinct ones of independent draws, in shapes that depend on no draw: by a stable sort, which
    # draws are the first of their column; of these the first `count`; they alone, in the order of the columns.
    draws = max(2 * count, _DRAWS)
    ascending, order = torch.randint(num_columns, (draws,), generator=generator, device=device).sort(stable=True)
    new = torch.ones_like(ascending, dtype=torch.bool)
    new[1:] = ascending[1:] != ascending[:-1]
    earlier = torch.empty_like(order).scatter_(0, order, new.long()).cumsum(0)
    taken = new & (earlier[order] <= count)
    torch._assert_async(taken.sum() == count, "fewer distinct columns were drawn than asked for")
    # All others are written behind the end.
    places = torch.where(taken, taken.cumsum(0) - 1, count)
    return ascending.new_empty(count + 1).scatter_(0, places, ascending)[:count].to(torch.int32)


def places_among(columns: Tensor, by: Transposed) -> Tensor:
    """The place in `columns` of each entry's column, int32 (entries,); -1 where it is not among them.

    Args:
        columns: int32 (sampled,), distinct and ascending, one or more.
        by: the minibatch's transpose.
    """
    places = torch.searchsorted(columns, by.columns, out_int32=True).clamp_(max=len(columns) - 1)
    found = torch.where(columns[places] == by.columns, places, -1)
    in_order = found.repeat_interleave(by.counts(), output_size=len(by.order))
    return torch.empty_like(in_order).scatter_(0, by.order.long(), in_order)


class _Filled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, at: SparseRows, places: Tensor, value: float) -> Tensor:
        ctx.at, ctx.places = at, places
        ctx.mark_dirty(scores)
        backend_of(scores).fill_at(at, places, scores, value)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        backend_of(grad).fill_at(ctx.at, ctx.places, grad, 0.0)
        return grad, None, None, None


def filled(scores: Tensor, at: SparseRows, places: Tensor, value: float) -> Tensor:
    """Scores, in place, with a value wherever a row has a sampled column.

    Args:
        scores: (rows, sampled), contiguous.
        at: the rows.
        places: of their entries, from `places_among`.
        value: the value; no gradient flows there.
    """
    return _Filled.apply(scores, at, places, value)


def _gradient_of_rows(columns: Tensor, rows: Tensor, like: Tensor) -> RowGradient:
    """A gradient whose rows are given: `rows` (n, units) at the distinct, ascending `columns` (n,)."""
    return RowGradient(Transposed.of_rows(columns), rows, rows.new_ones(len(rows)), like.shape, like.dtype)


class _DecodeColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code: Tensor, weight: Tensor, bias: Tensor, columns: Tensor, precision: str) -> Tensor:
        index = columns.long()
        matrix = weight.detach()[index]
        ctx.save_for_backward(code, weight, bias, columns, matrix)
        ctx.precision = precision
        return product(code, matrix.t(), precision, bias[index])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        code, weight, bias, columns, matrix = ctx.saved_tensors
        grad = grads[0]
        return (
            product(grad, matrix, ctx.precision),
            _gradient_of_rows(columns, product(grad.t(), code, ctx.precision), weight),
            _gradient_of_rows(columns, grad.sum(0)[:, None], bias),
            None,
            None,
        )


def decode_columns(code: Tensor, weight: Tensor, bias: Tensor, columns: Tensor, precision: str = "float32") -> Tensor:
    """Computes `code @ weight.T + bias` at some columns for all rows; gradients of weight and bias are by rows.

    Args:
        code: (rows, units).
        weight: (columns, units), of the same dtype.
        bias: (columns,).
        columns: int32 (sampled,), distinct and ascending.
        precision: of the products, see `nnsparse_stream.kernels.dense.product`.

    Returns:
        (rows, sampled).
    """
    return _DecodeColumns.apply(code, weight, bias, columns, precision)


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


class _FromOthers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encoder: Tensor,
        decoder: Tensor,
        bias: Tensor,
        rows: SparseRows,
        ratios: Tensor,
        columns: Tensor,
        transposed: Transposed,
        precision: str,
    ) -> tuple[Tensor, Tensor]:
        backend = backend_of(encoder)
        code = backend.weighted_sums(rows, rows.values, encoder.detach())
        products = backend.products_at(rows, code, decoder.detach())
        products -= rows.values * backend.own_products(transposed, encoder.detach(), decoder.detach())
        matrix = decoder.detach()[columns.long()]
        ctx.save_for_backward(encoder, decoder, bias, code, matrix, ratios)
        ctx.rows, ctx.columns, ctx.transposed, ctx.precision = rows, columns, transposed, precision
        observed = products.mul_(ratios).add_(bias.index_select(0, rows.columns))
        return observed, product(code, matrix.t(), precision, bias[columns.long()])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        encoder, decoder, bias, code, matrix, ratios = ctx.saved_tensors
        rows, columns, by = ctx.rows, ctx.columns, ctx.transposed
        at_entries, at_columns = grads[0] * ratios, grads[1]
        backend = backend_of(encoder)
        code_grad = backend.weighted_sums(rows, at_entries, decoder.detach())
        code_grad += product(at_columns, matrix, ctx.precision)
        # What is taken out: less so much of each other's row, one more entry a column, behind those of the minibatch.
        shares = (at_entries * rows.values)[by.order.long()]
        own = -backend.row_sums(SparseRows(by.offsets, by.rows, shares, len(code)), shares)
        distinct, num_rows = by.columns.long(), len(code)
        with_own = backend.merge(by, by.of_places(), num_rows)
        sampled = Transposed.of_rows(columns)
        ones = code.new_ones(len(columns))

        def vectors(first: Tensor, of: Tensor, last: int = 0) -> Tensor:
            """The rows `first`, the rows of a matrix at the distinct columns, and room for more."""
            out = code.new_empty(num_rows + len(distinct) + last, code.shape[1])
            out[:num_rows] = first
            torch.index_select(of.detach(), 0, distinct, out=out[num_rows : num_rows + len(distinct)])
            return out

        decoder_vectors = vectors(code, encoder, len(columns))
        decoder_vectors[num_rows + len(distinct) :] = product(at_columns.t(), code, ctx.precision)
        return (
            RowGradient(
                with_own, vectors(code_grad, decoder), torch.cat([rows.values, own]), encoder.shape, encoder.dtype
            ),
            RowGradient(
                backend.merge(with_own, sampled, num_rows + len(distinct)),
                decoder_vectors,
                torch.cat([at_entries, own, ones]),
                decoder.shape,
                decoder.dtype,
            ),
            RowGradient(
                backend.merge(by, sampled, num_rows),
                torch.cat([code.new_ones(num_rows), at_columns.sum(0)])[:, None],
                torch.cat([grads[0], ones]),
                bias.shape,
                bias.dtype,
            ),
            *(None,) * 5,
        )


def from_others(
    encoder: Tensor,
    decoder: Tensor,
    bias: Tensor,
    rows: SparseRows,
    ratios: Tensor,
    columns: Tensor,
    transposed: Transposed,
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    """The linear autoencoder's pass of training: each entry by the others of its row, and sampled columns by all.

    With z the sum of v_j * E_j over a row's entries (weights v, encoder E), an entry i has
    (z - v_i * E_i) . D_i * ratio_i + bias_i, and a sampled column j has z . D_j + bias_j (decoder D). It is one
    function, since its gradients by rows then need no second copy.

    Args:
        encoder: (columns, units); gradients of it and the next two are `RowGradient`.
        decoder: likewise; the same tensor where they are tied.
        bias: (columns,).
        rows: the minibatch; the weights v are its values.
        ratios: (entries,).
        columns: int32 (sampled,), distinct and ascending.
        transposed: the minibatch's transpose.
        precision: of the products with sampled columns, see `nnsparse_stream.kernels.dense.product`.

    Returns:
        (entries,) and (rows, sampled).
    """
    return _FromOthers.apply(encoder, decoder, bias, rows, ratios, columns, transposed, precision)
