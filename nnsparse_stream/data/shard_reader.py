"""Row groups of a data set in any order, by several threads: what training reads, epoch after epoch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.data.dataset import ROW_COLUMNS, Dataset, open_shard, read_group
from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage

#: So many shards are kept open at most, with their parsed footers; on a store each has a buffer of 1 MB.
OPEN_SHARDS = 64
_NAMES = ("columns", "values", "fold")


class Survey(NamedTuple):
    """What one pass over a data set finds.

    Attributes:
        column_counts: int64 (columns,), the entries of each column in the training fold.
        validated: (shard, row group) of those that hold entries of the validation fold, ascending.
    """

    column_counts: np.ndarray
    validated: list[tuple[int, int]]


def survey(dataset: Dataset) -> Survey:
    """Reads a data set once: verifies the SHA-256 of each shard, and counts; memory is bounded by a shard.

    Raises:
        InputError: a shard is missing, truncated or altered.
    """
    counts = np.zeros(dataset.manifest.num_columns, dtype=np.int64)
    validated = []
    for shard in range(len(dataset.shards)):
        for group, batch in enumerate(dataset.shard_batches(shard, names=("columns", "fold"))):
            fold = batch.column("fold").flatten().to_numpy()
            columns = batch.column("columns").flatten().to_numpy()
            if len(columns) and not 0 <= columns.min() <= columns.max() < len(counts):
                raise InputError(
                    f"{storage.join(dataset.url, dataset.shards[shard].path)} holds columns {columns.min()} to "
                    f"{columns.max()} and the manifest says that there are {len(counts)}; prepare again"
                )
            np.add.at(counts, columns[fold == 0], 1)
            if (fold == 1).any():
                validated.append((shard, group))
    return Survey(counts, validated)


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
