"""Ratings to sparse rows: pure functions over Arrow blocks that encode, partition, group, sort and merge.

A *block of ratings* is a RecordBatch with the columns user, item (int64 or string), rating (float32) and, where the run
needs them, timestamp (int64), position (int64, ascending in the order of the input) and fold (uint8).
An *encoded block* has row (the row axis' id) and column (int32, the column axis' index) in place of user and item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nnsparse_stream.data.dataset import shard_schema
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.ids.ranks import rank_ids
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.ratings.folds import FoldKeys, Folds
from nnsparse_stream.ratings.record_values import is_storable

#: What may be done where a user and an item have several ratings.
DUPLICATES = ("error", "first", "last", "mean", "sum", "max", "count")
#: Of these, those that go by the order in time.
_BY_ORDER = ("first", "last")


class DuplicateRatingError(ValueError):
    """A user rated an item more than once, and the policy is "error".

    Attributes:
        user, item: the pair's ids.
    """

    def __init__(self, user: int | str, item: int | str) -> None:
        super().__init__(f"user {user!r} rated item {item!r} more than once")
        self.user, self.item = user, item


def encode_block(
    ratings: pa.RecordBatch, axis: str, vocabulary: Vocabulary, known_columns_only: bool = False
) -> pa.RecordBatch:
    """Turns a block of ratings into an encoded block.

    Args:
        ratings: the block.
        axis: "user" or "item", the axis of the rows.
        vocabulary: of the column axis.
        known_columns_only: whether a rating of a column that is not in the vocabulary gets the column -1, for
            `filter_rows` to leave out.

    Raises:
        KeyError: a column id is not in the vocabulary, and all are to be.
    """
    column_axis = "item" if axis == "user" else "user"
    indices = vocabulary.encode(ratings[column_axis])
    if not known_columns_only and len(indices) and indices.min() < 0:
        unknown = ratings[column_axis][int(indices.argmin())].as_py()
        raise KeyError(f"{column_axis} {unknown!r} is not in the vocabulary")
    rest = [name for name in ratings.schema.names if name not in ("user", "item")]
    return pa.record_batch(
        [ratings[axis], pa.array(indices), *(ratings[name] for name in rest)], names=["row", "column", *rest]
    )


def filter_rows(blocks: Sequence[pa.RecordBatch], min_row_ratings: int = 1) -> tuple[pa.RecordBatch, int]:
    """Leaves out the ratings of rows with too few ratings, and those whose column is -1.

    A row's ratings are counted before any is left out, so rows and columns are judged by the same ratings.

    Args:
        blocks: encoded blocks that together hold every rating of their rows; at least one, maybe empty.
        min_row_ratings: rows with fewer are left out.

    Returns:
        The ratings that are left, as one block, and how many were left out.
    """
    block = blocks[0] if len(blocks) == 1 else pa.concat_batches(blocks)
    keep = block["column"].to_numpy() >= 0
    if min_row_ratings > 1:
        rows = block["row"].dictionary_encode().indices.to_numpy()
        keep &= np.bincount(rows)[rows] >= min_row_ratings
    filtered = len(block) - int(keep.sum())
    return (block.filter(pa.array(keep)) if filtered else block), filtered


def partition(
    block: pa.RecordBatch, column: str, parts: int, together: int = 1
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts a block by the hash of a column of ids: part = hash_ids(id) % parts // together.

    Returns:
        An iterator of (part, the block's rows of that part, in the block's order): parts ascending, without empty ones.
    """
    hashes = hash_ids(block[column])
    part_of = hashes - hashes // np.uint64(parts) * np.uint64(parts)  # NumPy divides faster than it takes remainders
    if together > 1:
        part_of //= np.uint64(together)
    number = -(-parts // together)
    # A radix sort where 16 bits hold the part, and of one pass where 8 do.
    part_of = part_of.astype(np.uint8 if number <= 1 << 8 else np.uint16 if number <= 1 << 16 else np.int64)
    return cut(block, part_of)


def cut(block: pa.RecordBatch, part_of: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts a block, any columns of n rows, by the part of each row, any integers (n,) from 0.

    Returns:
        An iterator of (part, the block's rows of that part, in the block's order): parts ascending, without empty ones.
    """
    ordered = block.take(pa.array(np.argsort(part_of, kind="stable")))
    return _slices(ordered, np.bincount(part_of))


def _slices(ordered: pa.RecordBatch, counts: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    ends = np.cumsum(counts)
    for part in np.flatnonzero(counts).tolist():
        yield part, ordered.slice(int(ends[part] - counts[part]), int(counts[part]))


def group_rows(
    blocks: Sequence[pa.RecordBatch], axis: str, vocabulary: Vocabulary, duplicates: str, folds: Folds | None
) -> tuple[pa.RecordBatch, int]:
    """Makes one shard: all ratings of some rows, grouped by row, sorted, merged and assigned to folds.

    The result does not depend on the order of the blocks or of the ratings in them.

    Args:
        blocks: encoded blocks that together hold every rating of their rows; at least one, maybe empty.
        axis: "user" or "item", the axis of the rows.
        vocabulary: of the column axis.
        duplicates: what to do where a (row, column) occurs more than once. "error"; "first" and "last" by timestamp
            (then by rating), or, where the blocks have no timestamp, by position; "mean", "sum" or "max" of the
            ratings; or "count", by which the value of every entry is the number of its ratings. The fold, and the time,
            of a merged rating is that of the rating kept by "first" and "last", and else the last of them.
        folds: None where the blocks have a column fold; the blocks need a timestamp where these need times.

    Returns:
        The shard's rows, and how many ratings were merged away. Columns row (ascending), columns (list<int32>,
        ascending), values (list<float32>), fold (list<uint8>).

    Raises:
        DuplicateRatingError: a pair occurs more than once and the policy is "error".
        InputError: a sum is beyond what float32 holds.
    """
    block = blocks[0] if len(blocks) == 1 else pa.concat_batches(blocks)
    row_ids, codes, columns, order, values, carried, merged = _merge(block, axis, vocabulary, duplicates)
    codes, columns = codes[order], columns[order]
    if folds:
        fold_keys = FoldKeys(
            hashes=lambda: _by_axis(axis, hash_ids(row_ids)[codes], vocabulary.hashes[columns]),
            times=carried("timestamp") if folds.timed else None,
            rows=lambda: codes,
            ties=lambda: rank_ids(vocabulary.decode(columns))[1],
        )
    fold = folds.assign(fold_keys) if folds else carried("fold")
    return _list_rows(row_ids, codes, columns, values, fold), merged


def merge_pairs(
    block: pa.RecordBatch, axis: str, vocabulary: Vocabulary, duplicates: str
) -> tuple[pa.RecordBatch, int]:
    """Merges the ratings of each (row, column), as `group_rows` does, whose arguments these are.

    Returns:
        A block of the same schema, in which no pair occurs twice, and how many ratings were merged away. Times and
        folds are those that `group_rows` gives a merged rating.

    Raises:
        DuplicateRatingError: a pair occurs more than once and the policy is "error".
        InputError: a sum is beyond what float32 holds.
    """
    merge = _merge(block, axis, vocabulary, duplicates)
    if not merge.merged and duplicates != "count":
        return block, 0
    made = {
        "row": block["row"].take(pa.array(merge.order)),
        "column": pa.array(merge.columns[merge.order]),
        "rating": pa.array(merge.values),
    }
    columns = [made[name] if name in made else pa.array(merge.carried(name)) for name in block.schema.names]
    return pa.record_batch(columns, schema=block.schema), merge.merged


class _Merge(NamedTuple):
    """What is kept of a block of n ratings of m pairs.

    Attributes:
        row_ids: the distinct rows, ascending.
        codes, columns: int64 and int32 (n,), the place of each rating's row in `row_ids`, and its column.
        order: int64 (m,), the place of one rating of each pair; the pairs ascend.
        values: float32 (m,).
        carried: gives a column of the block, int64 or uint8, as the pairs have it: (m,).
        merged: n - m.
    """

    row_ids: pa.Array
    codes: np.ndarray
    columns: np.ndarray
    order: np.ndarray
    values: np.ndarray
    carried: Callable[[str], np.ndarray]
    merged: int


def _merge(block: pa.RecordBatch, axis: str, vocabulary: Vocabulary, duplicates: str) -> _Merge:
    row_ids, codes = rank_ids(block["row"])
    columns = block["column"].to_numpy()
    num_columns = max(len(vocabulary), 1)
    keys = codes * num_columns + columns
    order, ordered = sort_keys(keys, len(row_ids) * num_columns)
    merged = int((ordered[1:] == ordered[:-1]).sum())
    # -0.0 becomes 0.0: the two are equal, so which of them is kept would hang on the order of the records.
    values = block["rating"].to_numpy() + np.float32(0) if duplicates != "count" else np.ones(len(block), np.float32)

    def pair_at(place: int) -> tuple[int | str, int | str]:
        row, column = block["row"][place].as_py(), vocabulary.ids[int(columns[place])].as_py()
        return (row, column) if axis == "user" else (column, row)

    if merged and duplicates == "error":
        raise DuplicateRatingError(*pair_at(int(order[np.flatnonzero(ordered[1:] == ordered[:-1])[0]])))
    if not merged:
        return _Merge(row_ids, codes, columns, order, values[order], lambda name: block[name].to_numpy()[order], 0)
    repeated = _Repeated.of(order, ordered, block, duplicates)
    order = order[_group_starts(ordered)]
    order[repeated.pairs] = repeated.places[repeated.ends - 1 if duplicates in ("last", "max") else repeated.starts]
    merged_values = values[order]
    if duplicates in ("mean", "sum", "count"):
        # Summed in the order of their values, so the input's order does not matter.
        sums = np.add.reduceat(values[repeated.places].astype(np.float64), repeated.starts)
        if duplicates == "mean":
            sums /= repeated.ends - repeated.starts
        fit = is_storable(sums)
        if not fit.all():
            user, item = pair_at(int(order[repeated.pairs][~fit][0]))
            raise InputError(
                f"the ratings of user {user!r} and item {item!r} sum to {sums[~fit][0]:g}, beyond what is stored "
                "(float32); pass other `duplicates` than sum"
            )
        merged_values[repeated.pairs] = sums

    def carried(name: str) -> np.ndarray:
        carries = block[name].to_numpy()
        found = carries[order]
        if duplicates not in _BY_ORDER:
            found[repeated.pairs] = np.maximum.reduceat(carries[repeated.places], repeated.starts)
        return found

    return _Merge(row_ids, codes, columns, order, merged_values, carried, merged)


class _Repeated(NamedTuple):
    """The ratings of pairs that have several: they alone are sorted by more than their pair.

    Attributes:
        pairs: which of the m pairs have several, bool (m,).
        places: of their ratings in the block, ordered by pair, then as the policy has it.
        starts, ends: where those of each of these pairs begin and end in `places`.
    """

    pairs: np.ndarray
    places: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, order: np.ndarray, ordered: np.ndarray, block: pa.RecordBatch, duplicates: str) -> _Repeated:
        """Finds and orders them; `order` sorts the block's ratings by pair, and `ordered` are the pairs' keys then."""
        counts = np.diff(_group_starts(ordered), append=len(ordered))
        pairs = counts > 1
        several = np.repeat(pairs, counts)
        places, keys = order[several], ordered[several]
        if duplicates not in _BY_ORDER:
            names = ["rating"]
        elif "timestamp" in block.schema.names:
            names = [*(["fold"] if "fold" in block.schema.names else []), "rating", "timestamp"]
        else:
            names = ["position"]
        ties = [block[name].to_numpy()[places] for name in names]
        ends = np.cumsum(counts[pairs])
        return cls(pairs, places[np.lexsort((*ties, keys))], ends - counts[pairs], ends)


def sort_keys(keys: np.ndarray, bound: int) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts keys from 0 to `bound`, int64 (n,), ties in any order, and the sorted keys."""
    bits = len(keys).bit_length()
    if bound.bit_length() + bits > 63:
        order = np.argsort(keys)
        return order, keys[order]
    # Each key with its place in the low bits: sorting values takes a third of the time of finding their order.
    packed = (keys << bits) | np.arange(len(keys))
    packed.sort()
    return packed & ((1 << bits) - 1), packed >> bits


def fold_block(ratings: pa.RecordBatch, folds: Folds) -> pa.RecordBatch:
    """Adds the column fold (uint8) to a block of ratings, each record for itself, as the last column.

    Args:
        ratings: the block; where the folds need whole rows, it holds every rating of its rows.
        folds: how to fold; the block needs a timestamp where they need times.
    """
    row_axis = folds.row_axis or "user"
    column_axis = "item" if row_axis == "user" else "user"

    def ties() -> np.ndarray:
        """The order by column id; of records of one pair, which wait for being merged, by rating."""
        order = np.lexsort((ratings["rating"].to_numpy(), rank_ids(ratings[column_axis])[1]))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        return ranks

    keys = FoldKeys(
        hashes=lambda: (hash_ids(ratings["user"]), hash_ids(ratings["item"])),
        times=ratings["timestamp"].to_numpy() if folds.timed else None,
        rows=lambda: rank_ids(ratings[row_axis])[1],
        ties=ties,
    )
    return ratings.append_column("fold", pa.array(folds.assign(keys)))


def _by_axis(axis: str, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (row, column) if axis == "user" else (column, row)


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
