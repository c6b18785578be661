"""Times of events as Beam has them."""

from __future__ import annotations

from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

#: Beam's clock has milliseconds; here in microseconds.
TICK = 1_000
#: The end of the global window, microseconds since 1970: nothing in it, and no timer, is later.
LAST = int(GlobalWindow().max_timestamp().micros)


def beam_time(time: int) -> Timestamp:
    """A time in the global window: the nearest to a time in microseconds since 1970."""
    return Timestamp(micros=min(max(time, int(MIN_TIMESTAMP.micros)), LAST))
