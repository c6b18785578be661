"""Which rows of a data set each of several workers trains on: a pure function of its manifest and their number."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError


class Piece(NamedTuple):
    """Rows of a row group, all or some of them.

    Attributes:
        shard: position in the data set's shards.
        group: position in that shard's row groups.
        first: of the row group's rows, in an order that is drawn, those from here on;
        last: and before here.
    """

    shard: int
    group: int
    first: int
    last: int


#: What a worker trains on; no two pieces are of one row group, and they ascend by shard and row group.
Share = tuple[Piece, ...]


def shares(manifest: Manifest, workers: int) -> list[Share]:
    """Shares of nearly as many entries each, over all folds; every row is in one of them, and each has a row.

    The row groups make a line, which is cut. A row group with a cut in it is divided by its rows, each as if it had the
    row group's mean entries: a share has at most the largest such mean more than its part of all entries.

    Args:
        manifest: of the data set.
        workers: how many shares, at least 1; one is all row groups, each whole.

    Raises:
        InputError: there are more workers than rows.
    """
    if workers > max(manifest.num_rows, 1):
        raise InputError(
            f"`workers` is {workers} and the data set has {manifest.num_rows} rows: each worker trains on rows of its "
            "own; ask for fewer"
        )
    groups = [
        (shard, group, rows, entries)
        for shard, entry in enumerate(manifest.shards)
        for group, (rows, entries) in enumerate(entry.row_groups)
    ]
    row_ends, entry_ends = np.array(groups, dtype=np.int64).reshape(-1, 4)[:, 2:].cumsum(axis=0).T
    cuts = [0]
    for worker in range(1, workers):
        # Before this worker lie so many workers' parts of the entries; in whole numbers, the same on any machine.
        wanted = worker * manifest.num_entries
        at = int(np.searchsorted(entry_ends, -(-wanted // workers)))
        _, _, rows, entries = groups[at]
        into = wanted - workers * (int(entry_ends[at]) - entries)
        cut = int(row_ends[at]) - rows + (2 * into * rows + workers * entries) // max(2 * workers * entries, 1)
        # Where single rows outweigh a part, a worker has one nevertheless, and so have those after it.
        cuts.append(min(max(cut, cuts[-1] + 1), manifest.num_rows - workers + worker))
    cuts.append(manifest.num_rows)
    divided = []
    for first, last in pairwise(cuts):
        begin, end = int(np.searchsorted(row_ends, first, side="right")), int(np.searchsorted(row_ends, last)) + 1
        pieces = []
        for (shard, group, rows, _), row_end in zip(groups[begin:end], row_ends[begin:end].tolist(), strict=True):
            start = row_end - rows
            pieces.append(Piece(shard, group, max(first - start, 0), min(last - start, rows)))
        divided.append(tuple(pieces))
    return divided


def rows_of(piece: Piece, rows: int) -> NDArray[np.int64] | None:
    """Which rows of its row group a piece has.

    A row group that is divided is so in an order that is drawn for it, the same in every run: rows lie in it by their
    ids, and neighbours may be alike.

    Args:
        piece: from `shares`.
        rows: of the row group.

    Returns:
        int64 (rows of the piece,), positions in the row group, ascending; None where it has all.
    """
    if (piece.first, piece.last) == (0, rows):
        return None
    order = np.random.Generator(np.random.Philox(key=[piece.shard, piece.group])).permutation(rows)
    return np.sort(order[piece.first : piece.last])
