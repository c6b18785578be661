"""The ratings that a data set has of rows, read as they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nnsparse_stream.data.dataset import Dataset, open_shard, read_group
from nnsparse_stream.data.shard_reader import ShardReader
from nnsparse_stream.data.vocabulary_files import built_vocabulary, load_vocabulary
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.id_index import IdIndex
from nnsparse_stream.ids.ranks import rank_ids
from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming.events import known_schema
from nnsparse_stream.streaming.settled import ranges

#: So many stream shards there are at least: what bounds the parallelism, and the rows of one state.
STREAM_SHARDS = 16
#: Bytes of the data set that a process keeps, unless it is told otherwise.
CACHE_BYTES = 256 << 20


class BaseRows:
    """The ratings of a data set's rows, of all folds, with the ids of their columns.

    Row groups are read on demand, and those that were used last are kept: all BaseRows of a data set in a process
    share them. An entry takes 8 bytes there; a row its id, 12 bytes more, and 16 more where ids are strings. So 256 MiB
    keep some 30 million ratings; where more are in use, a row that is not kept costs reading its row group (at most
    262,144 entries). Only the rows that are asked for are decoded. It travels to workers as a few numbers.

    Args:
        data: the data set's URL.
        shards: so many stream shards are made at least; a multiple of the data set's shards, so that the rows of a
            stream shard lie in one of its shards.
        cache_bytes: bounds what a process keeps.

    Attributes:
        data: the data set's URL.
        num_shards: the number of stream shards: a row is of the shard `hash of its id % num_shards`.

    Raises:
        InputError: what `Manifest.read` raises.
    """

    def __init__(self, data: str, shards: int | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        dataset = Dataset(data)
        of_data = len(dataset.shards)
        self.data, self._cache_bytes, self._fingerprint = data, cache_bytes, dataset.manifest.fingerprint()
        self.num_shards = of_data * -(-(shards or STREAM_SHARDS) // of_data)

    def known(self, shard: int, ids: pa.Array) -> pa.RecordBatch:
        """The ratings of rows.

        Args:
            shard: the stream shard of all of them.
            ids: (n,), distinct.

        Returns:
            `events.known_schema`, of those of the rows that the data set has.

        Raises:
            InputError: a shard, or the vocabulary, is missing or damaged, or the data set was prepared anew meanwhile.
        """
        return _open(self.data, self._fingerprint, self._cache_bytes).known(shard, ids)


class _Ids(NamedTuple):
    """The rows of a shard: their ids, ascending as they lie there, and where each row group begins, int64 (g + 1,)."""

    ids: IdIndex
    groups: np.ndarray


class _Opened:
    """A data set, and what of it is kept; for all threads of a process."""

    def __init__(self, dataset: Dataset, cache_bytes: int) -> None:
        self._dataset, self._reader = dataset, ShardReader(dataset)
        self._vocabulary = load_vocabulary(built_vocabulary(dataset.url, dataset.manifest))
        held = dataset.manifest
        self._schema = known_schema(held.row_id_type, held.column_id_type)
        self._room = cache_bytes
        self._kept: OrderedDict[tuple[int, int], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, shard: int, ids: pa.Array) -> pa.RecordBatch:
        of_data = shard % len(self._dataset.shards)
        rows_of, groups = self._ids(of_data)
        places = np.sort(rows_of.find(ids))
        places = places[np.searchsorted(places, 0) :]
        group_of = np.searchsorted(groups, places, side="right") - 1
        found = [pa.RecordBatch.from_pylist([], schema=self._schema)]
        for group in np.unique(group_of).tolist():
            rows = places[group_of == group]
            row_ids = rows_of.ids.take(pa.array(rows))
            found.append(self._decode(row_ids, self._group(of_data, group), rows - groups[group]))
        return pa.concat_batches(found)

    def _decode(self, ids: pa.Array, group: pa.RecordBatch, rows: np.ndarray) -> pa.RecordBatch:
        """The rows at places of a row group."""
        starts = group["columns"].offsets.to_numpy().astype(np.int64)
        counts = starts[rows + 1] - starts[rows]
        places = ranges(starts[rows], counts)
        columns = self._vocabulary.decode(group["columns"].values.to_numpy()[places])
        # By id: the data set has them by index.
        column_ids, ranks = rank_ids(columns)
        row_of = np.repeat(np.arange(len(rows)), counts)
        order = np.argsort(row_of * max(len(column_ids), 1) + ranks)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        values = group["values"].values.to_numpy()[places[order]]
        lists = [columns.take(pa.array(order)), pa.array(values)]
        arrays = [ids, *(pa.ListArray.from_arrays(offsets, entries) for entries in lists)]
        return pa.record_batch(arrays, schema=self._schema)

    def _ids(self, shard: int) -> _Ids:
        def read() -> tuple[_Ids, int]:
            entry, url = self._dataset.shards[shard], self._dataset.url
            stream, file = open_shard(url, entry)
            with stream:
                path = storage.join(url, entry.path)
                parts = [read_group(file, path, entry, group, ["row"])["row"] for group in range(len(entry.row_groups))]
            ids = pa.concat_arrays([pa.array([], self._schema.field("row").type), *parts])
            index = IdIndex.of(ids)
            groups = np.cumsum([0, *(rows for rows, _ in entry.row_groups)])
            arrays = (index.hashes, index.table, index.keys, index.order)
            return _Ids(index, groups), ids.nbytes + sum(array.nbytes for array in arrays)

        ids: _Ids = self._keep((shard, -1), read)
        return ids

    def _group(self, shard: int, group: int) -> pa.RecordBatch:
        def read() -> tuple[pa.RecordBatch, int]:
            rows = self._reader.read(shard, group).select(["columns", "values"])
            return rows, rows.nbytes

        return self._keep((shard, group), read)

    def _keep(self, key: tuple[int, int], read: Any) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        made, size = read()  # without the lock, since a store may take seconds
        with self._lock:
            self._kept[key] = made, size
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self._room:
                self._kept.popitem(last=False)
        return made


_opening = threading.Lock()


def _open(data: str, fingerprint: str, cache_bytes: int) -> _Opened:
    with _opening:  # threads of one process may ask at once
        return _opened(data, fingerprint, cache_bytes)


@lru_cache(maxsize=1)
def _opened(data: str, fingerprint: str, cache_bytes: int) -> _Opened:
    dataset = Dataset(data)
    if dataset.manifest.fingerprint() != fingerprint:
        raise InputError(
            f"{data} is another data set than when the job began: it was prepared anew; start the job again, or keep a "
            "data set that a job reads as it is, and prepare to another URL"
        )
    return _Opened(dataset, cache_bytes)
