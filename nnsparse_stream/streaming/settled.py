"""Events whose windows have closed: a log of blocks that is appended to, found by row, and compacted now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.data.grouping import sort_keys
from nnsparse_stream.ids.hashing import hash_ids

#: The log is compacted when it has more blocks than this,
MOST_BLOCKS = 128
#: or when more events were appended than half of those that were compacted before, and than this.
_FEW = 1 << 12


def values_of(events: pa.RecordBatch) -> np.ndarray:
    """The values of events, float32 (n,); NaN, which sorts behind all numbers, where a rating is taken back."""
    return events["value"].to_numpy(zero_copy_only=False)


def newest(keys: np.ndarray, bound: int, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Finds the newest entry of each key: that of the largest time, then of the largest value, NaN above all.

    Args:
        keys: int64 (n,), from 0 up to but without `bound`.
        bound: of the keys.
        times: int64 (n,).
        values: float32 (n,).

    Returns:
        int64 (m,), the places of the newest; their keys ascend.
    """
    order, ordered = sort_keys(keys, bound)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], [True] * bool(len(keys))))
    if len(last) < len(keys):
        counts = np.diff(last, prepend=-1)
        several = np.repeat(counts > 1, counts)
        places = order[several]  # only these are sorted by more than their keys
        order[several] = places[np.lexsort((values[places], times[places], ordered[several]))]
    return order[last]


def newest_of_pairs(events: pa.RecordBatch) -> pa.RecordBatch:
    """Leaves of the events of each pair of row and column the newest one; ordered by the hash of the row."""
    rows, columns = events["row"].dictionary_encode(), events["column"].dictionary_encode()
    ranks = np.empty(len(rows.dictionary), dtype=np.int64)
    ranks[np.argsort(hash_ids(rows.dictionary), kind="stable")] = np.arange(len(ranks))
    num_columns = max(len(columns.dictionary), 1)
    keys = ranks[rows.indices.to_numpy()] * num_columns + columns.indices.to_numpy()
    places = newest(keys, len(ranks) * num_columns, events["time"].to_numpy(), values_of(events))
    return events.take(pa.array(places))


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The places of ranges, one after the other: int64 (k,), (k,) -> (sum of the counts,)."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


class _Run(NamedTuple):
    """Events ordered by the hash of their row.

    Attributes:
        keys: uint64 (k,), the distinct hashes, ascending.
        starts: int64 (k + 1,), where the events of each begin, and the end.
        events: of them.
    """

    keys: np.ndarray
    starts: np.ndarray
    events: pa.RecordBatch

    @classmethod
    def of(cls, events: pa.RecordBatch, hashes: np.ndarray) -> _Run:
        if not (hashes[1:] >= hashes[:-1]).all():
            order = np.argsort(hashes, kind="stable")
            events, hashes = events.take(pa.array(order)), hashes[order]
        starts = np.flatnonzero(np.concatenate([[True] * bool(len(hashes)), hashes[1:] != hashes[:-1], [True]]))
        return cls(hashes[starts[:-1]], starts, events)

    def merged(self, other: _Run) -> _Run:
        hashes = [np.repeat(run.keys, np.diff(run.starts)) for run in (self, other)]
        return _Run.of(pa.concat_batches([self.events, other.events]), np.concatenate(hashes))

    def places(self, hashes: np.ndarray) -> np.ndarray:
        """The places of the events of rows of these hashes, uint64 (n,), distinct, ascending."""
        at = np.searchsorted(self.keys, hashes)
        inside = at < len(self.keys)
        at = at[inside][self.keys[at[inside]] == hashes[inside]]
        return ranges(self.starts[at], self.starts[at + 1] - self.starts[at])


class Settled:
    """A log of events, found by row.

    An append makes one block more. When they are many, or half as many events as were compacted before, all become one
    block, of the newest event of each pair: an event is rewritten some three times, however large the log is, and the
    log holds at most one and a half times the pairs (or `_FEW` events more). Blocks are searched by runs in memory, of
    which each is more than twice as long as the next one, so that they are few.

    Args:
        schema: `events.event_schema`.
        blocks: of the log so far.
        compacted: whether the first of them is a compacted one.

    Attributes:
        blocks: the log.
    """

    def __init__(self, schema: pa.Schema, blocks: Sequence[pa.RecordBatch], compacted: bool) -> None:
        self._schema = schema
        self.blocks = list(blocks)
        self._pairs = len(self.blocks[0]) if compacted else 0
        self._events = sum(map(len, self.blocks))
        self._runs: list[_Run] = []
        self._indexed = 0

    def append(self, events: pa.RecordBatch) -> bool:
        """Appends a block of events; says whether the log was compacted then."""
        self.blocks.append(events)
        self._events += len(events)
        if len(self.blocks) <= MOST_BLOCKS and self._events - self._pairs <= max(self._pairs // 2, _FEW):
            return False
        compacted = newest_of_pairs(pa.concat_batches(self.blocks))
        self.blocks, self._runs, self._indexed = [compacted], [], 0
        self._pairs = self._events = len(compacted)
        return True

    def of_rows(self, rows: pa.Array) -> pa.RecordBatch:
        """The events of rows, of a pair maybe several, in no particular order.

        Args:
            rows: ids (n,), distinct.
        """
        self._index()
        hashes = np.sort(hash_ids(rows))
        found = [run.events.take(pa.array(at)) for run in self._runs if len(at := run.places(hashes))]
        if not found:
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        events = pa.concat_batches(found)
        # Integers of equal hashes are equal; of strings two may have one hash.
        return events if pa.types.is_int64(rows.type) else events.filter(pc.is_in(events["row"], value_set=rows))

    def _index(self) -> None:
        for block in self.blocks[self._indexed :]:
            self._runs.append(_Run.of(block, hash_ids(block["row"])))
            while len(self._runs) > 1 and len(self._runs[-2].events) <= 2 * len(self._runs[-1].events):
                last = self._runs.pop()
                self._runs[-1] = self._runs[-1].merged(last)
        self._indexed = len(self.blocks)
