"""Row groups of a data set in any order, by several threads: what training reads, epoch after epoch."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.data.dataset import ROW_COLUMNS, Dataset, open_shard, read_group
from nnsparse_stream.storage import files as storage

#: So many files are kept open at most, with their parsed footers; on a store each has a buffer of 1 MB.
OPEN_FILES = 64
_NAMES = ("columns", "values", "fold")


@dataclass(eq=False)  # two streams of one file may compare equal
class _Open:
    shard: int
    stream: Any
    file: pq.ParquetFile


class ShardReader:
    """Reads row groups; a shard's file is opened, and its footer parsed, once for each thread that reads it at a time.

    Args:
        dataset: the data set.
        open_files: so many files are kept open between reads; beyond, a shard that is open twice is closed once, else
            the shard that was read longest ago.
    """

    def __init__(self, dataset: Dataset, open_files: int = OPEN_FILES) -> None:
        self._dataset, self._open_files = dataset, open_files
        self._idle: list[_Open] = []  # that which was read last at the end
        self._lock = threading.Lock()

    def read(self, shard: int, group: int) -> pa.RecordBatch:
        """Columns columns, values, fold and, where there are any, features of a row group.

        They are as `Dataset.read_row_group` gives them.

        The shard's size and the checksum of each page that is read are verified.

        Raises:
            InputError: the shard is missing, truncated or damaged.
        """
        # A reader has a file for itself while it reads: another one that wants the same shard then opens its own.
        entry, url = self._dataset.shards[shard], self._dataset.url
        held = self._take(shard) or _Open(shard, *open_shard(url, entry))
        names = ROW_COLUMNS if entry.features else _NAMES
        try:
            batch = read_group(held.file, storage.join(url, entry.path), entry, group, names)
        except BaseException:
            held.stream.close()
            raise
        self._give_back(held)
        return batch

    def _take(self, shard: int) -> _Open | None:
        with self._lock:
            held = next((held for held in reversed(self._idle) if held.shard == shard), None)
            if held is not None:
                self._idle.remove(held)
        return held

    def _give_back(self, held: _Open) -> None:
        surplus = None
        with self._lock:
            self._idle.append(held)
            if len(self._idle) > self._open_files:
                files = Counter(held.shard for held in self._idle)
                surplus = next((held for held in self._idle if files[held.shard] > 1), self._idle[0])
                self._idle.remove(surplus)
        if surplus is not None:
            surplus.stream.close()

    def close(self) -> None:
        """Closes the files; they are opened anew where another row group is read."""
        with self._lock:
            for held in self._idle:
                held.stream.close()
            self._idle.clear()
