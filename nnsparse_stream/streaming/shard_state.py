"""What is known of the rows of a shard, beyond the data set: events that are settled, and those that wait."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa


class Flush(NamedTuple):
    """The rows of a shard that changed in a window, as they are known at its end.

    Attributes:
        window: its begin, microseconds since 1970.
        shard: the shard.
        pane: 0 for the window's first of this shard, then by one for each with events that came late.
        revision: counts the flushes of this shard: of two lists of a row the one with the higher revision is newer.
        rows: `events.known_schema`.
        pairs: the events of the window that are ratings, `events.event_schema`, ascending by row, column.
        late: how many events came after the window had closed.
    """

    window: int
    shard: int
    pane: int
    revision: int
    rows: pa.RecordBatch
    pairs: pa.RecordBatch
    late: int
