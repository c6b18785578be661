"""Updates of the rows that a gradient touches, fused with the sums of their gradient rows, by Triton.

A gradient row is summed in registers and applied at once, as the CPU's loops do (`kernels.cpu.updates`): the matrix and
its state are read once and written once, and the gradient is never stored.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnsparse_stream.kernels.gpu.segments import VARYING, Segments, launch_of, segments_of_program, sum_of_segment
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam, Rule

_VARYING = (*VARYING, "columns", "decays", "seed")


@triton.jit
def _over_row(values, UNITS: tl.constexpr):
    """The sum over a row's units; with one unit the values themselves, of which each is a row's."""
    return values if UNITS == 1 else tl.sum(values, axis=0)


@triton.jit
def _one_minus_power(logarithm, exponent):
    """1 - beta^t by log(beta) and t >= 1: exact to float32 also where beta^t is close to 1."""
    x = logarithm * exponent
    # 1 - e^x by its series, where the difference would cancel.
    series = 1.0 / 40320
    series = 1.0 / 5040 + x * series
    series = 1.0 / 720 + x * series
    series = 1.0 / 120 + x * series
    series = 1.0 / 24 + x * series
    series = 1.0 / 6 + x * series
    series = 0.5 + x * series
    series = 1.0 + x * series
    return tl.where(x > -0.35, -x * series, 1.0 - tl.exp(x))


@triton.jit
def _rounded(values, at, seed):
    """Float32 values that are bfloat16's, rounded up or down at random so that the mean is kept; see `rounding`."""
    # Seven rounds of Philox pass all tests of randomness (Salmon et al., "Parallel random numbers", 2011).
    noise = tl.randint(tl.load(seed), at, 7).to(tl.int32, bitcast=True) & 0xFFFF
    up = ((values.to(tl.int32, bitcast=True) + noise) & -65536).to(tl.float32, bitcast=True)
    # A GPU's own NaN has all bits set: the noise would make a zero of it.
    return tl.where(values == values, up, values)


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_VARYING)
def _update(
    offsets,
    index,
    order,
    weights,
    vectors,
    pieces,
    columns,
    decays,
    seed,
    matrix,
    first_state,
    second_state,
    updates,
    num_segments,
    rate,
    momentum,
    eps,
    keep1,
    add1,
    logarithm1,
    keep2,
    add2,
    logarithm2,
    RULE: tl.constexpr,
    UNIT_ROWS: tl.constexpr,
    ORDERED: tl.constexpr,
    CUT: tl.constexpr,
    UNITS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Updates the matrix's row of one place, or with one unit those of BLOCK_U places, and their state."""
    segment, first, last = segments_of_program(offsets, num_segments, UNITS, BLOCK_U)
    lanes = tl.arange(0, BLOCK_U)
    # Of places without entries nothing is updated. With one unit `mask` tells them, and a row is an element.
    if UNITS == 1:
        mask = first < last
        some = tl.max(last - first, axis=0) > 0
        column = tl.load(columns + segment, mask=segment < num_segments, other=0).to(tl.int64)
        decay = tl.load(decays + segment, mask=segment < num_segments, other=0.0)
        at = column
    else:
        mask = lanes < UNITS
        some = first < last
        column = tl.load(columns + segment).to(tl.int64)
        decay = tl.load(decays + segment)
        at = column * UNITS + lanes
    if some:
        # What will be changed is called before the gradient is summed, which takes as long.
        row = tl.load(matrix + at, mask=mask, other=0.0).to(tl.float32)
        if RULE != "sgd":
            moment = tl.load(first_state + at, mask=mask, other=0.0)
        if RULE == "adam":
            square = tl.load(second_state + at, mask=mask, other=0.0)
        if RULE == "row_adam":
            square = tl.load(second_state + column)
        if RULE == "adam" or RULE == "row_adam":
            if UNITS == 1:
                count = tl.load(updates + column, mask=mask, other=0.0) + 1.0
            else:
                count = tl.load(updates + column) + 1.0
        gradient = sum_of_segment(
            first, last, index, order, weights, vectors, pieces, ORDERED, CUT, UNITS, PIECE, BLOCK_U, BLOCK_P
        )
        if UNIT_ROWS:
            gradient -= _over_row(gradient * row, UNITS) * row
        gradient += decay * row

        if RULE == "sgd":
            row -= rate * gradient
        if RULE == "momentum":
            moment = momentum * moment + gradient
            row -= rate * moment
        if RULE == "adagrad":
            moment += gradient * gradient
            row -= rate * gradient / (tl.sqrt_rn(moment) + eps)
        if RULE == "adam" or RULE == "row_adam":
            moment = keep1 * moment + add1 * gradient
            if RULE == "adam":
                square = keep2 * square + add2 * (gradient * gradient)
            else:
                square = keep2 * square + add2 * (tl.sum(gradient * gradient, axis=0) / UNITS)
            step = rate / _one_minus_power(logarithm1, count)
            scale = 1.0 / tl.sqrt_rn(_one_minus_power(logarithm2, count))
            row -= step * moment / (tl.sqrt_rn(square) * scale + eps)
        if UNIT_ROWS:
            norm = _over_row(row * row, UNITS)
            row /= tl.sqrt_rn(tl.where(norm > 0, norm, 1.0))
        if matrix.dtype.element_ty == tl.bfloat16:
            row = _rounded(row, at, seed)

        # Several threads may have loaded what one of them stores now: all must have it.
        tl.debug_barrier()
        tl.store(matrix + at, row.to(matrix.dtype.element_ty), mask=mask)
        if RULE != "sgd":
            tl.store(first_state + at, moment, mask=mask)
        if RULE == "adam":
            tl.store(second_state + at, square, mask=mask)
        if RULE == "row_adam":
            tl.store(second_state + column, square)
        if RULE == "adam" or RULE == "row_adam":
            if UNITS == 1:
                tl.store(updates + column, count, mask=mask)
            else:
                tl.store(updates + column, count)


def _arguments(rule: Rule, state: dict[str, Tensor], units: int) -> tuple[str, list[Tensor], list[float]]:
    """The name of the rule's code, its state's tensors, and the numbers from `rate` on."""
    if isinstance(rule, SGD):
        name, used, numbers = ("momentum" if state else "sgd"), list(state.values()), [rule.lr, rule.momentum]
    elif isinstance(rule, Adagrad):
        name, used, numbers = "adagrad", [state["squares"]], [rule.lr, 0.0, rule.eps]
    elif isinstance(rule, Adam):
        used = [state["first"], state["second"], state["updates"]]
        name = "adam" if used[1].shape[1] == units else "row_adam"
        numbers = [rule.lr, 0.0, rule.eps]
        for beta in (rule.beta1, rule.beta2):
            numbers += [beta, 1 - beta, math.log(beta) if beta else -math.inf]
    else:
        raise TypeError(f"there is no kernel for {rule}")
    return name, used, [float(number) for number in numbers + [0.0] * (9 - len(numbers))]


def update(
    rule: Rule,
    matrix: Tensor,
    columns: Tensor,
    gradient: Segments,
    decays: Tensor,
    state: dict[str, Tensor],
    unit_rows: bool,
    generator: torch.Generator | None,
    short: bool,
) -> None:
    """Updates the rows of a matrix, and their state, in place.

    Args:
        rule: what to do.
        matrix: float32 or bfloat16 (columns, units), contiguous, as all of these.
        columns: int32 (segments,), distinct where a segment has places; where it has none, nothing is updated.
        gradient: sums to each column's gradient row.
        decays: float32 (segments,), the L2 coefficient of each row.
        state: what the rule keeps, float32, each (columns, units) or (columns, 1).
        unit_rows: whether the rows have norm 1 and keep it.
        generator: draws the seed of the rounding of bfloat16.
        short: as for `launch_of`.
    """
    if not len(columns):
        return
    name, used, numbers = _arguments(rule, state, gradient.units)
    # What a rule does not have is not read: any pointer will do.
    used += [matrix] * (3 - len(used))
    seed = columns
    if matrix.dtype == torch.bfloat16:
        seed = torch.randint(1 << 62, (1,), generator=generator, device=matrix.device)
    grid, arguments, options = launch_of(gradient, short)
    _update[grid](
        *arguments,
        columns,
        decays,
        seed,
        matrix,
        *used,
        len(columns),
        *numbers,
        RULE=name,
        UNIT_ROWS=unit_rows,
        **options,
    )
