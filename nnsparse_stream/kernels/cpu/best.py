"""A compiled pass over tiles of scores that keeps the k best columns of each row.

A row keeps a buffer of candidates, in ascending order of columns, and a bound: what does not exceed it cannot be among
the k best. A tile's scores are compared with the bound, which vectorises, and hardly any exceed it once some tiles are
seen; where many do, as in the first tile or where scores ascend with the columns, the bound is first raised to one
that the tile itself gives. A full buffer is cut to its k best by a selection, not by a sort. So a score costs a
fraction of a nanosecond, whatever the order of the scores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.kernels.cpu.loops import Array, compiled
from nnsparse_stream.kernels.cpu.threads import by_rows
from nnsparse_stream.sparse.rows import SparseRows

# What the buffer of a row holds beside its 2k candidates.
_ROOM = 256


class Best(NamedTuple):
    """The candidates of rows.

    Attributes:
        scores: (rows, capacity).
        columns: int32 (rows, capacity), ascending within a row.
        counts: int64 (rows,), how many candidates a row has.
        bounds: (rows,), no score up to it is among the best; -inf at first.
        places: int64 (rows,), the first entry of the known columns that is not behind the tiles seen.
    """

    scores: Array
    columns: Array
    counts: Array
    bounds: Array
    places: Array

    @classmethod
    def empty(cls, offsets: Array, num_columns: int, k: int, dtype: np.dtype) -> Best:
        """Nothing yet of rows whose known columns begin at `offsets`, (rows + 1,)."""
        num_rows, capacity = len(offsets) - 1, min(2 * k + _ROOM, num_columns)
        return cls(
            np.empty((num_rows, capacity), dtype),
            np.empty((num_rows, capacity), np.int32),
            np.zeros(num_rows, np.int64),
            np.full(num_rows, -np.inf, dtype),
            offsets[:-1].astype(np.int64),
        )


@compiled
def _highest(values: Array, count: int, k: int) -> float:
    """The k-th highest of the first `count` values, k <= count, which are overwritten (Hoare's quickselect, 1961)."""
    while True:
        one, two, three = values[0], values[count >> 1], values[count - 1]
        pivot = max(min(one, two), min(max(one, two), three))
        above, equal = 0, 0
        for place in range(count):
            above += values[place] > pivot
            equal += values[place] == pivot
        if above < k <= above + equal:
            return pivot
        kept = 0
        if k <= above:
            for place in range(count):
                value = values[place]
                values[kept] = value
                kept += value > pivot
        else:
            k -= above + equal
            for place in range(count):
                value = values[place]
                values[kept] = value
                kept += value < pivot
        count = kept


@compiled
def _cut(scores: Array, columns: Array, count: int, k: int, scratch: Array) -> float:
    """Leaves the k best of the first `count` candidates, in their order; returns the lowest score among them."""
    for place in range(count):  # an assignment of a slice would take seconds to compile
        scratch[place] = scores[place]
    lowest = _highest(scratch, count, k)
    above = 0
    for place in range(count):
        above += scores[place] > lowest
    ties, kept = k - above, 0
    for place in range(count):
        score, column = scores[place], columns[place]
        scores[kept], columns[kept] = score, column
        tie = score == lowest
        kept += (score > lowest) | (tie & (ties > 0))
        ties -= tie
        if kept == k:
            break
    return lowest


@compiled
def keep_best(
    scores: Array, start: int, first: int, eligible: Array, offsets: Array, known: Array, k: int, best: Best
) -> None:
    """Takes the scores of some rows at columns from `start` on into the rows' candidates; tiles come in order.

    Args:
        scores: (rows, columns of the tile), overwritten.
        start: the tile's first column.
        first: the rows of `scores` are those of `best` from this one on.
        eligible: bool (columns of the tile,), which may be listed; (0,) where all may.
        offsets: int32 (all rows + 1,), where the known columns of each row begin.
        known: int32 (entries,), ascending within a row; these are not listed.
        k: how many columns are wanted.
        best: the candidates of all rows.
    """
    width = scores.shape[1]
    capacity = best.scores.shape[1]
    groups = max(2 * k, 64)
    scratch = np.empty(max(capacity, groups), scores.dtype)
    lowest = scores.dtype.type(-np.inf)
    for row in range(len(scores)):
        tile, place = scores[row], best.places[first + row]
        for index in range(len(eligible)):
            tile[index] = tile[index] if eligible[index] else lowest
        while place < offsets[first + row + 1] and known[place] < start + width:
            if known[place] >= start:  # it may lie in a tile that was passed over
                tile[known[place] - start] = lowest
            place += 1
        best.places[first + row] = place
        bound = best.bounds[first + row]
        passing = 0
        for index in range(width):
            passing += tile[index] > bound
        if passing == 0:
            continue
        if passing > groups and width >= 2 * groups:
            # The k-th highest of the maxima of disjoint groups: k scores of the tile are not below it.
            for index in range(groups):
                scratch[index] = lowest
            for begin in range(0, width, groups):
                part = tile[begin : begin + groups]
                for index in range(len(part)):
                    score, highest = part[index], scratch[index]
                    scratch[index] = score if score > highest else highest
            bound = max(bound, np.nextafter(_highest(scratch, groups, k), lowest))
        held, columns, count = best.scores[first + row], best.columns[first + row], best.counts[first + row]
        for index in range(width):
            if tile[index] > bound:
                if count == capacity:
                    bound = max(bound, _cut(held, columns, count, k, scratch))
                    count = k
                    if tile[index] <= bound:
                        continue
                held[count], columns[count] = tile[index], start + index
                count += 1
        best.bounds[first + row], best.counts[first + row] = bound, count


@compiled
def cut_best(k: int, best: Best) -> None:
    """Leaves at most the k best candidates of each row."""
    scratch = np.empty(best.scores.shape[1], best.scores.dtype)
    for row in range(len(best.counts)):
        if best.counts[row] > k:
            _cut(best.scores[row], best.columns[row], best.counts[row], k, scratch)
            best.counts[row] = k


class CpuBest:
    """The best columns of tiles of scores; see `kernels.backend.Best`."""

    def __init__(self, rated: SparseRows, eligible: Tensor, k: int) -> None:
        keys = rated.validate().row_indices().long() * rated.num_columns + rated.columns
        if (keys.diff() < 0).any():
            rated = rated.sort_by_column()
        self._offsets, self._known, self._k = rated.offsets.numpy(), rated.columns.numpy(), k
        self._eligible = eligible
        self._best = Best.empty(self._offsets, rated.num_columns, k, rated.values.numpy().dtype)

    def add(self, start: int, stop: int, scores: Tensor) -> None:
        """See `Best.add`."""
        tile = scores.contiguous().numpy()
        eligible = self._eligible[start:stop]
        # Where all are, the kernel need not look.
        mask = eligible[: 0 if eligible.all() else None].numpy()

        def keep(first: int, last: int) -> None:
            keep_best(tile[first:last], start, first, mask, self._offsets, self._known, self._k, self._best)

        by_rows(keep, len(tile))

    def result(self) -> tuple[Tensor, Tensor]:
        """See `Best.result`."""
        cut_best(self._k, self._best)
        scores, columns = (torch.from_numpy(part[:, : self._k]) for part in (self._best.scores, self._best.columns))
        missing = torch.arange(self._k) >= torch.from_numpy(self._best.counts)[:, None]
        # A stable sort: among equal scores the lower columns, which come first, stay first.
        scores, order = scores.masked_fill(missing, -torch.inf).sort(stable=True, dim=1, descending=True)
        return columns.long().gather(1, order).masked_fill_(scores == -torch.inf, -1), scores
