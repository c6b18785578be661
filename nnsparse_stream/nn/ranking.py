"""The best columns of each row out of scores that come a tile of columns at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows

#: Scores of the columns from start to stop, a dense (rows, stop - start) tensor that the caller may write to.
ScoreTile = Callable[[int, int], Tensor]
#: Columns scored at once: a row's scores stay in a processor's cache.
TILE_COLUMNS = 8192


def best_columns(
    score: ScoreTile, rated: SparseRows, eligible: Tensor, k: int, tile_columns: int = TILE_COLUMNS
) -> tuple[Tensor, Tensor]:
    """The k columns of the highest scores that a row has not rated; memory is O(rows x (tile + k)).

    Args:
        score: gives the rows' scores of a tile.
        rated: the rows' ratings, whose columns are excluded; on the device of the scores.
        eligible: bool (columns,), whether a column may be returned at all.
        k: how many columns a row; cut to the number of columns.
        tile_columns: columns scored at once.

    Returns:
        Columns int64 (rows, k) and scores (rows, k), by descending score, then ascending column, whatever the tiles.
        Where a row has fewer than k such columns, the rest are -1 with a score of -inf.
    """
    k = min(k, rated.num_columns)
    # The ratings by tile.
    tile_of = rated.columns.long() // tile_columns
    order = tile_of.argsort(stable=True)
    tiles = torch.arange(-(-rated.num_columns // tile_columns) + 1, device=rated.device)
    bounds: list[int] = torch.searchsorted(tile_of[order], tiles).tolist()
    rows, columns = rated.row_indices().long()[order], rated.columns.long()[order]
    best_scores = rated.values.new_empty(rated.num_rows, 0)
    best = torch.empty(rated.num_rows, 0, dtype=torch.int64, device=rated.device)
    for tile, start in enumerate(range(0, rated.num_columns, tile_columns)):
        stop = min(start + tile_columns, rated.num_columns)
        scores = score(start, stop)
        scores.masked_fill_(~eligible[start:stop], -torch.inf)
        here = slice(bounds[tile], bounds[tile + 1])
        scores[rows[here], columns[here] - start] = -torch.inf
        highest = _highest(scores, min(k, stop - start))
        # A stable sort: among equal scores the columns of earlier tiles come first, and they are the lower ones.
        joined, place = torch.cat([best_scores, scores.gather(1, highest)], 1).sort(stable=True, dim=1, descending=True)
        best = torch.cat([best, highest + start], 1).gather(1, place[:, :k])
        best_scores = joined[:, :k]
    return best.masked_fill(best_scores == -torch.inf, -1), best_scores


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
