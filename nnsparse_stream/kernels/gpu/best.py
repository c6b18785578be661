"""The k best columns of rows out of tiles of scores, on a GPU: one pass over a tile, and nothing waits for the device.

As on the CPU (`kernels.cpu.best`), a row keeps a buffer of candidates, in ascending order of columns, and a bound: what
does not exceed it cannot be among the k best. One program takes a row's part of a tile: it counts the scores above the
bound and appends them, in their order, so that no atomic is needed. Where they don't fit, the bound is raised first: to
one that leaves at least k candidates and at most half of what there is room for, found by bisection, or, where too many
are equal, to the k-th best score, of which the first columns stay. So shapes depend on no data, and a tile's scores are
read twice, and some six times more, out of a cache, where the buffer is cut: at the first tile and at few after it. Of
100 among 27,000 columns in random order there are 3 cuts in 14 tiles, with 3 halvings each; of scores that rise, 5.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows

# Scores that a program reads at once.
_BLOCK = 1024
# Room for candidates of a row beside 4k: half of it is free after a cut, so that not every tile needs one.
_ROOM = 256
# Candidates beside 2k that are sorted at the end: to cut to no more than k would take many halvings.
_SORTED_ROOM = 32


@triton.jit
def _key(score):
    """An int32 in the order of the floats."""
    bits = score.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _score(key):
    """The float of such an int32."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _above(scores, count, bound, BLOCK: tl.constexpr):
    """How many of the first `count` scores exceed a bound; NaN never does."""
    found = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, count, BLOCK):
        lane = begin + tl.arange(0, BLOCK)
        found += (tl.load(scores + lane, mask=lane < count, other=float("-inf")) > bound).to(tl.int32)
    return tl.sum(found, 0)


@triton.jit
def _range_above(scores, count, bound, BLOCK: tl.constexpr):
    """The lowest and the highest of the scores that exceed a bound; inf and -inf where none does."""
    low, high = tl.full((BLOCK,), float("inf"), tl.float32), tl.full((BLOCK,), float("-inf"), tl.float32)
    for begin in range(0, count, BLOCK):
        lane = begin + tl.arange(0, BLOCK)
        score = tl.load(scores + lane, mask=lane < count, other=float("-inf"))
        passing = score > bound
        low = tl.minimum(low, tl.where(passing, score, float("inf")))
        high = tl.maximum(high, tl.where(passing, score, float("-inf")))
    return tl.min(low, 0), tl.max(high, 0)


@triton.jit
def _append(score, column, bound, ties, held, columns, kept):
    """Appends to the `kept` candidates what exceeds the bound, and the first `ties` lanes that equal it, in order.

    Returns:
        How many candidates there are then, and how many ties may follow.
    """
    keep = score > bound
    if ties > 0:
        tie = score == bound
        tie &= tl.cumsum(tie.to(tl.int32), 0) <= ties
        ties -= tl.sum(tie.to(tl.int32), 0)
        keep |= tie
    place = kept + tl.cumsum(keep.to(tl.int32), 0) - 1
    # All have read before one writes: the buffer is cut in place.
    tl.debug_barrier()
    tl.store(held + place, score, mask=keep)
    tl.store(columns + place, column, mask=keep)
    return kept + tl.sum(keep.to(tl.int32), 0), ties


@triton.jit(do_not_specialize=["k", "most", "capacity"], do_not_specialize_on_alignment=["offsets", "known"])
def _keep_best(
    scores, start, width, eligible, offsets, known,
    held, columns, held_stride, counts, bounds, k, most, capacity,
    BLOCK: tl.constexpr, HELD_BLOCK: tl.constexpr,
):  # fmt: skip
    """Takes a row's scores at `width` columns from `start` on into its candidates; see `GpuBest`.

    Args:
        scores: float32 (rows, width), overwritten.
        start: the tile's first column.
        width: columns of the tile.
        eligible: bool (columns,), which may be listed.
        offsets: int32 (rows + 1,), where the known columns of each row begin.
        known: int32 (entries,); these are not listed.
        held: float32 (rows, held_stride), the scores of the candidates.
        columns: int32, likewise, their columns, ascending within a row.
        held_stride: candidates that there is room for.
        counts: int32 (rows,), how many candidates a row has.
        bounds: float32 (rows,), no score up to it is among the best; -inf at first.
        k: how many columns are wanted.
        most: how many candidates a cut leaves, k or more.
        capacity: cut where there would be more.
        BLOCK: scores read at once.
        HELD_BLOCK: candidates read at once.
    """
    row = tl.program_id(0).to(tl.int64)
    scores += row * width
    held += row * held_stride
    columns += row * held_stride
    count, bound = tl.load(counts + row), tl.load(bounds + row)
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    for begin in range(first, last, BLOCK):
        entry = begin + tl.arange(0, BLOCK)
        column = tl.load(known + entry, mask=entry < last, other=-1) - start
        tl.store(scores + column, float("-inf"), mask=(column >= 0) & (column < width))
    # Other threads read what is written to the tile; and `counts`, which is written below, is read by all above.
    tl.debug_barrier()
    exceeds = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, width, BLOCK):
        lane = begin + tl.arange(0, BLOCK)
        score = tl.load(scores + lane, mask=lane < width, other=float("-inf"))
        able = tl.load(eligible + start + lane, mask=lane < width, other=True)
        exceeds += ((score > bound) & able).to(tl.int32)
        tl.store(scores + lane, float("-inf"), mask=able == 0)
    tl.debug_barrier()
    passing = tl.sum(exceeds, 0)
    kept, ties = count, 0
    if count + passing > capacity:
        # Of scores in the order of their keys: more than `most` candidates exceed that of `low`, unless it is just
        # below the lowest one; fewer than k, `above`, exceed that of `high`.
        lowest, highest = _range_above(scores, width, bound, BLOCK)
        held_lowest, held_highest = _range_above(held, count, float("-inf"), HELD_BLOCK)
        low, high = _key(tl.minimum(lowest, held_lowest)) - 1, _key(tl.maximum(highest, held_highest))
        left, above, step = count + passing, 0, 0
        while (left > most) & (low + 1 < high):
            # Halves the distance of the scores, which is fast, and by turns that of their keys, which comes to an end.
            middle = (low >> 1) + (high >> 1) + (low & high & 1)
            mean = _key(_score(low) * 0.5 + _score(high) * 0.5)
            middle = tl.where((step % 2 == 0) & (mean > low) & (mean < high), mean, middle)
            found = _above(held, count, _score(middle), HELD_BLOCK) + _above(scores, width, _score(middle), BLOCK)
            if found < k:
                high, above = middle, found
            else:
                low, left = middle, found
            step += 1
        if left > most:
            bound, ties = _score(high), k - above
        else:
            bound = _score(low)
        kept = 0
        for begin in range(0, count, HELD_BLOCK):
            lane = begin + tl.arange(0, HELD_BLOCK)
            score = tl.load(held + lane, mask=lane < count, other=float("-inf"))
            column = tl.load(columns + lane, mask=lane < count, other=0)
            kept, ties = _append(score, column, bound, ties, held, columns, kept)
    if passing > 0:
        for begin in range(0, width, BLOCK):
            lane = begin + tl.arange(0, BLOCK)
            score = tl.load(scores + lane, mask=lane < width, other=float("-inf"))
            kept, ties = _append(score, start + lane, bound, ties, held, columns, kept)
    tl.store(counts + row, kept)
    tl.store(bounds + row, bound)


class GpuBest:
    """The best columns of the tiles that were added, in ascending order; float32.

    Args:
        rated: the rows' known entries, whose columns are excluded; in any order, any of them twice.
        eligible: bool (columns,), whether a column may be returned at all.
        k: how many columns a row, no more than there are.
    """

    def __init__(self, rated: SparseRows, eligible: Tensor, k: int) -> None:
        self._rated, self._eligible, self._k = rated, eligible, k
        self._capacity = min(4 * k + _ROOM, rated.num_columns)
        shape = (rated.num_rows, self._capacity)
        self._scores = rated.values.new_empty(shape)
        self._columns = rated.columns.new_empty(shape)
        self._counts = rated.columns.new_zeros(rated.num_rows)
        self._bounds = rated.values.new_full((rated.num_rows,), -torch.inf)

    def add(self, start: int, stop: int, scores: Tensor) -> None:
        """Takes the scores (rows, stop - start) of a tile, which it overwrites."""
        self._keep(scores.contiguous(), start, stop - start, max(self._k, self._capacity // 2), self._capacity)

    def result(self) -> tuple[Tensor, Tensor]:
        """Columns int64 (rows, k) and scores (rows, k), as `nn.ranking.best_columns` gives them."""
        width = min(2 * self._k + _SORTED_ROOM, self._capacity)
        self._keep(self._scores, 0, 0, width, width)
        scores, columns = self._scores[:, :width], self._columns[:, :width]
        missing = torch.arange(width, device=scores.device) >= self._counts[:, None]
        # Stable: among equal scores the lower columns, which come first, stay first; without -0, which sorts below 0.
        scores, order = (scores + 0.0).masked_fill_(missing, -torch.inf).sort(stable=True, dim=1, descending=True)
        scores, order = scores[:, : self._k].contiguous(), order[:, : self._k]
        return columns.long().gather(1, order).masked_fill_(scores == -torch.inf, -1), scores

    def _keep(self, scores: Tensor, start: int, width: int, most: int, capacity: int) -> None:
        if not self._scores.numel():
            return
        held_block = min(_BLOCK, triton.next_power_of_2(self._capacity))
        with torch.cuda.device_of(scores):
            _keep_best[(self._rated.num_rows,)](
                scores, start, width, self._eligible, self._rated.offsets, self._rated.columns,
                self._scores, self._columns, self._capacity, self._counts, self._bounds, self._k, most, capacity,
                BLOCK=_BLOCK, HELD_BLOCK=held_block,
            )  # fmt: skip
