"""The column axis of a data set: which id has which index, and how many ratings it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.id_index import IdIndex
from nnsparse_stream.storage.files import read_checked, read_file

#: One more than a column index, int32, can number.
MOST_IDS = 2**31
#: Bytes, offsets included, that surely fit in an array of type string.
_STRING_BYTES = 2**31 - 1


class Vocabulary:
    """Column ids in the order of their indices, with the count of ratings of each.

    Args:
        ids: int64, string or large_string (n,), distinct, without nulls; the id at position i has index i.
        counts: int64 (n,), the number of valid rating records of each column.
        index: of the ids, where it is made already.

    Raises:
        InputError: an id occurs twice, or there are more than 2**31 - 1.
    """

    def __init__(self, ids: pa.Array, counts: np.ndarray, index: IdIndex | None = None) -> None:
        check_number(len(ids))
        self.ids = ids
        self.counts = counts
        self._index = index or IdIndex.of(ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hashes(self) -> np.ndarray:
        """uint64 (n,): `hash_ids` of the ids."""
        return self._index.hashes

    @property
    def id_type(self) -> str:
        """ "int64" or "string"."""
        return "int64" if pa.types.is_int64(self.ids.type) else "string"

    def encode(self, ids: pa.Array) -> np.ndarray:
        """Indices of ids.

        Args:
            ids: (n,) of the vocabulary's own type, without nulls.

        Returns:
            int32 (n,), -1 where an id is not in the vocabulary.
        """
        return self._index.find(ids)

    def decode(self, indices: np.ndarray) -> pa.Array:
        """Ids (n,) of indices: any integers (n,), each in [0, len). Strings are large_string beyond 2 GiB only."""
        return _narrow(self.ids.take(pa.array(indices)))

    def to_table(self) -> pa.Table:
        """Columns index (int32), id (int64 or string), count (int64)."""
        return columns_table(_narrow(self.ids), pa.array(self.counts, type=pa.int64()))

    @classmethod
    def from_table(cls, table: pa.Table) -> Vocabulary:
        """The inverse of `to_table`.

        Raises:
            InputError: columns are missing, or the indices are not 0, 1, 2, ...
        """
        check_columns(table)
        return cls(_one_chunk(_widen(table["id"])), table["count"].to_numpy())

    def to_parquet(self) -> bytes:
        """The vocabulary as a Parquet file: equal vocabularies give equal bytes."""
        return to_parquet(self.to_table())

    @classmethod
    def read(cls, urls: Sequence[str], checksums: Sequence[str] | None = None) -> Vocabulary:
        """Reads a vocabulary from its Parquet parts, in their order, and verifies their SHA-256 where these are known.

        Raises:
            InputError: a part is missing, truncated or altered.
        """
        return cls.from_table(pa.concat_tables(read_parts(urls, checksums)))


def read_parts(urls: Sequence[str], checksums: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads the Parquet parts of a vocabulary in their order, and verifies their SHA-256 where these are known.

    Yields:
        Columns index, id, count: the row groups of each part, one of them at least; each has 2^20 ids at most.

    Raises:
        InputError: a part is missing, truncated or altered.
    """
    for part, url in enumerate(urls):
        data = read_file(url) if checksums is None else read_checked(url, None, checksums[part])
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            if not file.num_row_groups:
                yield file.schema_arrow.empty_table()
            for group in range(file.num_row_groups):
                # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
                yield file.read_row_group(group, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{url} is not a whole Parquet file (truncated?)") from error


def check_columns(table: pa.Table, first: int = 0) -> None:
    """Raises InputError where a table is not a vocabulary, or the part of one that begins at an index."""
    if not {"index", "id", "count"} <= set(table.column_names):
        raise InputError("a vocabulary file lacks one of the columns index, id, count: it is damaged")
    if not np.array_equal(table["index"].to_numpy(), np.arange(first, first + len(table))):
        raise InputError("a vocabulary file's indices are not 0, 1, 2, ...: it is damaged")


def check_number(ids: int) -> None:
    """Raises InputError where there are more ids than column indices."""
    if ids >= MOST_IDS:
        raise InputError(f"{ids} distinct column ids are more than the 2147483647 that a column index can hold")


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


def _widen(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings as large_string where one array of strings cannot hold them."""
    return ids.cast(pa.large_string()) if pa.types.is_string(ids.type) and ids.nbytes > _STRING_BYTES else ids


def _narrow(ids: pa.Array) -> pa.Array:
    """The inverse of `_widen`."""
    return ids.cast(pa.string()) if pa.types.is_large_string(ids.type) and ids.nbytes <= _STRING_BYTES else ids


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
