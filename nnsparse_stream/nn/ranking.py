"""The best columns of each row out of scores that come a tile of columns at a time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nnsparse_stream.kernels.backends import backend_of
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
    best = backend_of(rated.values).best(rated, eligible, k)
    for start in range(0, rated.num_columns, tile_columns):
        stop = min(start + tile_columns, rated.num_columns)
        if eligible[start:stop].any():
            best.add(start, stop, score(start, stop))
    return best.result()
