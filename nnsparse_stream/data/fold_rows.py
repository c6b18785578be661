"""The entries of some folds of a batch of a shard, as sparse rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from nnsparse_stream.ratings.folds import FOLDS, SHOWN
from nnsparse_stream.sparse.indices import INT32_MAX
from nnsparse_stream.sparse.rows import SparseRows


def known_folds(judged: int) -> tuple[int, ...]:
    """The folds whose entries a model may know when a fold is judged: train, and of held-out rows what is shown.

    Args:
        judged: 0 train, 1 validation, 2 test.

    Returns:
        Places in `nnsparse_stream.ratings.folds.FOLD_NAMES`. What is shown of validation rows is not among those of
        test, nor the reverse: a row is of one of these only.
    """
    return (0, len(FOLDS) + SHOWN.index(f"{FOLDS[judged]}_shown")) if judged else (0,)


def fold_rows(batch: pa.RecordBatch, folds: Sequence[int], num_columns: int) -> SparseRows:
    """The entries of some folds of a batch of a shard; every row of the batch is there, empty where it has none.

    Args:
        batch: rows as a shard holds them (`columns`, `values` and `fold` lists, and maybe `features`).
        folds: which folds' entries to keep: places in `nnsparse_stream.ratings.folds.FOLD_NAMES`.
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
        features_of_rows(batch),
    )


def features_of_rows(batch: pa.RecordBatch) -> SparseRows | None:
    """The features of the rows of a batch of a shard; None where it has no column of them."""
    if "features" not in batch.schema.names:
        return None
    lists = batch.column("features")
    offsets = lists.offsets.to_numpy()
    indices = torch.from_numpy(lists.flatten().to_numpy(zero_copy_only=False).copy())
    # How many features there are, the model knows.
    return SparseRows(torch.from_numpy(offsets - offsets[0]), indices, torch.ones(len(indices)), INT32_MAX)
