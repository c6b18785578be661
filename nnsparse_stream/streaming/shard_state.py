"""What is known of the rows of a shard, beyond the data set: events that are settled, and those that wait."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.storage.json_types import typed
from nnsparse_stream.streaming.events import ENDED
from nnsparse_stream.streaming.known_rows import changed_rows
from nnsparse_stream.streaming.settled import Settled
from nnsparse_stream.streaming.windows import Windows


class Flush(NamedTuple):
    """The rows of a shard that changed in a window, as they are known at its end.

    Attributes:
        window: its begin, microseconds since 1970.
        shard: the shard.
        pane: 0 for the events that came before the window had closed, then from 1 on by one for each flush of events
            that came late.
        revision: counts the flushes of this shard: of two lists of a row the one with the higher revision is newer.
        rows: `events.known_schema`. A late pane's rows are as they are known at the end of the last window that had
            closed. A row of which all is taken back has empty lists.
        pairs: the events of the window that are ratings, `events.event_schema`, ascending by row, column; the newest of
            each pair, and none where that takes the rating back.
        late: how many events of it came after their window had closed.
    """

    window: int
    shard: int
    pane: int
    revision: int
    rows: pa.RecordBatch
    pairs: pa.RecordBatch
    late: int


class KnownBefore(Protocol):
    """What gives the data set's ratings: `base_rows.BaseRows`."""

    def known(self, shard: int, ids: pa.Array) -> pa.RecordBatch:
        """The ratings of rows, `events.known_schema`; those of the rows that the data set has."""


@dataclasses.dataclass
class _Meta:
    """What there is beside the events.

    Attributes:
        closed_until: the end of the last window that has closed, microseconds since 1970; None before there is one.
        revision: of the last flush.
        generation: how often the settled events were compacted.
        panes: (begin, last pane) of windows that had late panes and may have more.
    """

    closed_until: int | None = None
    revision: int = 0
    generation: int = 0
    panes: tuple[tuple[int, int], ...] = ()


class ShardState:
    """The events of one stream shard: those whose windows are open wait, those of closed windows are settled.

    Of a pair of row and column counts the event of the largest (time, value), where a rating that is taken back is
    above all values of its time. So neither the order of events nor how often one comes matters. An event of a window
    that has closed is late. Within the allowed lateness it makes a new pane of its window, at once; beyond, it is taken
    into the earliest window that is open, and nothing is dropped.

    It holds no ratings of the data set. It is made of `pending`, `settled` and `meta`, which are all that there is to
    keep; another one of the same parts goes on from there.

    Sizes: an event takes 28 bytes where ids are integers; a string takes 4 bytes and its own in place of 8
    (42 bytes an event with row ids of 12 bytes and column ids of 10). A row takes 16 bytes more, of an index that is
    made in memory. All grows with the pairs that events name, and with nothing else: 1.5 times the pairs are settled at
    most (see `Settled`), and in memory those after the last compaction twice. Measured: a million pairs of 100,000 rows
    in 16 states, integers, are 27 to 35 MB of settled events and some 90 MB of a process, which stays there.

    Speed, measured on one core: 100,000 (strings) to 150,000 (integers) events a second through 16 states with windows
    of 10,000 events, over a million pairs. A close takes some 2 ms whatever it has to flush, so small windows are slow
    one by one (300 events in 16 states: 10,000 a second); of windows that are closed by one call each takes .1 ms.

    Args:
        shard: its number.
        windows: how time is cut.
        schema: `events.event_schema`.
        pending, settled, meta: the parts of an earlier one.

    Raises:
        ValueError: `meta` is damaged.
    """

    def __init__(
        self,
        shard: int,
        windows: Windows,
        schema: pa.Schema,
        *,
        pending: Sequence[pa.RecordBatch] = (),
        settled: Sequence[pa.RecordBatch] = (),
        meta: bytes | None = None,
    ) -> None:
        self._shard, self._windows, self._schema = shard, windows, schema
        self._meta = _Meta() if meta is None else typed(_Meta, json.loads(meta))
        self._settled = Settled(schema, settled, compacted=self._meta.generation > 0)
        self._first_generation = self._meta.generation
        # Each block with the begin of the first window for which it has an event.
        self._pending = [(int(self._begins(block).min()), block) for block in pending]

    @property
    def pending(self) -> list[pa.RecordBatch]:
        """The events that wait, in blocks none of which is empty."""
        return [block for _, block in self._pending]

    @property
    def settled(self) -> list[pa.RecordBatch]:
        """The events of closed windows: each `close` appends a block, and seldom makes one of them all."""
        return list(self._settled.blocks)

    @property
    def meta(self) -> bytes:
        """The rest, JSON: equal states give equal bytes."""
        return json.dumps(dataclasses.asdict(self._meta)).encode()

    @property
    def generation(self) -> int:
        """How often the settled events were compacted: while it is the same, `settled` is only appended to."""
        return self._meta.generation

    @property
    def appended(self) -> bool:
        """Whether `settled` begins with all the blocks that this object was made of."""
        return self._meta.generation == self._first_generation

    @property
    def closed_until(self) -> int | None:
        """The end of the last window that has closed, microseconds since 1970; None before there is one."""
        return self._meta.closed_until

    def add(self, events: pa.RecordBatch) -> None:
        """Adds events of the shard's rows.

        Args:
            events: `events.event_schema`; in any order.
        """
        if len(events):
            # -0.0 becomes 0.0: the two are equal, so which of them is kept would hang on the order of the events.
            value = pc.add(events["value"], pa.scalar(0, pa.float32()))
            place = events.schema.get_field_index("value")
            events = events.set_column(place, self._schema.field("value"), value)
            self._pending.append((int(self._begins(events).min()), events))

    def next_close(self) -> int | None:
        """The earliest time at which `close` has something to flush; None where nothing waits.

        It is the end of a window, or, where late events wait, of the last one that closed: a time that has come.
        """
        if not self._pending:
            return None
        end = min(min(begin for begin, _ in self._pending) + self._windows.size, ENDED)
        return end if self._meta.closed_until is None else max(end, self._meta.closed_until)

    def close(self, until: int, base: KnownBefore) -> list[Flush]:
        """Closes all windows that end by a time, and settles their events and those that are late.

        Args:
            until: the watermark, microseconds since 1970; an earlier one than before closes nothing more. After
                `events.ENDED` every window with events is closed, and events of later ones are not late.
            base: gives the data set's ratings.

        Returns:
            A flush for each window with events, ascending by window: so late panes come first, and the rows of every
            window are known from all that came. They hold the rows of all these windows at once.

        Raises:
            InputError, StoreError: what `base` raises; the state is then as it was.
        """
        meta, size = self._meta, self._windows.size
        closed = meta.closed_until
        earliest = -ENDED if closed is None else closed
        limit = None if until == ENDED else max(until - until % size, earliest)
        due, rest = self._split(limit)
        flushes = []
        if due:
            events = pa.concat_batches(due)
            begins = self._begins(events)
            rows = events["row"].unique()
            changed = changed_rows(events, begins, self._settled.of_rows(rows), base.known(self._shard, rows))
            if limit is None:
                limit = max(changed[-1].window + size, earliest)
            late = {}
            if closed is not None:
                times, counts = np.unique(begins[events["time"].to_numpy() < closed], return_counts=True)
                late = dict(zip(times.tolist(), counts.tolist(), strict=True))
            panes = dict(meta.panes)
            for window, known, pairs in changed:
                pane = 0
                if closed is not None and window < closed:
                    pane = panes[window] = panes.get(window, 0) + 1
                meta.revision += 1
                flushes.append(Flush(window, self._shard, pane, meta.revision, known, pairs, late.get(window, 0)))
            meta.panes = tuple(sorted(panes.items()))
            meta.generation += self._settled.append(events)
        if limit is not None:
            self._pending, meta.closed_until = rest, limit
            meta.panes = tuple((begin, pane) for begin, pane in meta.panes if begin > self._latest_closed(limit))
        return flushes

    def _begins(self, events: pa.RecordBatch) -> np.ndarray:
        """The begin of the window that takes each event, int64 (n,)."""
        begins = self._windows.begin_of(events["time"].to_numpy())
        closed = self._meta.closed_until
        return begins if closed is None else np.where(begins > self._latest_closed(closed), begins, closed)

    def _latest_closed(self, closed: int) -> int:
        """The begin of the last window that takes no late events any more."""
        return max(closed - self._windows.size - self._windows.allowed_lateness, -ENDED)

    def _split(self, limit: int | None) -> tuple[list[pa.RecordBatch], list[tuple[int, pa.RecordBatch]]]:
        """The events of windows that begin before a time, and the blocks of the others."""
        due, rest = [], []
        for begin, block in self._pending:
            if limit is not None and begin >= limit:
                rest.append((begin, block))
                continue
            begins = self._begins(block)
            waits = begins >= limit if limit is not None else np.zeros(len(block), dtype=bool)
            if not waits.any():
                due.append(block)
            else:
                due.append(block.filter(pa.array(~waits)))
                rest.append((int(begins[waits].min()), block.filter(pa.array(waits))))
        return due, rest
