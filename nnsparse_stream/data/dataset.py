"""A data set on storage: its shards and its vocabulary, and how they are read and written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.data.features import RowFeatures
from nnsparse_stream.data.manifest import ColumnsFile, Manifest, ShardFile
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary, to_parquet
from nnsparse_stream.storage import files as storage

#: A row group holds at most this many entries, or one row.
ROW_GROUP_ENTRIES = 1 << 18
#: The columns of a shard.
ROW_COLUMNS = ("row", "columns", "values", "fold")


class Dataset:
    """A data set at a URL, as `prepare` wrote it. Cheap to make: it reads the manifest only.

    Args:
        url: the data set's directory.

    Raises:
        InputError: what `Manifest.read` raises.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.manifest = Manifest.read(url)

    def __repr__(self) -> str:
        held = self.manifest
        return (
            f"Dataset({self.url!r}: {held.num_rows} {held.axis} rows x {held.num_columns}, {held.num_entries} entries)"
        )

    @property
    def shards(self) -> tuple[ShardFile, ...]:
        """The shards, in order; their row groups are what `read_row_group` reads."""
        return self.manifest.shards

    def vocabulary(self) -> Vocabulary:
        """The column ids; read on the first call.

        Raises:
            InputError: a file of it is missing or damaged.
        """
        return self._vocabulary

    def vocabulary_parts(self) -> Iterator[tuple[ColumnsFile, bytes]]:
        """The files of the vocabulary, one at a time, each verified.

        Raises:
            InputError: one is missing, truncated or altered, or has not as many ids as the manifest says.
        """
        for part in self.manifest.columns:
            url = storage.join(self.url, part.path)
            data = storage.read_checked(url, part.bytes, part.sha256)
            try:
                rows = pq.read_metadata(pa.BufferReader(data)).num_rows
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{url} is damaged ({storage.one_line(error)}); prepare again") from error
            if rows != part.rows:
                raise InputError(f"{url} has {rows} ids and the manifest says {part.rows}: replaced; prepare again")
            yield part, data

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        parts = self.manifest.columns
        vocabulary = Vocabulary.read(
            [storage.join(self.url, part.path) for part in parts], checksums=[part.sha256 for part in parts]
        )
        if len(vocabulary) != self.manifest.num_columns:
            raise InputError(
                f"{self.url}: the vocabulary holds {len(vocabulary)} columns and the manifest says "
                f"{self.manifest.num_columns}; prepare the data set again"
            )
        return vocabulary

    def read_row_group(self, shard: int, group: int) -> pa.RecordBatch:
        """Reads one row group; the memory it takes, and what it fetches from a store, are bounded by the row group.

        The shard's size and the checksum of each page that is read are verified, the shard's SHA-256 is not.

        Args:
            shard: position in `shards`.
            group: position in that shard's `row_groups`.

        Returns:
            Columns row (int64 or string), columns (list<int32>, ascending), values (list<float32>), fold
            (list<uint8>: places in `nnsparse_stream.ratings.folds.FOLD_NAMES`); rows ascending by id. Where the data
            set has features of its rows, column features (list<int32>, ascending), too.

        Raises:
            InputError: the shard is missing, truncated or damaged.
        """
        entry = self.shards[shard]
        stream, file = open_shard(self.url, entry)
        with stream:
            return read_group(file, storage.join(self.url, entry.path), entry, group)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All row groups of all shards, in order, one at a time; see `shard_batches`."""
        for shard in range(len(self.shards)):
            yield from self.shard_batches(shard)

    def shard_batches(self, shard: int, names: Sequence[str] = ROW_COLUMNS) -> Iterator[pa.RecordBatch]:
        """The row groups of one shard, in order, one at a time, as `read_row_group` gives them.

        The shard's file is read whole, and its SHA-256 verified, before the first.

        Args:
            shard: position in `shards`.
            names: the columns that are wanted, `columns` among them.

        Raises:
            InputError: the shard is missing, truncated or altered.
        """
        return shard_batches(self.url, self.shards[shard], names)

    def check_files(self) -> None:
        """Checks, without reading them, that all shards are there and as long as the manifest says.

        Raises:
            InputError: one is missing or has another size; the message names it.
        """
        features = [shard.features for shard in self.shards if shard.features]
        for directory, entries in (("rows", self.shards), ("features", features)):
            sizes = storage.list_files(storage.join(self.url, directory)) if entries else {}
            for entry in entries:
                url = storage.join(self.url, entry.path)
                found = sizes.get(entry.path.removeprefix(f"{directory}/"))
                storage.check_size(url, storage.file_size(url) if found is None else found, entry.bytes)


def shard_batches(url: str, entry: ShardFile, names: Sequence[str] = ROW_COLUMNS) -> Iterator[pa.RecordBatch]:
    """The row groups of one shard of the data set at a URL; see `Dataset.shard_batches`."""
    path = storage.join(url, entry.path)
    file = _parquet_file(pa.BufferReader(storage.read_checked(path, entry.bytes, entry.sha256)), path, entry)
    return (read_group(file, path, entry, group, names) for group in range(len(entry.row_groups)))


def open_shard(url: str, entry: ShardFile) -> tuple[Any, pq.ParquetFile]:
    """Opens the file of a shard of the data set at a URL.

    Returns:
        The stream, to be closed after use, and the parsed file, for `read_group`.

    Raises:
        InputError: it is missing, truncated or damaged.
    """
    path = storage.join(url, entry.path)
    stream = storage.open_input(path)
    try:
        storage.check_size(path, stream.seek(0, 2), entry.bytes)
        return stream, _parquet_file(stream, path, entry)
    except BaseException:
        stream.close()
        raise


def _parquet_file(stream: Any, path: str, entry: ShardFile) -> pq.ParquetFile:
    with _reading_shard(path):
        # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
        file = pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True)
        wanted = shard_schema(pa.int64())
        if file.schema_arrow.names != wanted.names or file.schema_arrow.types[1:] != wanted.types[1:]:
            raise InputError(f"{path} has not the columns of a shard: replaced; prepare again")
        if file.num_row_groups != len(entry.row_groups):
            raise InputError(
                f"{path} has {file.num_row_groups} row groups and the manifest says {len(entry.row_groups)}: replaced; "
                "prepare again"
            )
        return file


def read_group(
    file: pq.ParquetFile, path: str, entry: ShardFile, group: int, names: Sequence[str] = ROW_COLUMNS
) -> pa.RecordBatch:
    """One row group of an open shard, as `Dataset.read_row_group` gives it.

    Args:
        file: from `open_shard`; by one thread at a time.
        path: the shard's URL, for messages.
        entry: the manifest's entry for it.
        group: position in the shard's `row_groups`.
        names: the columns that are wanted, `columns` among them; features come where `row` is.

    Raises:
        InputError: the shard is damaged, or another one than the manifest says.
    """
    with _reading_shard(path):
        table = file.read_row_group(group, columns=list(names), use_threads=False)
        rows = entry.row_groups[group][0]
        if len(table) != rows:
            raise InputError(
                f"{path}, row group {group}, has {len(table)} rows and the manifest says {rows}: replaced; "
                "prepare again"
            )
        batch = table.combine_chunks().to_batches()[0]
    if entry.features is None or "row" not in names:
        return batch
    return read_features(storage.parent(storage.parent(path)), entry.features).beside(batch)


@lru_cache(maxsize=8)
def read_features(url: str, part: ColumnsFile) -> RowFeatures:
    """The features of the rows of a shard of the data set at a URL.

    Raises:
        InputError: their file is missing, truncated or altered.
    """
    path = storage.join(url, part.path)
    return RowFeatures.from_parquet(storage.read_checked(path, part.bytes, part.sha256), path)


@contextmanager
def _reading_shard(path: str) -> Iterator[None]:
    """Turns what Arrow says of a shard into an InputError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is damaged ({storage.one_line(error)}); put the file back from a copy, or prepare again"
        ) from error


def shard_schema(row_type: pa.DataType) -> pa.Schema:
    """The schema of a shard's rows: row, columns, values, fold; no nulls anywhere."""
    kinds = [("columns", pa.int32()), ("values", pa.float32()), ("fold", pa.uint8())]
    lists = [
        pa.field(name, pa.list_(pa.field("element", kind, nullable=False)), nullable=False) for name, kind in kinds
    ]
    return pa.schema([pa.field("row", row_type, nullable=False), *lists])


def write_shard(
    url: str, shard: int, num_shards: int, rows: pa.RecordBatch, row_group_entries: int = ROW_GROUP_ENTRIES
) -> ShardFile:
    """Writes one shard of a data set, whole; the same rows give the same bytes.

    Args:
        url: the data set's directory.
        shard, num_shards: which shard of how many; they make the file's name.
        rows: of `shard_schema`, rows ascending by id, columns ascending in each row.
        row_group_entries: bound of a row group's entries; a heavier row is a group of its own.

    Returns:
        The manifest's entry for it.
    """
    path = f"rows/shard-{shard:05d}-of-{num_shards:05d}.parquet"
    offsets = rows["columns"].offsets.to_numpy()
    groups: list[tuple[int, int]] = []
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        rows.schema,
        compression="zstd",
        compression_level=1,
        write_page_checksum=True,
        # Ascending columns are stored as differences: smaller than by a dictionary, and faster to write.
        use_dictionary=["values.list.element", "fold.list.element"],
        column_encoding={"columns.list.element": "DELTA_BINARY_PACKED"},
    ) as writer:
        start = 0
        while start < len(rows):
            end = int(np.searchsorted(offsets, offsets[start] + row_group_entries, side="right")) - 1
            end = max(end, start + 1)
            writer.write_table(pa.Table.from_batches([rows.slice(start, end - start)]), row_group_size=end - start)
            groups.append((end - start, int(offsets[end] - offsets[start])))
            start = end
    data = bytes(sink.getvalue())
    storage.write_file(storage.join(url, path), data)
    entries = sum(count for _, count in groups)
    return ShardFile(path, len(rows), entries, len(data), storage.sha256(data), tuple(groups))


def write_vocabulary(url: str, vocabulary: Vocabulary) -> ColumnsFile:
    """Writes the vocabulary of a data set, whole, and returns the manifest's entry for it."""
    return write_columns(url, 0, 1, vocabulary.to_table())


def write_columns(url: str, part: int, num_parts: int, columns: pa.Table) -> ColumnsFile:
    """Writes one part of a data set's vocabulary, whole; the same columns give the same bytes.

    Args:
        url: the data set's directory.
        part, num_parts: which part of how many; they make the file's name.
        columns: from `vocabulary.columns_table`.

    Returns:
        The manifest's entry for it.
    """
    path = f"columns/part-{part:05d}-of-{num_parts:05d}.parquet"
    data = to_parquet(columns)
    storage.write_file(storage.join(url, path), data)
    return ColumnsFile(path, len(columns), len(data), storage.sha256(data))
