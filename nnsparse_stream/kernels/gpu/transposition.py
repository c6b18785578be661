"""Transposition of a block by torch's stable sort and Triton; no shape depends on what the block holds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512
_VARYING = ("sorted_columns", "before", "order", "offsets", "num_entries", "num_places", "num_rows")


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_VARYING)
def _store_places(sorted_columns, before, columns, starts, num_entries, num_places, BLOCK: tl.constexpr):
    """Stores the distinct columns and where their entries start, and fills what is left of the places.

    `before` (entries - 1,) is the number of the place of each entry but the first.
    """
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < num_entries
    later = inside & (entry > 0)
    column = tl.load(sorted_columns + entry, mask=inside, other=0)
    place = tl.load(before + entry - 1, mask=later, other=0)
    previous = tl.load(before + entry - 2, mask=inside & (entry > 1), other=0)
    # Never more than there is room for, even if a column is out of range.
    head = inside & ((entry == 0) | (place != previous)) & (place < num_places)
    tl.store(columns + place, column, mask=head)
    tl.store(starts + place, entry, mask=head)
    distinct = tl.load(before + num_entries - 2, mask=num_entries > 1, other=0) + 1
    last = tl.load(sorted_columns + num_entries - 1)
    empty = entry >= distinct
    tl.store(columns + entry, tl.zeros([BLOCK], tl.int32) + last, mask=empty & (entry < num_places))
    tl.store(starts + entry, tl.zeros([BLOCK], tl.int32) + num_entries, mask=empty & (entry <= num_places))


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_VARYING)
def _store_rows(order, offsets, narrow_order, rows, num_entries, num_rows, BLOCK: tl.constexpr):
    """Stores an int64 order as int32, and the row of each of its entries."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < num_entries
    entry = tl.load(order + place, mask=inside, other=0).to(tl.int32)
    low = tl.zeros([BLOCK], tl.int32)
    high = low + num_rows
    span = num_rows
    while span > 1:
        middle = low + (high - low) // 2
        below = tl.load(offsets + middle, mask=inside, other=0) <= entry
        low, high = tl.where(below, middle, low), tl.where(below, high, middle)
        span = (span + 1) // 2
    tl.store(narrow_order + place, entry, mask=inside)
    tl.store(rows + place, low, mask=inside)


def places_of(sorted_columns: Tensor, num_places: int) -> tuple[Tensor, Tensor]:
    """The distinct ones of ascending columns, and where each starts.

    Args:
        sorted_columns: int32 (entries,).
        num_places: at least as many as there are distinct columns.

    Returns:
        int32 (num_places,) and (num_places + 1,): columns and offsets as `Transposed` has them. Places behind the last
        distinct column repeat it, and have no entries.
    """
    num_entries = len(sorted_columns)
    columns, offsets = sorted_columns.new_empty(num_places), sorted_columns.new_empty(num_places + 1)
    if not num_entries:
        return columns.zero_(), offsets.zero_()
    before = (sorted_columns[1:] != sorted_columns[:-1]).cumsum(0, dtype=torch.int32)
    grid = (triton.cdiv(max(num_entries, num_places + 1), _BLOCK),)
    _store_places[grid](sorted_columns, before, columns, offsets, num_entries, num_places, BLOCK=_BLOCK)
    return columns, offsets


def transpose(offsets: Tensor, columns: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sorts the entries of a block by column, stably.

    Args:
        offsets: int32 (rows + 1,).
        columns: int32 (entries,), each in [0, num_columns).
        num_columns: columns of the block.

    Returns:
        `order`, `rows`, `columns` and `offsets` of its `Transposed`, of min(entries, num_columns) places.
    """
    num_entries, num_rows = len(columns), len(offsets) - 1
    sorted_columns, wide_order = torch.sort(columns, stable=True)
    order, rows = torch.empty_like(columns), torch.empty_like(columns)
    if num_entries:
        grid = (triton.cdiv(num_entries, _BLOCK),)
        _store_rows[grid](wide_order, offsets, order, rows, num_entries, num_rows, BLOCK=_BLOCK)
    return order, rows, *places_of(sorted_columns, min(num_entries, num_columns))
