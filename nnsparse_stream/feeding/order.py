"""The order of an epoch: which row groups are shuffled together, and which of their rows make which minibatch.

A pure function of (manifest, share, seed, epoch, worker), whoever reads the rows, and wherever they lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.feeding.shares import Piece, Share
from nnsparse_stream.nn.batchifier import Batchifier

#: Entries that are shuffled together at most; at 8 bytes an entry, some 32 MB.
SHUFFLE_ENTRIES = 4_000_000
# Where a row of so many consecutive entries, about, is to be sampled, a number is drawn for each of them.
_DRAWN_ENTRIES = 1 << 18


class Cursor(NamedTuple):
    """A position in an epoch: so many whole shuffle blocks, and so many minibatches of the next, have been taken."""

    block: int = 0
    minibatch: int = 0


class Chosen(NamedTuple):
    """What makes a minibatch.

    Attributes:
        rows: int64 (rows,), positions in the shuffle block.
        entries: how many the minibatch has.
        draws: None; or, where its only row has more entries than a minibatch may have, float32 (entries of the row,):
            those with the lowest are taken.
        after: the position after it.
    """

    rows: NDArray[np.int64]
    entries: int
    draws: NDArray[np.float32] | None
    after: Cursor


def shuffle_blocks(
    manifest: Manifest, share: Share, seed: int, epoch: int, worker: int = 0, shuffle_entries: int = SHUFFLE_ENTRIES
) -> list[list[Piece]]:
    """Which row groups are shuffled together, in which order: a pure function of its arguments.

    Args:
        manifest: of the data set.
        share: what is trained on.
        seed: of the run.
        epoch: from 1.
        worker: whose share it is, from 0; each draws other numbers.
        shuffle_entries: entries of a block at most; a larger row group is a block of its own. One of which the share
            has some rows only counts whole.

    Returns:
        Blocks of pieces; each piece of the share is in one of them, once.
    """
    blocks: list[list[Piece]] = []
    held = shuffle_entries
    for index in _random(seed, epoch, worker, 0).permutation(len(share)):
        piece = share[index]
        _, entries = manifest.shards[piece.shard].row_groups[piece.group]
        if not blocks or held + entries > shuffle_entries:
            blocks.append([])
            held = 0
        blocks[-1].append(piece)
        held += entries
    return blocks


def minibatches(
    lengths: NDArray[Any], batchifier: Batchifier, seed: int, epoch: int, start: Cursor, worker: int = 0
) -> Iterator[Chosen]:
    """The minibatches of a shuffle block, from a cursor on.

    The rows that have entries are permuted, and cut in that order as the batchifier would cut them. Of a row with more
    entries than its bound, as many as the bound are drawn, with equal probability.

    Args:
        lengths: (rows,), the training entries of each row of the block, in the order of `shuffle_blocks`.
        batchifier: bounds minibatches by rows and by entries.
        seed: of the run.
        epoch: from 1.
        start: which block it is, and how many of its minibatches to leave out.
        worker: who trains on it, from 0; each draws other numbers.
    """
    random = _random(seed, epoch, worker, start.block + 1)
    order = random.permutation(np.flatnonzero(lengths > 0))
    lengths = lengths[order].astype(np.int64)
    draws = _draws(lengths, batchifier.max_entries, random)
    ends = np.cumsum(np.minimum(lengths, batchifier.max_entries))
    edges = [0]
    while edges[-1] < len(order):
        taken = ends[edges[-1] - 1] if edges[-1] else 0
        fitting = int(np.searchsorted(ends, taken + batchifier.max_entries, side="right"))
        edges.append(min(edges[-1] + batchifier.max_rows, fitting))
    for index, (first, last) in enumerate(pairwise(edges), 1):
        # A row that is sampled fills its minibatch.
        drawn = next(draws) if lengths[first] > batchifier.max_entries else None
        if index <= start.minibatch:
            continue
        entries = int(ends[last - 1] - (ends[first - 1] if first else 0))
        after = Cursor(start.block, index) if last < len(order) else Cursor(start.block + 1)
        yield Chosen(order[first:last], entries, drawn, after)


def _draws(lengths: NDArray[np.int64], bound: int, random: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """A number for each entry of each row that has more than `bound`."""
    ends = np.cumsum(lengths)
    total = ends[-1] if len(ends) else 0
    cuts = np.unique(np.searchsorted(ends, np.arange(_DRAWN_ENTRIES, total, _DRAWN_ENTRIES)))
    for first, last in pairwise([0, *cuts, len(lengths)]):
        heavy = first + np.flatnonzero(lengths[first:last] > bound)
        if len(heavy):
            begin = ends[first] - lengths[first]
            drawn = random.random(ends[last - 1] - begin, dtype=np.float32)
            for row in heavy:
                yield drawn[ends[row] - lengths[row] - begin : ends[row] - begin]


def _random(seed: int, epoch: int, worker: int, part: int) -> np.random.Generator:
    """Random numbers of one part of a worker's epoch: 0 for the order of the row groups, then one part a block."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, worker, epoch, part]))
