"""Ratings to sparse rows: pure functions over Arrow blocks that encode, partition, group, sort and merge.

A *block of ratings* is a RecordBatch with the columns user, item (int64 or string), rating (float32) and, where the run
needs them, timestamp (int64), position (int64, ascending in the order of the input) and fold (uint8).
An *encoded block* has row (the row axis' id) and column (int32, the column axis' index) in place of user and item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.dataset import shard_schema
from nnsparse_stream.folds import assign_folds, hash_ids
from nnsparse_stream.vocabulary import Vocabulary


class DuplicateRatingError(ValueError):
    """A user rated an item more than once, and the policy is "error".

    Attributes:
        user, item: the pair's ids.
    """

    def __init__(self, user: int | str, item: int | str) -> None:
        super().__init__(f"user {user!r} rated item {item!r} more than once")
        self.user, self.item = user, item


class HashFolds(NamedTuple):
    """Folds by hash; see `folds.assign_folds`."""

    percent: tuple[float, float, float] = (90, 0, 10)
    seed: int = 0


def encode_block(ratings: pa.RecordBatch, axis: str, vocabulary: Vocabulary) -> pa.RecordBatch:
    """Turns a block of ratings into an encoded block; every column id is in the vocabulary.

    Raises:
        KeyError: a column id is not in the vocabulary.
    """
    column_axis = "item" if axis == "user" else "user"
    indices = vocabulary.encode(ratings[column_axis])
    if len(indices) and indices.min() < 0:
        unknown = ratings[column_axis][int(indices.argmin())].as_py()
        raise KeyError(f"{column_axis} {unknown!r} is not in the vocabulary")
    rest = [name for name in ratings.schema.names if name not in ("user", "item")]
    return pa.record_batch(
        [ratings[axis], pa.array(indices), *(ratings[name] for name in rest)], names=["row", "column", *rest]
    )


def partition(block: pa.RecordBatch, column: str, parts: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts a block by the hash of a column of ids: part = hash_ids(id) % parts.

    Yields:
        (part, the block's rows of that part, in the block's order), parts ascending, empty ones left out.
    """
    part_of = hash_ids(block[column]) % np.uint64(parts)
    # A radix sort where 16 bits hold the part.
    part_of = part_of.astype(np.uint16 if parts <= 1 << 16 else np.int64)
    ordered = block.take(pa.array(np.argsort(part_of, kind="stable")))
    counts = np.bincount(part_of)
    ends = np.cumsum(counts)
    for part in np.flatnonzero(counts).tolist():
        yield part, ordered.slice(int(ends[part] - counts[part]), int(counts[part]))


def group_rows(
    blocks: Sequence[pa.RecordBatch], axis: str, vocabulary: Vocabulary, duplicates: str, folds: HashFolds | None
) -> tuple[pa.RecordBatch, int]:
    """Makes one shard: all ratings of some rows, grouped by row, sorted, merged and assigned to folds.

    The result does not depend on the order of the blocks or of the ratings in them.

    Args:
        blocks: encoded blocks that together hold every rating of their rows; at least one, maybe empty.
        axis: "user" or "item", the axis of the rows.
        vocabulary: of the column axis.
        duplicates: what to do where a (row, column) occurs more than once. "error"; "mean"; "first" and "last" by
            timestamp (then by rating), or, where the blocks have no timestamp, by position. The fold of a merged rating
            is that of the rating kept, and for "mean" the last of the folds.
        folds: None where the blocks have a column fold.

    Returns:
        The shard's rows, and how many ratings were merged away. Columns row (ascending), columns (list<int32>,
        ascending), values (list<float32>), fold (list<uint8>).

    Raises:
        DuplicateRatingError: a pair occurs more than once and the policy is "error".
    """
    block = _concatenate(blocks)
    row_ids, codes = rank_ids(block["row"])
    columns = block["column"].to_numpy()
    keys = codes * max(len(vocabulary), 1) + columns
    order = np.argsort(keys)
    ordered = keys[order]
    merged = int((ordered[1:] == ordered[:-1]).sum())
    values = block["rating"].to_numpy()
    fold = None if folds else block["fold"].to_numpy()
    if not merged:
        values = values[order]
        fold = None if fold is None else fold[order]
    elif duplicates == "error":
        first = order[np.flatnonzero(ordered[1:] == ordered[:-1])[0]]
        row, column = block["row"][int(first)].as_py(), vocabulary.ids[int(columns[first])].as_py()
        raise DuplicateRatingError(*((row, column) if axis == "user" else (column, row)))
    elif duplicates == "mean":
        order, values, fold = _mean(keys, values, fold)
    else:
        order = _first_or_last(keys, block, duplicates)
        values = values[order]
        fold = None if fold is None else fold[order]
    codes, columns = codes[order], columns[order]
    if folds:
        row_hash, column_hash = hash_ids(row_ids)[codes], vocabulary.hashes[columns]
        user_hash, item_hash = (row_hash, column_hash) if axis == "user" else (column_hash, row_hash)
        fold = assign_folds(user_hash, item_hash, folds.percent, folds.seed)
    return _list_rows(row_ids, codes, columns, values, fold), merged


def rank_ids(ids: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Distinct ids in ascending order (strings by their UTF-8 bytes), and the rank of each id, int64 (n,)."""
    encoded = ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), ranks[encoded.indices.to_numpy()]


def _mean(
    keys: np.ndarray, values: np.ndarray, fold: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Means of the ratings of equal keys; summed in the order of their values, so the input's order does not matter."""
    order = np.lexsort((values, keys))
    starts = _group_starts(keys[order])
    counts = np.diff(starts, append=len(keys))
    means = np.add.reduceat(values[order].astype(np.float64), starts) / counts
    return (
        order[starts],
        means.astype(np.float32),
        None if fold is None else np.maximum.reduceat(fold[order], starts),
    )


def _first_or_last(keys: np.ndarray, block: pa.RecordBatch, which: str) -> np.ndarray:
    if "timestamp" in block.schema.names:
        fold = (block["fold"].to_numpy(),) if "fold" in block.schema.names else ()
        order = np.lexsort((*fold, block["rating"].to_numpy(), block["timestamp"].to_numpy(), keys))
    else:
        order = np.lexsort((block["position"].to_numpy(), keys))
    starts = _group_starts(keys[order])
    return order[starts] if which == "first" else order[np.append(starts[1:], len(keys)) - 1]


def _group_starts(ordered: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def _list_rows(
    row_ids: pa.Array, codes: np.ndarray, columns: np.ndarray, values: np.ndarray, fold: np.ndarray | None
) -> pa.RecordBatch:
    offsets = np.zeros(len(row_ids) + 1, dtype=np.int32)
    np.cumsum(np.bincount(codes, minlength=len(row_ids)), out=offsets[1:])
    schema = shard_schema(row_ids.type)
    lists = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(entries), type=schema.field(name).type)
        for name, entries in (("columns", columns), ("values", values), ("fold", fold))
    ]
    return pa.record_batch([row_ids, *lists], schema=schema)


def _concatenate(blocks: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return blocks[0] if len(blocks) == 1 else pa.concat_batches(blocks)
