"""The best columns of each row out of scores that come a tile of columns at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.sparse.rows import SparseRows

#: Scores of the columns from start to stop, a dense (rows, stop - start) tensor that the caller may write to.
ScoreTile = Callable[[int, int], Tensor]
#: Columns scored at once, on the CPU.
TILE_COLUMNS = 2048
# Rows ranked at once, enough for a matrix product at full speed: so a tile has 8 MiB of scores, which stay in a
# processor's last cache until they are ranked, and 32 MiB on a GPU, which stay in its cache.
_ROWS, _GPU_ROWS = 1024, 4096


@dataclass(frozen=True)
class Eligible:
    """Which columns may be returned at all.

    Attributes:
        mask: bool (columns,), on the device of the scores.
        host: the same on the CPU, where it is decided which tiles are scored: nothing waits for a device.
    """

    mask: Tensor
    host: Tensor

    @classmethod
    def of(cls, host: Tensor, device: torch.device) -> Eligible:
        """From a mask on the CPU."""
        return cls(host.to(device), host)


def rows_at_once(device: torch.device) -> int:
    """How many rows to rank at once on a device, at most."""
    return _GPU_ROWS if device.type == "cuda" else _ROWS


def tile_columns(device: torch.device, num_rows: int) -> int:
    """How many columns of so many rows to score at once on a device."""
    if device.type != "cuda":
        return TILE_COLUMNS
    # Of fewer rows more columns, in whole steps: a product of few numbers takes as long to start as to do.
    return TILE_COLUMNS * max(1, _GPU_ROWS // max(num_rows, 1))


def best_columns(
    score: ScoreTile, rated: SparseRows, eligible: Eligible, k: int, tile: int | None = None
) -> tuple[Tensor, Tensor]:
    """The k columns of the highest scores that a row has not rated; memory is O(rows x (tile + k)).

    Where Triton serves a GPU, nothing here waits for it.

    Args:
        score: gives the rows' scores of a tile, of the ratings' dtype and device.
        rated: the rows' ratings, whose columns are excluded.
        eligible: whether a column may be returned at all. No tile without such a column is scored.
        k: how many columns a row; cut to the number of columns.
        tile: columns scored at once; those of `tile_columns` where None.

    Returns:
        Columns int64 (rows, k) and scores (rows, k), by descending score, then ascending column, whatever the tiles.
        Where a row has fewer than k such columns, the rest are -1 with a score of -inf; so is a column whose score is
        -inf or NaN.
    """
    k = min(k, rated.num_columns)
    tile = tile or tile_columns(rated.device, rated.num_rows)
    best = backend_of(rated.values).best(rated, eligible.mask, k)
    for start in range(0, rated.num_columns, tile):
        stop = min(start + tile, rated.num_columns)
        if eligible.host[start:stop].any():
            best.add(start, stop, score(start, stop))
    return best.result()
