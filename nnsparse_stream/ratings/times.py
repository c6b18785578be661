"""Points in time as flags and time columns hold them, and ranges of them.

A block's times are int64: microseconds since 1970 (UTC) where the input's column is a Parquet timestamp or date, else
the column's own integers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.errors import InputError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# What every supported Python's datetime.fromisoformat reads alike.
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def parse_time(text: str) -> int | datetime:
    """Parses an integer, or an ISO date or date and time (UTC where it names no offset).

    Raises:
        ValueError: it is neither.
    """
    if _ISO.fullmatch(text):
        date = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text!r} is neither an integer nor an ISO date")
    return int(text)


def column_time(time: int | datetime, calendar: bool, flag: str) -> int:
    """A point in time as the blocks' times count it.

    Args:
        time: from `parse_time`. An integer is one of the column's own; a date stands for Unix seconds among integers.
        calendar: whether the time column is of timestamps or dates.
        flag: that gave it, for the error's message.

    Raises:
        InputError: it is an integer, and the column is of timestamps or dates.
    """
    if isinstance(time, datetime):
        return (time - _EPOCH) // (timedelta(microseconds=1) if calendar else timedelta(seconds=1))
    if calendar:
        raise InputError(
            f"--{flag} {time} is an integer and the time column holds timestamps; give a date as 2026-01-31"
        )
    return time


@dataclass(frozen=True)
class TimeRange:
    """Times from `start` to just before `end`; None for no bound."""

    start: int | None = None
    end: int | None = None

    def filter(self, ratings: pa.RecordBatch) -> pa.RecordBatch:
        """The ratings of a block that are in the range; the block needs a column timestamp where there is a bound."""
        for compare, bound in ((pc.greater_equal, self.start), (pc.less, self.end)):
            if bound is not None:
                ratings = ratings.filter(compare(ratings["timestamp"], bound))
        return ratings
