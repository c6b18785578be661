"""Compiled loops of the optimisers on the CPU: a gradient row is summed in a buffer and applied at once, never stored.

As `loops`, whose gradients they read: nothing here checks its arguments.
"""

from __future__ import annotations

import numpy as np

from nnsparse_stream.kernels.cpu.loops import AHEAD, Array, Factors, compiled, gradient_row, next_piece, prefetch_row


@compiled
def _project(gradient: Array, row: Array) -> None:
    """Takes out of a gradient (units,) what lies along a row of norm 1."""
    along = gradient.dtype.type(0)
    for unit in range(len(row)):
        along += gradient[unit] * row[unit]
    for unit in range(len(row)):
        gradient[unit] -= along * row[unit]


@compiled
def _normalise(row: Array) -> None:
    """Divides a row (units,) by its norm; a row of zeros stays as it is."""
    square = row.dtype.type(0)
    for unit in range(len(row)):
        square += row[unit] * row[unit]
    if square > 0:
        scale = 1 / np.sqrt(square)
        for unit in range(len(row)):
            row[unit] *= scale


@compiled
def sgd(
    claimed: Array,
    weight: Array,
    factors: Factors,
    decays: Array,
    unit_rows: bool,
    lr: float,
    momentum: float,
    buffer: Array,
) -> None:
    """Updates the touched rows of `weight` in place; `optim.RowSGD` has the formula.

    Args:
        claimed: see `loops`.
        weight: (columns, units).
        factors: the gradient.
        decays: (distinct,), the L2 coefficient of each row.
        unit_rows: whether the rows have norm 1 and keep it.
        lr: learning rate.
        momentum: with 0 `buffer` is not read.
        buffer: (columns, units), or (0, 0) without momentum.
    """
    lr, momentum = weight.dtype.type(lr), weight.dtype.type(momentum)
    gradient = np.empty(weight.shape[1], weight.dtype)
    start, stop = next_piece(factors.offsets, claimed)
    while start < stop:
        for index in range(start, stop):
            prefetch_row(weight, factors.columns, index + AHEAD)
            if len(buffer) > 0:
                prefetch_row(buffer, factors.columns, index + AHEAD)
            gradient_row(factors, index, gradient)
            row, decay = weight[factors.columns[index]], decays[index]
            if unit_rows:
                _project(gradient, row)
            if len(buffer) == 0:
                for unit in range(len(row)):
                    row[unit] -= lr * (gradient[unit] + decay * row[unit])
            else:
                velocity = buffer[factors.columns[index]]
                for unit in range(len(row)):
                    velocity[unit] = momentum * velocity[unit] + (gradient[unit] + decay * row[unit])
                    row[unit] -= lr * velocity[unit]
            if unit_rows:
                _normalise(row)
        start, stop = next_piece(factors.offsets, claimed)


@compiled
def adagrad(
    claimed: Array,
    weight: Array,
    factors: Factors,
    decays: Array,
    unit_rows: bool,
    lr: float,
    eps: float,
    squares: Array,
) -> None:
    """Updates the touched rows of `weight` and `squares` (columns, units) in place; see `optim.RowAdagrad`."""
    lr, eps = weight.dtype.type(lr), weight.dtype.type(eps)
    gradient = np.empty(weight.shape[1], weight.dtype)
    start, stop = next_piece(factors.offsets, claimed)
    while start < stop:
        for index in range(start, stop):
            prefetch_row(weight, factors.columns, index + AHEAD)
            prefetch_row(squares, factors.columns, index + AHEAD)
            gradient_row(factors, index, gradient)
            row, total, decay = weight[factors.columns[index]], squares[factors.columns[index]], decays[index]
            if unit_rows:
                _project(gradient, row)
            for unit in range(len(row)):
                value = gradient[unit] + decay * row[unit]
                total[unit] += value * value
                row[unit] -= lr * value / (np.sqrt(total[unit]) + eps)
            if unit_rows:
                _normalise(row)
        start, stop = next_piece(factors.offsets, claimed)


@compiled
def adam(
    claimed: Array,
    weight: Array,
    factors: Factors,
    decays: Array,
    unit_rows: bool,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    first: Array,
    second: Array,
    updates: Array,
) -> None:
    """Updates the touched rows of `weight` and of its state in place; see `optim.RowAdam`.

    Args:
        claimed: see `loops`.
        weight: (columns, units).
        factors: the gradient.
        decays: (distinct,), the L2 coefficient of each row.
        unit_rows: whether the rows have norm 1 and keep it.
        lr: learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
        first: (columns, units), the first moments.
        second: the second moments: (columns, units), or (columns, 1) for one a row.
        updates: (columns, 1), how often each row was updated.
    """
    kind = weight.dtype.type
    units = weight.shape[1]
    keep1, keep2, add1, add2 = kind(beta1), kind(beta2), kind(1 - beta1), kind(1 - beta2)
    eps = kind(eps)
    gradient = np.empty(units, weight.dtype)
    start, stop = next_piece(factors.offsets, claimed)
    while start < stop:
        for index in range(start, stop):
            prefetch_row(weight, factors.columns, index + AHEAD)
            prefetch_row(first, factors.columns, index + AHEAD)
            prefetch_row(second, factors.columns, index + AHEAD)
            prefetch_row(updates, factors.columns, index + AHEAD)
            gradient_row(factors, index, gradient)
            column = factors.columns[index]
            row, mean, square, decay = weight[column], first[column], second[column], decays[index]
            if unit_rows:
                _project(gradient, row)
            updates[column, 0] += 1
            rate = kind(lr / (1 - beta1 ** updates[column, 0]))
            scale = kind(1 / np.sqrt(1 - beta2 ** updates[column, 0]))
            if len(square) == units:
                for unit in range(units):
                    value = gradient[unit] + decay * row[unit]
                    mean[unit] = keep1 * mean[unit] + add1 * value
                    square[unit] = keep2 * square[unit] + add2 * (value * value)
                    row[unit] -= rate * mean[unit] / (np.sqrt(square[unit]) * scale + eps)
            else:
                total = kind(0)
                for unit in range(units):
                    value = gradient[unit] + decay * row[unit]
                    mean[unit] = keep1 * mean[unit] + add1 * value
                    total += value * value
                square[0] = keep2 * square[0] + add2 * (total / units)
                rate /= np.sqrt(square[0]) * scale + eps
                for unit in range(units):
                    row[unit] -= rate * mean[unit]
            if unit_rows:
                _normalise(row)
        start, stop = next_piece(factors.offsets, claimed)
