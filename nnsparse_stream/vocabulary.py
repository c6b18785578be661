"""The column axis of a data set: which id has which index, and how many ratings it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError
from nnsparse_stream.folds import hash_ids
from nnsparse_stream.storage import read_checked, read_file

#: A table from id to index is used where the ids' range is at most this many times their number (or a million).
_DENSE_RANGE = 8
#: One more than a column index, int32, can number.
MOST_IDS = 2**31


class Vocabulary:
    """Column ids in the order of their indices, with the count of ratings of each.

    Args:
        ids: int64 or string (n,), distinct, without nulls; the id at position i has index i.
        counts: int64 (n,), the number of valid rating records of each column.

    Raises:
        InputError: an id occurs twice, or there are more than 2**31 - 1.
    """

    def __init__(self, ids: pa.Array, counts: np.ndarray) -> None:
        if len(ids) >= MOST_IDS:
            raise InputError(
                f"{len(ids)} distinct column ids are more than the 2147483647 that a column index can hold"
            )
        self.ids = ids
        self.counts = counts
        #: uint64 (n,): `hash_ids` of the ids.
        self.hashes = hash_ids(ids)
        if pc.count_distinct(ids).as_py() != len(ids):
            raise InputError("a vocabulary holds an id twice: its file is damaged")
        keys = ids.to_numpy() if pa.types.is_int64(ids.type) else self.hashes
        order = np.argsort(keys, kind="stable")
        self._keys, self._order = keys[order], order.astype(np.int32)
        self._table: np.ndarray | None = None
        if pa.types.is_int64(ids.type) and len(ids):
            low, high = int(self._keys[0]), int(self._keys[-1])
            if high - low < max(_DENSE_RANGE * len(ids), 1 << 20):
                self._table = np.full(high - low + 1, -1, dtype=np.int32)
                self._table[self._keys - low] = self._order

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def id_type(self) -> str:
        """ "int64" or "string"."""
        return str(self.ids.type)

    def encode(self, ids: pa.Array) -> np.ndarray:
        """Indices of ids.

        Args:
            ids: (n,) of the vocabulary's own type, without nulls.

        Returns:
            int32 (n,), -1 where an id is not in the vocabulary.
        """
        if len(self) == 0:
            return np.full(len(ids), -1, dtype=np.int32)
        if pa.types.is_int64(ids.type):
            return self._encode_integers(ids.to_numpy())
        # Ids repeat: each distinct one is hashed and compared once.
        encoded = ids.dictionary_encode()
        return self._encode_strings(encoded.dictionary)[encoded.indices.to_numpy()]

    def _encode_integers(self, ids: np.ndarray) -> np.ndarray:
        low, high = self._keys[0], self._keys[-1]
        if self._table is not None:
            if len(ids) and ids.min() >= low and ids.max() <= high:
                return self._table[ids - low]
            inside = (ids >= low) & (ids <= high)
            return np.where(inside, self._table[np.where(inside, ids - low, 0)], np.int32(-1))
        position = np.minimum(np.searchsorted(self._keys, ids), len(self) - 1)
        return np.where(self._keys[position] == ids, self._order[position], np.int32(-1))

    def _encode_strings(self, ids: pa.StringArray) -> np.ndarray:
        hashes = hash_ids(ids)
        indices = np.full(len(ids), -1, dtype=np.int32)
        pending = np.arange(len(ids))
        position = np.searchsorted(self._keys, hashes)
        # Equal hashes lie side by side: the second round and later ones are for collisions of 64-bit hashes only.
        while len(pending):
            inside = position < len(self)
            inside[inside] = self._keys[position[inside]] == hashes[pending][inside]
            pending, position = pending[inside], position[inside]
            candidates = self._order[position]
            equal = pc.equal(ids.take(pa.array(pending)), self.ids.take(pa.array(candidates))).to_numpy(
                zero_copy_only=False
            )
            indices[pending[equal]] = candidates[equal]
            pending, position = pending[~equal], position[~equal] + 1
        return indices

    def decode(self, indices: np.ndarray) -> pa.Array:
        """Ids (n,) of indices: any integers (n,), each in [0, len)."""
        return self.ids.take(pa.array(indices))

    def to_table(self) -> pa.Table:
        """Columns index (int32), id (int64 or string), count (int64)."""
        return columns_table(self.ids, pa.array(self.counts, type=pa.int64()))

    @classmethod
    def from_table(cls, table: pa.Table) -> Vocabulary:
        """The inverse of `to_table`.

        Raises:
            InputError: columns are missing, or the indices are not 0, 1, 2, ...
        """
        if not {"index", "id", "count"} <= set(table.column_names):
            raise InputError("a vocabulary file lacks one of the columns index, id, count: it is damaged")
        if not np.array_equal(table["index"].to_numpy(), np.arange(len(table))):
            raise InputError("a vocabulary file's indices are not 0, 1, 2, ...: it is damaged")
        return cls(_one_chunk(table["id"]), table["count"].to_numpy())

    def to_parquet(self) -> bytes:
        """The vocabulary as a Parquet file: equal vocabularies give equal bytes."""
        return to_parquet(self.to_table())

    @classmethod
    def read(cls, urls: Sequence[str], checksums: Sequence[str] | None = None) -> Vocabulary:
        """Reads a vocabulary from its Parquet parts, in their order, and verifies their SHA-256 where these are known.

        Raises:
            InputError: a part is missing, truncated or altered.
        """
        tables = []
        for part, url in enumerate(urls):
            data = read_file(url) if checksums is None else read_checked(url, None, checksums[part])
            try:
                # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
                tables.append(pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False))
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{url} is not a whole Parquet file (truncated?)") from error
        return cls.from_table(pa.concat_tables(tables))


def columns_table(ids: pa.Array, counts: pa.Array, first: int = 0) -> pa.Table:
    """A vocabulary, or the part of one that begins at an index: columns index (int32), id, count (int64)."""
    index = pa.array(np.arange(first, first + len(ids), dtype=np.int32))
    fields = [("index", pa.int32()), ("id", ids.type), ("count", pa.int64())]
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])
    return pa.table([index, ids, counts], schema=schema)


def to_parquet(table: pa.Table) -> bytes:
    """A table from `columns_table` as a Parquet file: equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def count_ids(ids: pa.Array | pa.ChunkedArray) -> pa.RecordBatch:
    """Counts ids: (n,) -> columns id and count (int64), one row for each distinct id, in no particular order."""
    counted = ids.value_counts()
    return pa.record_batch([counted.field(0), counted.field(1)], names=["id", "count"])


def merge_counts(counts: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    """Adds up counts from `count_ids`: one row for each distinct id, in no particular order."""
    merged = pa.Table.from_batches(counts).group_by("id").aggregate([("count", "sum")])
    return pa.record_batch([_one_chunk(merged["id"]), _one_chunk(merged["count_sum"])], names=["id", "count"])


def keep_frequent(counts: pa.RecordBatch, min_ratings: int) -> pa.RecordBatch:
    """The rows of merged counts with a count of at least `min_ratings`."""
    return counts.filter(pc.greater_equal(counts["count"], min_ratings))


def sort_counts(counts: pa.RecordBatch) -> pa.RecordBatch:
    """Merged counts in the vocabulary's order: the most frequent id first, ties in ascending order of the ids."""
    return counts.sort_by([("count", "descending"), ("id", "ascending")])


def order_counts(counts: pa.RecordBatch) -> Vocabulary:
    """The vocabulary of merged counts."""
    ordered = sort_counts(counts)
    return Vocabulary(ordered["id"], ordered["count"].to_numpy())


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
