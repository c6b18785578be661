"""Ratings as they were read to events, and the records of a log, one a message, to the same."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.events import SECOND, UNKNOWN, Letter, event_schema

#: An event whose time lies further than that, in microseconds, behind the time at which its record was stored is none:
#: its clock or its unit is wrong, and it would close the windows of all that are to come.
AHEAD = 24 * 60 * 60 * SECOND


def to_events(
    ratings: pa.RecordBatch, stored: np.ndarray, place: Callable[[int], str], form: EventFormat
) -> tuple[pa.RecordBatch, list[Letter]]:
    """Turns ratings into events.

    Args:
        ratings: user, item, rating (float32, null where it is taken back), position and maybe timestamp (microseconds),
            (n,) each.
        stored: int64 (n,) or (1,), microseconds since 1970: when each record was stored.
        place: says where the record of a position is.
        form: what they are to be.

    Returns:
        A block of `event_schema`; and a letter of each record whose time lies `AHEAD` of when it was stored.
    """
    stored = np.broadcast_to(stored, (len(ratings),))
    letters: list[Letter] = []
    if "timestamp" in ratings.schema.names:
        ahead = ratings["timestamp"].to_numpy() > stored + AHEAD
        if ahead.any():
            reason = "timestamp is more than a day after the record was stored; name the `timestamp_unit`"
            for record in ratings.filter(pa.array(ahead)).to_pylist():
                letters.append(Letter(place(record.pop("position")), reason, json.dumps(record)))
            ratings, stored = ratings.filter(pa.array(~ahead)), stored[~ahead]
    if form.positive_from is not None:
        values = ratings["rating"]
        stay = pc.fill_null(pc.greater_equal(values, pa.scalar(form.positive_from, pa.float32())), True)
        ratings, stored = ratings.filter(stay), stored[stay.to_numpy(zero_copy_only=False)]
        values = ratings["rating"]
        ones = pc.if_else(values.is_valid(), pa.scalar(1.0, pa.float32()), values)
        ratings = ratings.set_column(ratings.schema.get_field_index("rating"), "rating", ones)
    row, column = ("user", "item") if form.axis == "user" else ("item", "user")
    times = ratings["timestamp"] if "timestamp" in ratings.schema.names else pa.array(stored, pa.int64())
    columns = [ratings[row], ratings[column], ratings["rating"], times]
    return pa.record_batch(columns, schema=event_schema(form.row_type, form.column_type)), letters


def joined(blocks: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The blocks of a reading as one, and none where there is no event."""
    whole = [block for block in blocks if len(block)]
    return [pa.concat_batches(whole)] if len(whole) > 1 else whole


def latest(before: int | None, events: pa.RecordBatch) -> int | None:
    """The largest time of an event, microseconds since 1970, of those before and these; None where there is none."""
    if not len(events):
        return before
    largest = int(pc.max(events["time"]).as_py())
    return largest if before is None else max(before, largest)


def watermark(largest: int | None, idle: bool, form: EventFormat) -> int:
    """The watermark of a partition, microseconds since 1970.

    Args:
        largest: the largest time of an event so far, or None.
        idle: whether nothing more is there, so that the clock counts, too.
        form: says how far events come out of order.
    """
    times = [] if largest is None else [largest]
    if idle:
        times.append(time.time_ns() // 1000)
    return max(times) - form.out_of_order if times else UNKNOWN
