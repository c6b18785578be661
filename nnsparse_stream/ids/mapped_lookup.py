"""A vocabulary in a file of the machine's own: built in bounded memory, memory-mapped by all processes that need it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import hash_ids, string_buffers
from nnsparse_stream.ids.id_index import IdIndex, fill_table, is_dense, sort_hashes
from nnsparse_stream.ids.vocabulary import Vocabulary, check_columns, check_number, read_parts
from nnsparse_stream.ids.vocabulary_parts import PART_IDS

#: In the files' names, since processes of another version may run beside this one.
_FORMAT = 1
#: Of the number of ids that are moved or sorted at once, the logarithm to base 2.
_BITS = 20
_PLACED = np.dtype([("key", np.uint64), ("position", np.int32)])


def open_vocabulary(urls: Sequence[str], checksums: Sequence[str], num_ids: int) -> Vocabulary:
    """A vocabulary: of few ids in this process's memory, else mapped from a file that the machine's processes share.

    The file is an Arrow IPC file in `shared_files.private_directory`, made by the first process that needs it, and
    removed when the last one ends or forgets the vocabulary. Where the system has no POSIX locks, all is in memory.

    Args:
        urls: the Parquet parts, in their order.
        checksums: the SHA-256 of each, verified when the file is made.
        num_ids: how many ids they hold. Up to `PART_IDS` are few.

    Raises:
        InputError: a part is missing, truncated or altered; or the directory cannot take the file.
    """
    if num_ids <= PART_IDS or os.name != "posix":
        return Vocabulary.read(urls, checksums)
    from nnsparse_stream.storage.shared_files import open_shared

    fingerprint = hashlib.sha256("".join(checksums).encode()).hexdigest()
    vocabulary, hold = open_shared(
        f"vocabulary-{_FORMAT}-{fingerprint}.arrow",
        lambda path: write_lookup(path, read_parts(urls, checksums)),
        read_lookup,
        f"the lookup of {num_ids} column ids",
    )
    weakref.finalize(vocabulary, hold.release)
    return vocabulary


def read_lookup(path: str) -> Vocabulary:
    """Maps a file of `write_lookup`: the arrays are views of its pages.

    Raises:
        ArrowException, OSError: it is not whole.
    """
    lists = pa.ipc.open_file(pa.memory_map(path)).get_batch(0)
    ids = lists["ids"].values
    counts, hashes, table, keys, order = (
        lists[name].values.to_numpy() for name in ("counts", "hashes", "table", "keys", "order")
    )
    return Vocabulary(ids, counts, IdIndex(ids, hashes, lists["low"][0].as_py(), table, keys, order))


def write_lookup(path: str, tables: Iterable[pa.Table]) -> None:
    """Writes a vocabulary as an Arrow IPC file of one row, in which each array is a list.

    Private memory holds one table, or what 2^20 ids take; the rest is in files without a name beside `path`, which go
    with the process. The file is not synced, so it is worth nothing after the machine went down.

    Args:
        path: the file.
        tables: columns index, id, count, in the order of the indices; one at least.

    Raises:
        InputError: the tables are no vocabulary.
        OSError: there is no room.
    """
    with ExitStack() as files:

        def new(kind: type | np.dtype) -> _Growing:
            file: BinaryIO = files.enter_context(tempfile.TemporaryFile(dir=os.path.dirname(path)))
            return _Growing(file, np.dtype(kind))

        ids, counts, hashes = _copy(tables, new)
        low, table, keys, order = _index(ids, hashes, new)
        arrays = {"ids": ids}
        for name, values in (
            ("counts", counts),
            ("hashes", hashes),
            ("table", table),
            ("keys", keys),
            ("order", order),
        ):
            arrays[name] = _arrow(values)
        lists = {
            name: pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)
            for name, values in arrays.items()
        }
        batch = pa.record_batch({**lists, "low": pa.array([low], pa.int64())})
        options = pa.ipc.IpcWriteOptions(allow_64bit=True)
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)


class _Growing:
    """An array on disk that is written piece by piece, then mapped.

    Written by calls, not through a mapping: where the disk is full, these fail, and a mapping ends the process.
    """

    def __init__(self, file: BinaryIO, kind: np.dtype) -> None:
        self._file, self._kind = file, kind

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self._kind).data)

    def put(self, position: int, values: np.ndarray) -> None:
        self._file.seek(position * self._kind.itemsize)
        self.append(values)

    def map(self) -> np.ndarray:
        self._file.flush()
        empty = os.fstat(self._file.fileno()).st_size == 0
        return np.empty(0, self._kind) if empty else np.memmap(self._file, self._kind, mode="r")


_New = Callable[["type | np.dtype"], _Growing]


def _copy(tables: Iterable[pa.Table], new: _New) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Ids (int64 or large_string), counts and hashes of all tables, mapped."""
    counts, hashes, integers = new(np.int64), new(np.uint64), new(np.int64)
    text, places, written = new(np.uint8), new(np.int64), 0
    number, kinds = 0, set()
    for table in tables:
        check_columns(table, number)
        number += len(table)
        kinds.add(pa.types.is_int64(table.schema.field("id").type))
        for block in table.to_batches():
            counts.append(block["count"].to_numpy())
            hashes.append(hash_ids(block["id"]))
            if pa.types.is_int64(block["id"].type):
                integers.append(block["id"].to_numpy())
                continue
            offsets, data = string_buffers(block["id"])
            text.append(data[offsets[0] : offsets[-1]])
            places.append(offsets[:-1] + (written - offsets[0]))
            written += int(offsets[-1] - offsets[0])
    check_number(number)
    if len(kinds) > 1:
        raise InputError("a vocabulary holds integers and strings: its files are damaged")
    if kinds == {True}:
        return _arrow(integers.map()), counts.map(), hashes.map()
    places.append(np.array([written]))
    buffers = [pa.py_buffer(places.map()), pa.py_buffer(text.map())]
    return pa.LargeStringArray.from_buffers(number, *buffers), counts.map(), hashes.map()


def _index(ids: pa.Array, hashes: np.ndarray, new: _New) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """The attributes low, table, keys and order of `IdIndex`, mapped."""
    table, keys, order = new(np.int32), new(np.uint64), new(np.int32)
    low = 0
    if pa.types.is_int64(ids.type) and len(ids):
        values = ids.to_numpy()
        low, high = int(values.min()), int(values.max())
        if is_dense(low, high, len(ids)):
            size = high - low + 1
            for bucket, places, positions in _buckets(values, low, _BITS, ((size - 1) >> _BITS) + 1, new(_PLACED)):
                first = bucket << _BITS
                table.append(fill_table(places - np.uint64(first), positions, min(1 << _BITS, size - first)))
            return low, table.map(), keys.map(), order.map()
    # As many buckets, by the leading bits, as hold about 2^_BITS ids each.
    bits = max(1, (len(ids) >> _BITS).bit_length())
    for _, hashed, positions in _buckets(hashes, 0, 64 - bits, 1 << bits, new(_PLACED)):
        for growing, piece in zip((keys, order), sort_hashes(hashed, positions, ids), strict=True):
            growing.append(piece)
    return low, table.map(), keys.map(), order.map()


def _buckets(
    values: np.ndarray, low: int, shift: int, buckets: int, placed: _Growing
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Cuts values to ranges: a counting pass, one that moves each value to its range on disk, one that reads these.

    Args:
        values: of 64 bits, (n,).
        low: the least of them, or 0.
        shift: of a value less low, the bits from this one on number its range.
        buckets: how many ranges, 2^16 at most.
        placed: empty, of `_PLACED`.

    Yields:
        (range, values less low (uint64), their positions (int32, ascending)), ranges ascending, empty ones too.
    """

    def keys(start: int) -> tuple[np.ndarray, np.ndarray]:
        piece = (values[start : start + (1 << _BITS)] - low).view(np.uint64)
        return piece, (piece >> np.uint64(shift)).astype(np.uint16)

    starts = range(0, len(values), 1 << _BITS)
    sizes = np.zeros(buckets, dtype=np.int64)
    for start in starts:
        sizes += np.bincount(keys(start)[1], minlength=buckets)
    ends = np.cumsum(sizes)
    free = ends - sizes
    for start in starts:
        key, bucket = keys(start)
        order = np.argsort(bucket, kind="stable")  # a radix sort, of 16 bits
        records = np.empty(len(key), dtype=_PLACED)
        records["key"], records["position"] = key[order], order + start
        counts = np.bincount(bucket, minlength=buckets)
        stops = np.cumsum(counts)
        for found in np.flatnonzero(counts).tolist():
            placed.put(free[found], records[stops[found] - counts[found] : stops[found]])
        free += counts
    records = placed.map()
    for found, (end, size) in enumerate(zip(ends.tolist(), sizes.tolist(), strict=True)):
        piece = records[end - size : end]
        yield found, np.ascontiguousarray(piece["key"]), np.ascontiguousarray(piece["position"])


def _arrow(values: np.ndarray) -> pa.Array:
    """An Arrow array that is a view of the values."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
