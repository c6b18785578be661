"""What a pass over a data set finds before training; several workers may each pass over some shards, and add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.shares import Piece, Share, rows_of, shares
from nnsparse_stream.storage import files as storage


class Survey(NamedTuple):
    """What a pass over some shards of a data set finds; the numbers of different shards add up.

    Attributes:
        column_counts: int64 (columns,), the entries of each column in the training fold.
        validated: (shard, row group) of those that hold entries of the validation fold, ascending.
        share_entries: int64 (workers,), the entries of each worker's share in the training fold.
    """

    column_counts: NDArray[np.int64]
    validated: list[tuple[int, int]]
    share_entries: NDArray[np.int64]


def survey(dataset: Dataset) -> Survey:
    """Passes over all shards, for one worker that trains on all rows; see `survey_shards`."""
    return survey_shards(dataset, range(len(dataset.shards)), shares(dataset.manifest, 1))


def survey_shards(dataset: Dataset, shards: Iterable[int], divided: Sequence[Share]) -> Survey:
    """Reads shards once: verifies the SHA-256 of each, and counts; memory is bounded by a shard.

    Args:
        dataset: the data set.
        shards: their positions.
        divided: the share of each worker, from `shares`.

    Raises:
        InputError: a shard is missing, truncated or altered.
    """
    counts = np.zeros(dataset.manifest.num_columns, dtype=np.int64)
    entries = np.zeros(len(divided), dtype=np.int64)
    validated = []
    pieces: defaultdict[tuple[int, int], list[tuple[int, Piece]]] = defaultdict(list)
    for worker, share in enumerate(divided):
        for piece in share:
            pieces[piece.shard, piece.group].append((worker, piece))
    for shard in sorted(shards):
        for group, batch in enumerate(dataset.shard_batches(shard, names=("columns", "fold"))):
            fold = batch.column("fold").flatten().to_numpy()
            columns = batch.column("columns").flatten().to_numpy()
            if len(columns) and not 0 <= columns.min() <= columns.max() < len(counts):
                raise InputError(
                    f"{storage.join(dataset.url, dataset.shards[shard].path)} holds columns {columns.min()} to "
                    f"{columns.max()} and the manifest says that there are {len(counts)}; prepare again"
                )
            trained = fold == 0
            np.add.at(counts, columns[trained], 1)
            if (fold == 1).any():
                validated.append((shard, group))
            offsets = batch.column("fold").offsets.to_numpy()
            lengths = np.diff(np.append(0, np.cumsum(trained))[offsets - offsets[0]])
            for worker, piece in pieces[shard, group]:
                rows = rows_of(piece, len(batch))
                entries[worker] += (lengths if rows is None else lengths[rows]).sum()
    return Survey(counts, validated, entries)
