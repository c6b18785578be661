"""Rows of a data set on storage as tensors: in order for evaluation, shuffled in bounded memory for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from nnsparse_stream.dataset import Dataset
from nnsparse_stream.rows import SparseRows

#: Entries that are shuffled together at most; at 8 bytes an entry and one copy, some 64 MB.
SHUFFLE_ENTRIES = 4_000_000


def fold_rows(batch: pa.RecordBatch, folds: Sequence[int], num_columns: int) -> SparseRows:
    """The entries of some folds of a batch of a shard; every row of the batch is there, empty where it has none.

    Args:
        batch: rows as a shard holds them (`columns`, `values` and `fold` lists).
        folds: which folds' entries to keep: 0 train, 1 validation, 2 test.
        num_columns: columns of the data set.
    """
    columns = batch.column("columns")
    keep = np.zeros(256, dtype=bool)
    keep[list(folds)] = True
    mask = keep[batch.column("fold").flatten().to_numpy(zero_copy_only=False)]
    offsets = columns.offsets.to_numpy()
    kept_before = np.zeros(len(mask) + 1, dtype=np.int32)
    np.cumsum(mask, out=kept_before[1:])
    return SparseRows(
        torch.from_numpy(kept_before[offsets - offsets[0]]),
        torch.from_numpy(columns.flatten().to_numpy(zero_copy_only=False)[mask]),
        torch.from_numpy(batch.column("values").flatten().to_numpy(zero_copy_only=False)[mask]),
        num_columns,
    )


def shuffled_training_rows(
    dataset: Dataset, seed: int, epoch: int, shuffle_entries: int = SHUFFLE_ENTRIES
) -> Iterator[SparseRows]:
    """One epoch of the training fold, in an order that is a pure function of (manifest, seed, epoch).

    Row groups of all shards are permuted; as many as hold `shuffle_entries` entries are read, and their rows permuted
    together. Rows without a training entry are left out: there is nothing to learn from them.

    Args:
        dataset: the data set.
        seed: of the run.
        epoch: from 1.
        shuffle_entries: bounds the memory; a single larger row group is read whole.

    Yields:
        Blocks of shuffled rows.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    manifest = dataset.manifest
    groups = [
        (shard, group, entries)
        for shard, entry in enumerate(manifest.shards)
        for group, (_, entries) in enumerate(entry.row_groups)
    ]
    buffer: list[SparseRows] = []
    held = 0
    for index in random.permutation(len(groups)):
        shard, group, entries = groups[index]
        if buffer and held + entries > shuffle_entries:
            yield _shuffled(buffer, random)
            buffer, held = [], 0
        buffer.append(fold_rows(dataset.read_row_group(shard, group), (0,), manifest.num_columns))
        held += entries
    if buffer:
        yield _shuffled(buffer, random)


def _shuffled(blocks: list[SparseRows], random: np.random.Generator) -> SparseRows:
    rows = SparseRows.concatenate(blocks)
    order = random.permutation(np.flatnonzero(rows.lengths().numpy() > 0))
    return rows.select(torch.from_numpy(order))
