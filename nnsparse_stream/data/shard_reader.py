"""Row groups of a data set in any order, by several threads: what training reads, epoch after epoch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.data.dataset import ROW_COLUMNS, Dataset, open_shard, read_group
from nnsparse_stream.storage import files as storage

#: So many shards are kept open at most, with their parsed footers; on a store each has a buffer of 1 MB.
OPEN_SHARDS = 64
_NAMES = ("columns", "values", "fold")


class ShardReader:
    """Reads row groups; a shard's file is opened, and its footer parsed, once, as long as few others are in between.

    Args:
        dataset: the data set.
        open_shards: so many files are kept open.
    """

    def __init__(self, dataset: Dataset, open_shards: int = OPEN_SHARDS) -> None:
        self._dataset, self._open_shards = dataset, open_shards
        self._idle: OrderedDict[int, tuple[Any, pq.ParquetFile]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, group: int) -> pa.RecordBatch:
        """Columns columns, values, fold and, where there are any, features of a row group.

        They are as `Dataset.read_row_group` gives them.

        The shard's size and the checksum of each page that is read are verified.

        Raises:
            InputError: the shard is missing, truncated or damaged.
        """
        # A reader has a file for itself while it reads: another one that wants the same shard then opens its own.
        with self._lock:
            held = self._idle.pop(shard, None)
        entry, url = self._dataset.shards[shard], self._dataset.url
        stream, file = held or open_shard(url, entry)
        names = ROW_COLUMNS if entry.features else _NAMES
        try:
            batch = read_group(file, storage.join(url, entry.path), entry, group, names)
        except BaseException:
            stream.close()
            raise
        with self._lock:
            self._idle[shard], surplus = (stream, file), self._idle.pop(shard, None)
            if surplus is None and len(self._idle) > self._open_shards:
                _, surplus = self._idle.popitem(last=False)
        if surplus is not None:
            surplus[0].close()
        return batch

    def close(self) -> None:
        """Closes the files; they are opened anew where another row group is read."""
        with self._lock:
            for stream, _ in self._idle.values():
                stream.close()
            self._idle.clear()
