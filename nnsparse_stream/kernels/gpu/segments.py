"""Weighted sums of a matrix's rows by Triton: the one loop that encodes, and that every gradient row comes from.

A *segment* is a range of places. Its sum is that of `weights[e] * matrix[index[p]]` over its places p, where e is the
place's entry: `order[p]`, or p itself where there is no order. The rows of a block are segments, with their columns as
index; so are the columns of its transpose, with their rows. One program sums one segment and keeps the whole sum in
registers, a unit a lane, so that what follows (a store, a square, an optimiser's update) needs no second pass. With one
unit, as biases have, a lane is a segment instead.

Segments of very different lengths are balanced: of those that have more than `PIECE` places, pieces of `PIECE` to
`2 * PIECE - 1` are summed by a kernel before, each by a program of its own, and the segment's program adds up the
pieces' sums, in their order and in float64. Nothing is added by atomic operations: what a segment gives depends on the
block alone, not on which program came first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Places that one program sums of one segment at most, before the segment is cut. Of one unit fewer: there a lane goes
# through a segment's places, which a warp does for more units.
PIECE = 256
PIECE_OF_ONE_UNIT = 64
# Segments of one unit that one program sums.
LANES = 128

# Arguments whose values and alignment change with every block; a kernel compiled for some serves all.
VARYING = ("offsets", "index", "order", "weights", "num_segments")


# Registers of a thread at most. With no bound the assembler takes fewer and reads a tile's rows by twos and threes, so
# that more programs fit in; a bound makes it read all rows of a tile at once. Without this many, values are spilled.
REGISTERS = 96
# Of a program of 16 warps, of which a multiprocessor holds one either way.
REGISTERS_OF_16_WARPS = 128


class Tile(NamedTuple):
    """How a program reads a matrix: `places` rows at a time, on so many lanes and warps."""

    lanes: int
    places: int
    warps: int


@dataclass(frozen=True)
class Segments:
    """What is summed, as the module says.

    Attributes:
        offsets: int32 (segments + 1,), where each segment's places start.
        index: int32 (places,), a row of the matrix for each.
        order: int32 (places,), the entry of each, or None where a place is its own.
        weights: float32 (entries,).
        matrix: float32 or bfloat16 (rows, units), contiguous.
    """

    offsets: Tensor
    index: Tensor
    order: Tensor | None
    weights: Tensor
    matrix: Tensor

    @property
    def num_segments(self) -> int:
        """How many there are."""
        return len(self.offsets) - 1

    @property
    def units(self) -> int:
        """Columns of the matrix."""
        return self.matrix.shape[1]

    @property
    def piece(self) -> int:
        """Places of a segment that is not cut."""
        return PIECE if self.units > 1 else PIECE_OF_ONE_UNIT

    @property
    def grid(self) -> tuple[int]:
        """Programs of a kernel over all segments."""
        return (self.num_segments if self.units > 1 else triton.cdiv(self.num_segments, LANES),)


def tile_of(units: int, itemsize: int, most: int) -> Tile:
    """The tile for a matrix: 16-byte loads side by side on all threads of a program.

    With as many warps as one row of the matrix occupies, a sum over the rows of a tile never leaves a thread.

    Args:
        units: columns of the matrix.
        itemsize: bytes of an element.
        most: loads of a thread that are under way at once.
    """
    lanes = triton.next_power_of_2(units)
    warps = min(max(lanes * itemsize // 512, 1), 16)
    return Tile(lanes, min(max(most * warps * 512 // (lanes * itemsize), 2), 64), warps)


@triton.jit
def _load_entries(place, last, index, order, weights, ORDERED: tl.constexpr):
    """The weights and the matrix's rows (int64) of places, 0 behind the last."""
    inside = place < last
    entry = place
    if ORDERED:
        entry = tl.load(order + place, mask=inside, other=0)
    return tl.load(weights + entry, mask=inside, other=0.0), tl.load(index + place, mask=inside, other=0).to(tl.int64)


@triton.jit
def sum_of_places(
    first,
    last,
    longest,
    index,
    order,
    weights,
    matrix,
    ORDERED: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Sums places `first:last`, (BLOCK_U,) float32; with one unit these are vectors (BLOCK_U,), a segment a lane.

    `longest` is the length, of the longest segment where there are several.
    """
    lanes = tl.arange(0, BLOCK_U)
    block = tl.arange(0, BLOCK_P)
    if UNITS == 1:
        place, last = first[:, None] + block[None, :], last[:, None]
    else:
        place = first + block
    total = tl.zeros([BLOCK_U], tl.float32)
    weight, row = _load_entries(place, last, index, order, weights, ORDERED)
    for _ in range(0, longest, BLOCK_P):
        inside = place < last
        if UNITS == 1:
            tile = tl.load(matrix + row, mask=inside, other=0.0).to(tl.float32)
        else:
            mask = inside[:, None] & (lanes < UNITS)[None, :]
            tile = tl.load(matrix + row[:, None] * UNITS + lanes[None, :], mask=mask, other=0.0).to(tl.float32)
        # The next entries are called while the rows of these are on their way.
        place += BLOCK_P
        next_weight, next_row = _load_entries(place, last, index, order, weights, ORDERED)
        if UNITS == 1:
            total += tl.sum(weight * tile, axis=1)
        else:
            total += tl.sum(weight[:, None] * tile, axis=0)
        weight, row = next_weight, next_row
    return total


@triton.jit
def sum_of_segment(
    first,
    last,
    index,
    order,
    weights,
    matrix,
    pieces,
    ORDERED: tl.constexpr,
    CUT: tl.constexpr,
    UNITS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Sums the segment `first:last`, (BLOCK_U,) float32; with one unit these are vectors, a segment a lane.

    With CUT long segments are read as the sums of their pieces, which `_sum_pieces` has stored in `pieces`.
    """
    lanes = tl.arange(0, BLOCK_U)
    length = last - first
    wide = tl.zeros([BLOCK_U], tl.float64)
    if CUT:
        slot, count = first // PIECE, tl.where(length > PIECE, length // PIECE, 0)
        whole = tl.where(length > PIECE, 0, length)
        if UNITS == 1:
            longest, most = tl.max(whole, axis=0), tl.max(count, axis=0)
        else:
            longest, most = whole, count
        total = sum_of_places(
            first, first + whole, longest, index, order, weights, matrix, ORDERED, UNITS, BLOCK_U, BLOCK_P
        )
        BLOCK_S: tl.constexpr = 4 if BLOCK_U <= 2048 else 1
        block = tl.arange(0, BLOCK_S)
        for done in range(0, most, BLOCK_S):
            number = done + block
            if UNITS == 1:
                inside = number[None, :] < count[:, None]
                wide += tl.sum(
                    tl.load(pieces + slot[:, None] + number[None, :], mask=inside, other=0.0).to(tl.float64), axis=1
                )
            else:
                inside = (number < count)[:, None] & (lanes < UNITS)[None, :]
                at = (slot + number).to(tl.int64)[:, None] * UNITS + lanes[None, :]
                wide += tl.sum(tl.load(pieces + at, mask=inside, other=0.0).to(tl.float64), axis=0)
        return total + wide.to(tl.float32)
    longest = tl.max(length, axis=0) if UNITS == 1 else length
    # In pieces here too: a float32 sum of many equal numbers stands still where it is large.
    for done in range(0, longest, PIECE):
        start = first + done
        end = tl.minimum(start + PIECE, last)
        wide += sum_of_places(
            start,
            end,
            tl.minimum(longest - done, PIECE),
            index,
            order,
            weights,
            matrix,
            ORDERED,
            UNITS,
            BLOCK_U,
            BLOCK_P,
        ).to(tl.float64)
    return wide.to(tl.float32)


@triton.jit
def segments_of_program(offsets, num_segments, UNITS: tl.constexpr, BLOCK_U: tl.constexpr):
    """The segments that a program sums, their first and last places: numbers, or vectors (BLOCK_U,) with one unit."""
    segment = tl.program_id(0)
    if UNITS == 1:
        segment = segment * BLOCK_U + tl.arange(0, BLOCK_U)
        inside = segment < num_segments
        return (
            segment,
            tl.load(offsets + segment, mask=inside, other=0),
            tl.load(offsets + segment + 1, mask=inside, other=0),
        )
    return segment, tl.load(offsets + segment), tl.load(offsets + segment + 1)


@triton.jit
def last_not_above(ascending, count, bound):
    """The last of `count` ascending int32 numbers that is at most `bound`, which the first is."""
    low = tl.program_id(0) * 0
    high = low + count
    while high - low > 1:
        middle = low + (high - low) // 2
        if tl.load(ascending + middle) <= bound:
            low = middle
        else:
            high = middle
    return low


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=VARYING)
def _sum_pieces(
    offsets,
    index,
    order,
    weights,
    matrix,
    pieces,
    num_segments,
    ORDERED: tl.constexpr,
    UNITS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Sums the piece of a long segment that belongs in this program's slot, if one does.

    The pieces of a segment `first:last` are `length // PIECE`, and their slots follow `first // PIECE`; so no two
    segments share one, and the last place of `slot * PIECE : (slot + 1) * PIECE` lies in the slot's segment.
    """
    slot = tl.program_id(0)
    segment = last_not_above(offsets, num_segments, (slot + 1) * PIECE - 1)
    first, last = tl.load(offsets + segment), tl.load(offsets + segment + 1)
    count, number = (last - first) // PIECE, slot - first // PIECE
    if (last - first > PIECE) & (number < count):
        start = first + number * PIECE
        end = tl.where(number == count - 1, last, start + PIECE)
        lanes = tl.arange(0, BLOCK_U)
        if UNITS == 1:
            total = _sum_of_one_unit(start, end, index, order, weights, matrix, ORDERED, BLOCK_P)
            tl.store(pieces + slot, total)
        else:
            total = sum_of_places(
                start, end, end - start, index, order, weights, matrix, ORDERED, UNITS, BLOCK_U, BLOCK_P
            )
            tl.store(pieces + slot.to(tl.int64) * UNITS + lanes, total, mask=lanes < UNITS)


@triton.jit
def _sum_of_one_unit(first, last, index, order, weights, matrix, ORDERED: tl.constexpr, BLOCK_P: tl.constexpr):
    """Sums places `first:last` of a matrix of one unit on all threads, a number."""
    block = tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_P], tl.float32)
    for start in range(first, last, BLOCK_P):
        place = start + block
        weight, row = _load_entries(place, last, index, order, weights, ORDERED)
        total += weight * tl.load(matrix + row, mask=place < last, other=0.0).to(tl.float32)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=VARYING)
def _store_sums(
    offsets,
    index,
    order,
    weights,
    matrix,
    pieces,
    out,
    num_segments,
    SQUARED: tl.constexpr,
    ORDERED: tl.constexpr,
    CUT: tl.constexpr,
    UNITS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Stores the sums of the segments, or the sum of the squares of a program's, into `out`."""
    segment, first, last = segments_of_program(offsets, num_segments, UNITS, BLOCK_U)
    total = sum_of_segment(
        first, last, index, order, weights, matrix, pieces, ORDERED, CUT, UNITS, PIECE, BLOCK_U, BLOCK_P
    )
    lanes = tl.arange(0, BLOCK_U)
    if SQUARED:
        tl.store(out + tl.program_id(0), tl.sum(total * total, axis=0))
    elif UNITS == 1:
        tl.store(out + segment, total, mask=segment < num_segments)
    else:
        tl.store(out + segment.to(tl.int64) * UNITS + lanes, total, mask=lanes < UNITS)


class Launch(NamedTuple):
    """What a kernel over all segments is started with: its grid, its first arguments, and how it is compiled."""

    grid: tuple[int]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def launch_of(segments: Segments, short: bool = False) -> Launch:
    """Sums the pieces of long segments, if there can be any, and says how to start a kernel over all segments.

    Args:
        segments: at least one.
        short: whether long segments are so improbable that it does not pay to look for them.
    """
    index, order, weights, matrix = segments.index, segments.order, segments.weights, segments.matrix
    num_segments, units, piece = segments.num_segments, segments.units, segments.piece
    # What a transpose's rows name is little and read again and again: it comes from the cache, and soon.
    loads = 8 if order is None else 4
    tile = tile_of(units, matrix.element_size(), loads)
    # Without an order, or without pieces, any pointer will do: it is not read.
    arguments = (segments.offsets, index, index if order is None else order, weights, matrix)
    registers = REGISTERS if tile.warps < 16 else REGISTERS_OF_16_WARPS
    common = {"ORDERED": order is not None, "UNITS": units, "PIECE": piece, "maxnreg": registers}
    num_slots = 0 if short else len(index) // piece
    pieces = weights
    if num_slots:
        pieces = torch.empty(num_slots * units, dtype=torch.float32, device=matrix.device)
        shape = {"BLOCK_U": tile.lanes, "BLOCK_P": tile.places, "num_warps": tile.warps}
        _sum_pieces[(num_slots,)](*arguments, pieces, num_segments, **shape, **common)
    if units == 1:
        tile = Tile(LANES, 4, LANES // 32)
    else:
        # A tile of more places than most segments have would spend its time on masked loads.
        typical = triton.next_power_of_2(len(index) // num_segments)
        tile = tile._replace(places=min(max(typical, 2 * tile.places // loads), tile.places))
    shape = {"BLOCK_U": tile.lanes, "BLOCK_P": tile.places, "num_warps": tile.warps}
    return Launch(segments.grid, (*arguments, pieces), {"CUT": num_slots > 0, **shape, **common})


def sums(segments: Segments, short: bool = False) -> Tensor:
    """The sum of each segment, float32 (segments, units)."""
    out = torch.empty(segments.num_segments, segments.units, dtype=torch.float32, device=segments.matrix.device)
    if segments.num_segments:
        grid, arguments, options = launch_of(segments, short)
        _store_sums[grid](*arguments, out, segments.num_segments, SQUARED=False, **options)
    return out


def sum_of_squares(segments: Segments, short: bool = False) -> Tensor:
    """The sum of the squares of all segments' sums, float32, 0-d; over the segments in float64."""
    out = torch.empty(segments.grid, dtype=torch.float32, device=segments.matrix.device)
    if segments.num_segments:
        grid, arguments, options = launch_of(segments, short)
        _store_sums[grid](*arguments, out, segments.num_segments, SQUARED=True, **options)
    return out.sum(dtype=torch.float64).float()
