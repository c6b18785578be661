"""KeepRatings: what is known of rows, kept by an engine; at a window's end the rows that changed in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer

from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.events import ENDED
from nnsparse_stream.streaming.shard_state import Flush, ShardState
from nnsparse_stream.streaming.windows import Windows
from nnsparse_stream.transforms.coders import RecordBatchCoder
from nnsparse_stream.transforms.event_times import LAST, beam_time


class KeepRatings(beam.PTransform):
    """Keeps the events of each stream shard, in the global window, and gives out the rows that changed in a window.

    Args:
        base: the data set's ratings, which the events come on top of.
        windows: of event time, whole milliseconds long.
        schema: `events.event_schema` of the events.

    Returns:
        Of a PCollection of (shard, block of events), as `ReadEvents` gives it: a PCollection of `Flush`; its timestamp
        is the end of its window.
    """

    def __init__(self, base: BaseRows, windows: Windows, schema: pa.Schema) -> None:
        super().__init__()
        self._keep = _Keep(base, windows, schema)

    def expand(self, events: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[Flush]:
        """Applies the transform."""
        return events | "Keep" >> beam.ParDo(self._keep).with_output_types(Flush)


class _Keep(beam.DoFn):
    PENDING = BagStateSpec("pending", RecordBatchCoder())
    SETTLED = BagStateSpec("settled", RecordBatchCoder())
    META = ReadModifyWriteStateSpec("meta", beam.coders.BytesCoder())
    CLOSE = TimerSpec("close", TimeDomain.WATERMARK)

    def __init__(self, base: BaseRows, windows: Windows, schema: pa.Schema) -> None:
        self._base, self._windows = base, windows
        self._schema = schema.serialize().to_pybytes()
        self._late = Metrics.counter("stream", "late")

    def process(
        self,
        keyed: tuple[int, pa.RecordBatch],
        pending: Any = beam.DoFn.StateParam(PENDING),  # noqa: B008 (how Beam asks for it)
        close: Any = beam.DoFn.TimerParam(CLOSE),  # noqa: B008
    ) -> None:
        """Lays the events down unread, and asks to be called at their windows' ends: each has a timer of its own."""
        _, events = keyed
        pending.add(events)
        for begin in np.unique(self._windows.begin_of(events["time"].to_numpy())).tolist():
            _set(close, begin + self._windows.size)

    @on_timer(CLOSE)
    def close(
        self,
        shard: Any = beam.DoFn.KeyParam,
        end: Any = beam.DoFn.TimestampParam,
        pending: Any = beam.DoFn.StateParam(PENDING),  # noqa: B008
        settled: Any = beam.DoFn.StateParam(SETTLED),  # noqa: B008
        meta: Any = beam.DoFn.StateParam(META),  # noqa: B008
        again: Any = beam.DoFn.TimerParam(CLOSE),  # noqa: B008
    ) -> Iterator[Flush]:
        """Closes the windows that have ended."""
        schema = pa.ipc.read_schema(pa.py_buffer(self._schema))
        state = ShardState(shard, self._windows, schema, settled=list(settled.read()), meta=meta.read())
        for events in pending.read():
            state.add(events)
        kept = len(state.settled)
        flushes = state.close(ENDED if end.micros >= LAST else end.micros, self._base)
        self._late.inc(sum(flush.late for flush in flushes))
        pending.clear()
        for events in state.pending:
            pending.add(events)
        if not state.appended:
            settled.clear()
            kept = 0
        for events in state.settled[kept:]:
            settled.add(events)
        meta.write(state.meta)
        later = state.next_close()
        if later is not None:  # of events that came too late for their own window, it is one that nobody asked for
            _set(again, later)
        yield from flushes


def _set(timer: Any, end: int) -> None:
    """Asks for a call at a window's end: once for each end, however often it is asked for."""
    at = beam_time(end)
    timer.set(at, dynamic_timer_tag=str(at.micros))
