"""The best columns of each row out of scores that come a tile of columns at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from nnsparse_stream.kernels import best as best_kernels
from nnsparse_stream.kernels.parts import by_rows
from nnsparse_stream.kernels.row_gradient import is_compiled
from nnsparse_stream.sparse.rows import SparseRows

#: Scores of the columns from start to stop, a dense (rows, stop - start) tensor that the caller may write to.
ScoreTile = Callable[[int, int], Tensor]
#: Rows and columns scored at once: enough for a matrix product at full speed, and 8 MiB of scores, which stay in a
#: processor's last cache until they are ranked.
ROWS_AT_ONCE, TILE_COLUMNS = 1024, 2048


def best_columns(
    score: ScoreTile, rated: SparseRows, eligible: Tensor, k: int, tile_columns: int = TILE_COLUMNS
) -> tuple[Tensor, Tensor]:
    """The k columns of the highest scores that a row has not rated; memory is O(rows x (tile + k)).

    Args:
        score: gives the rows' scores of a tile, of the ratings' dtype and device.
        rated: the rows' ratings, whose columns are excluded.
        eligible: bool (columns,), whether a column may be returned at all. No tile without such a column is scored.
        k: how many columns a row; cut to the number of columns.
        tile_columns: columns scored at once.

    Returns:
        Columns int64 (rows, k) and scores (rows, k), by descending score, then ascending column, whatever the tiles.
        Where a row has fewer than k such columns, the rest are -1 with a score of -inf; so is a column whose score is
        -inf or NaN.
    """
    k = min(k, rated.num_columns)
    best: _Best = (_CompiledBest if is_compiled(rated.values) else _TorchBest)(rated, eligible, k)
    for start in range(0, rated.num_columns, tile_columns):
        stop = min(start + tile_columns, rated.num_columns)
        if eligible[start:stop].any():
            best.add(start, stop, score(start, stop))
    return best.result()


class _Best(Protocol):
    """The best columns of the tiles that were added, in ascending order."""

    def __init__(self, rated: SparseRows, eligible: Tensor, k: int) -> None: ...

    def add(self, start: int, stop: int, scores: Tensor) -> None: ...

    def result(self) -> tuple[Tensor, Tensor]: ...


class _CompiledBest:
    """By the compiled kernel."""

    def __init__(self, rated: SparseRows, eligible: Tensor, k: int) -> None:
        keys = rated.validate().row_indices().long() * rated.num_columns + rated.columns
        if (keys.diff() < 0).any():
            rated = rated.sort_by_column()
        self._offsets, self._known, self._k = rated.offsets.numpy(), rated.columns.numpy(), k
        self._eligible = eligible
        self._best = best_kernels.Best.empty(self._offsets, rated.num_columns, k, rated.values.numpy().dtype)

    def add(self, start: int, stop: int, scores: Tensor) -> None:
        tile = scores.contiguous().numpy()
        eligible = self._eligible[start:stop]
        # Where all are, the kernel need not look.
        mask = eligible[: 0 if eligible.all() else None].numpy()

        def keep(first: int, last: int) -> None:
            best_kernels.keep_best(
                tile[first:last], start, first, mask, self._offsets, self._known, self._k, self._best
            )

        by_rows(keep, len(tile))

    def result(self) -> tuple[Tensor, Tensor]:
        best_kernels.cut_best(self._k, self._best)
        scores, columns = (torch.from_numpy(part[:, : self._k]) for part in (self._best.scores, self._best.columns))
        missing = torch.arange(self._k) >= torch.from_numpy(self._best.counts)[:, None]
        # A stable sort: among equal scores the lower columns, which come first, stay first.
        scores, order = scores.masked_fill(missing, -torch.inf).sort(stable=True, dim=1, descending=True)
        return columns.long().gather(1, order).masked_fill_(scores == -torch.inf, -1), scores


class _TorchBest:
    """By torch operations, on any device."""

    def __init__(self, rated: SparseRows, eligible: Tensor, k: int) -> None:
        self._eligible, self._k = eligible, k
        self._columns, order = rated.columns.long().sort(stable=True)
        self._rows = rated.row_indices().long()[order]
        self._scores = rated.values.new_empty(rated.num_rows, 0)
        self._best = torch.empty(rated.num_rows, 0, dtype=torch.int64, device=rated.device)

    def add(self, start: int, stop: int, scores: Tensor) -> None:
        scores.masked_fill_(~self._eligible[start:stop] | scores.isnan(), -torch.inf)
        here = slice(*torch.searchsorted(self._columns, self._columns.new_tensor([start, stop])).tolist())
        scores[self._rows[here], self._columns[here] - start] = -torch.inf
        highest = _highest(scores, min(self._k, stop - start))
        # A stable sort: among equal scores the columns of earlier tiles come first, and they are the lower ones.
        joined, place = torch.cat([self._scores, scores.gather(1, highest)], 1).sort(
            stable=True, dim=1, descending=True
        )
        self._best = torch.cat([self._best, highest + start], 1).gather(1, place[:, : self._k])
        self._scores = joined[:, : self._k]

    def result(self) -> tuple[Tensor, Tensor]:
        # Tiles that were passed over may have been too few for k.
        missing = self._k - self._best.shape[1]
        best, scores = (
            torch.nn.functional.pad(part, (0, missing), value=value)
            for part, value in ((self._best, -1), (self._scores, -torch.inf))
        )
        return best.masked_fill(scores == -torch.inf, -1), scores


def _highest(scores: Tensor, k: int) -> Tensor:
    """The columns of the k highest scores of each row, int64 (rows, k), ascending; among equal scores the first."""
    if k == scores.shape[1]:
        return torch.arange(k, device=scores.device).expand(len(scores), -1)
    values, columns = scores.topk(k, dim=1, sorted=False)
    threshold = values.amin(1, keepdim=True)
    # Where more columns than fit in have the k-th highest score, `topk` chooses among them as it likes.
    tied = ((scores >= threshold).sum(1) > k) & (threshold[:, 0] > -torch.inf)
    if tied.any():
        columns[tied] = _first_of_ties(scores[tied], threshold[tied], k)
    return columns.sort(dim=1).values


def _first_of_ties(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    above, equal = scores > threshold, scores == threshold
    kept = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
    return kept.nonzero()[:, 1].view(-1, k)
