"""Products of vectors at a block's entries, and sums of its rows' values, by Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnsparse_stream.kernels.gpu.segments import REGISTERS, Tile

# Entries of a row that one program multiplies at most; a row of more is cut into equal parts.
_PART = 64
_VARYING = ("offsets", "columns", "order", "values", "num_rows")


def _tile_of(units: int) -> Tile:
    """The tile of a dot product: a warp has a whole row of the matrix, so that no sum leaves it, up to 1,024 units."""
    lanes = triton.next_power_of_2(units)
    warps = max(lanes // 1024, 1)
    return Tile(lanes, min(max(2048 * warps // lanes, 2), _PART), warps)


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_VARYING)
def _products_at(
    offsets,
    columns,
    code,
    matrix,
    out,
    num_rows,
    UNITS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Products of one row's code at a part of its entries.

    The parts of a row r are numbered from `r + offsets[r] // PART` to before that number of the next row: one more than
    the row has whole parts, or two. So the program finds its row by bisection, and no table of parts is made.
    """
    number = tl.program_id(0)
    row = number * 0
    high = row + num_rows
    while high - row > 1:
        middle = row + (high - row) // 2
        if middle + tl.load(offsets + middle) // PART <= number:
            row = middle
        else:
            high = middle
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    lowest = row + first // PART
    parts = row + 1 + last // PART - lowest
    size = (last - first + parts - 1) // parts
    first += (number - lowest) * size
    last = tl.minimum(first + size, last)

    lanes = tl.arange(0, BLOCK_U)
    vector = tl.load(code + row.to(tl.int64) * UNITS + lanes, mask=lanes < UNITS, other=0.0)
    place = first + tl.arange(0, BLOCK_P)
    column = tl.load(columns + place, mask=place < last, other=0).to(tl.int64)
    for _ in range(first, last, BLOCK_P):
        inside = place < last
        mask = inside[:, None] & (lanes < UNITS)[None, :]
        tile = tl.load(matrix + column[:, None] * UNITS + lanes[None, :], mask=mask, other=0.0).to(tl.float32)
        # The next columns are called while the rows of these are on their way.
        column = tl.load(columns + place + BLOCK_P, mask=place + BLOCK_P < last, other=0).to(tl.int64)
        tl.store(out + place, tl.sum(vector[None, :] * tile, axis=1), mask=inside)
        place += BLOCK_P


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_VARYING)
def _own_products(
    columns, offsets, order, left, right, out, UNITS: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK: tl.constexpr
):
    """The product of two matrices' rows of one column, at each of its entries."""
    place = tl.program_id(0)
    first, last = tl.load(offsets + place), tl.load(offsets + place + 1)
    if first < last:
        lanes = tl.arange(0, BLOCK_U)
        at = tl.load(columns + place).to(tl.int64) * UNITS + lanes
        one = tl.load(left + at, mask=lanes < UNITS, other=0.0).to(tl.float32)
        other = tl.load(right + at, mask=lanes < UNITS, other=0.0).to(tl.float32)
        product = tl.zeros([BLOCK], tl.float32) + tl.sum(one * other, axis=0)
        for start in range(first, last, BLOCK):
            entry = start + tl.arange(0, BLOCK)
            tl.store(out + tl.load(order + entry, mask=entry < last, other=0), product, mask=entry < last)


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_VARYING)
def _row_sums(offsets, values, out, BLOCK: tl.constexpr):
    """The sum of one row's values, in float64."""
    row = tl.program_id(0)
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(first, last, BLOCK):
        entry = start + tl.arange(0, BLOCK)
        total += tl.load(values + entry, mask=entry < last, other=0.0).to(tl.float64)
    tl.store(out + row, tl.sum(total, axis=0).to(tl.float32))


def products_at(offsets: Tensor, columns: Tensor, code: Tensor, matrix: Tensor) -> Tensor:
    """Products `code[row] . matrix[column]` at each entry of a block, float32 (entries,).

    Args:
        offsets: int32 (rows + 1,).
        columns: int32 (entries,).
        code: float32 (rows, units), contiguous.
        matrix: float32 or bfloat16 (columns, units), contiguous.
    """
    num_rows, num_entries, units = len(offsets) - 1, len(columns), code.shape[1]
    out = torch.empty(num_entries, dtype=torch.float32, device=matrix.device)
    if num_entries:
        tile = _tile_of(units)
        _products_at[(num_rows + num_entries // _PART,)](
            offsets,
            columns,
            code,
            matrix,
            out,
            num_rows,
            UNITS=units,
            PART=_PART,
            BLOCK_U=tile.lanes,
            BLOCK_P=tile.places,
            num_warps=tile.warps,
            maxnreg=REGISTERS,
        )
    return out


def own_products(columns: Tensor, offsets: Tensor, order: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Products `left[column] . right[column]` at each entry of a block, float32 (entries,).

    Args:
        columns, offsets, order: int32, of the block's transpose.
        left: float32 or bfloat16 (columns, units), contiguous.
        right: likewise.
    """
    out = torch.empty(len(order), dtype=torch.float32, device=left.device)
    if len(columns):
        tile = _tile_of(left.shape[1])
        options = {"UNITS": left.shape[1], "BLOCK_U": tile.lanes, "num_warps": tile.warps}
        _own_products[(len(columns),)](columns, offsets, order, left, right, out, BLOCK=128, **options)
    return out


def row_sums(offsets: Tensor, values: Tensor) -> Tensor:
    """The sum of each row's values (entries,), float32 (rows,); summed in float64."""
    num_rows = len(offsets) - 1
    out = torch.empty(num_rows, dtype=torch.float32, device=values.device)
    if num_rows:
        _row_sums[(num_rows,)](offsets, values, out, BLOCK=1024)
    return out
