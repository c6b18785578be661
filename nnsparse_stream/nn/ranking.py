"""The best columns of each row out of scores that come a tile of columns at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows

#: Scores of the columns from start to stop, a dense (rows, stop - start) tensor that the caller may write to.
ScoreTile = Callable[[int, int], Tensor]
#: Columns scored at once.
TILE_COLUMNS = 65536


def best_columns(
    score: ScoreTile, rated: SparseRows, eligible: Tensor, k: int, tile_columns: int = TILE_COLUMNS
) -> tuple[Tensor, Tensor]:
    """The k columns of the highest scores that a row has not rated; memory is O(rows x tile), not O(rows x columns).

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
    rows, columns = rated.row_indices().long(), rated.columns.long()
    best_scores = rated.values.new_empty(rated.num_rows, 0)
    best = torch.empty(rated.num_rows, 0, dtype=torch.int64, device=rated.device)
    for start in range(0, rated.num_columns, tile_columns):
        stop = min(start + tile_columns, rated.num_columns)
        scores = score(start, stop)
        scores.masked_fill_(~eligible[start:stop], -torch.inf)
        in_tile = (columns >= start) & (columns < stop)
        scores[rows[in_tile], columns[in_tile] - start] = -torch.inf
        names = torch.arange(start, stop, device=rated.device).expand(len(scores), -1)
        best_scores, best = torch.cat([best_scores, scores], 1), torch.cat([best, names], 1)
        if best_scores.shape[1] > k:
            keep = _highest(best_scores, k)
            best_scores, best = best_scores[keep].view(-1, k), best[keep].view(-1, k)
    best_scores, order = best_scores.sort(dim=1, descending=True, stable=True)
    best = best.gather(1, order)
    return best.masked_fill(best_scores == -torch.inf, -1), best_scores


def _highest(scores: Tensor, k: int) -> Tensor:
    """Which scores are the k highest of their row, bool (rows, columns); among equal ones the first."""
    threshold = scores.topk(k, dim=1).values[:, -1:]
    above, equal = scores > threshold, scores == threshold
    return above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
