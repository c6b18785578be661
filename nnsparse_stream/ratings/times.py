"""Points in time as flags have them, and ranges of them.

A block's times are int64: microseconds since 1970 (UTC), or the column's own integers; see `time_columns`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.folds import Folds, TimeFolds
from nnsparse_stream.ratings.time_columns import iso_time, to_times

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def parse_time(text: str) -> int | datetime:
    """Parses an integer, or an ISO date or date and time, as a time column may hold it (UTC where it names no zone).

    Raises:
        ValueError: it is neither.
    """
    microseconds = iso_time(text)
    if microseconds is not None:
        try:
            return _EPOCH + timedelta(microseconds=microseconds)
        except OverflowError:
            raise ValueError(f"{text!r} is before the year 1 or after 9999") from None
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text!r} is neither an integer nor an ISO date")
    return int(text)


def column_time(time: int | datetime, calendar: bool, field: str, unit: str | None = None) -> int:
    """A point in time as the blocks' times count it.

    Args:
        time: from `parse_time`. An integer counts what the column's numbers count; a date stands for Unix seconds among
            the column's own integers.
        calendar: whether the blocks' times are microseconds since 1970.
        field: that gave it, for the error's message.
        unit: what the column's numbers count, as "s"; None where it holds dates, or that is not known.

    Raises:
        InputError: it is an integer, and the column is of timestamps or dates; or it does not fit in 64 bits.
    """
    if isinstance(time, datetime):
        # The next second, where it is between two: what is at or after it is the same.
        return -((_EPOCH - time) // (timedelta(microseconds=1) if calendar else timedelta(seconds=1)))
    if calendar and unit is not None:
        times, unfit = to_times(pa.array([time], pa.int64()), unit)
        if unfit.any():
            raise InputError(f"`{field}` {time} is beyond all times: the time column's numbers count {unit}")
        return int(times[0].as_py())
    if calendar:
        raise InputError(
            f"`{field}` {time} is an integer and the time column holds timestamps; give a date as 2026-01-31"
        )
    return time


class TimeSpan(NamedTuple):
    """The first and the last time of some ratings."""

    first: int
    last: int

    def joined(self, other: TimeSpan | None) -> TimeSpan:
        """The span of both."""
        return self if other is None else TimeSpan(min(self.first, other.first), max(self.last, other.last))


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


def check_bounds(span: TimeSpan | None, times: TimeRange, folds: Folds | None, calendar: bool | None = None) -> None:
    """Refuses times of two units, and a bound that no rating's time comes near: most likely it has another unit.

    Args:
        span: of the times of all ratings, before any is left out; None where they have none.
        times: the range that is read.
        folds: those by a cut in time have bounds, too.
        calendar: whether times are microseconds since 1970; None where that is not known.

    Raises:
        InputError: the first time seems to count another unit than the last; a bound of the range is outside of the
            span; or a cut is outside of what the range leaves of it.
    """
    if span is None:
        return
    if not calendar:
        _check_unit(span)
    bounds = {"time_from": times.start, "time_to": times.end}
    _check_inside(span, bounds, "the log", calendar)
    if not isinstance(folds, TimeFolds) or {folds.validation_share, folds.test_share} != {None}:
        return  # what shares were cut at was found among these times
    cuts = {"validation_from": folds.validation_from, "test_from": folds.test_from}
    first = span.first if times.start is None else max(span.first, times.start)
    last = span.last if times.end is None else min(span.last, times.end - 1)
    what = "the log" if times == TimeRange() else "the log between `time_from` and `time_to`"
    _check_inside(TimeSpan(first, last), cuts, what, calendar)


def _check_unit(span: TimeSpan) -> None:
    first, last = (_likely_unit(TimeSpan(time, time)) for time in span)
    if first and last and first != last:
        raise InputError(
            f"the times of the log look like {_LIKELY[first]} at one place and {_LIKELY[last]} at another, from "
            f"{span.first} to {span.last}; write them alike, or name a `timestamp_unit` that holds for all"
        )


def _check_inside(span: TimeSpan, bounds: Mapping[str, int | None], what: str, calendar: bool | None) -> None:
    for name, bound in bounds.items():
        if bound is not None and not span.first <= bound <= span.last:
            shown = [describe_time(time, calendar) for time in (bound, *span)]
            hint = "correct it or drop it"
            unit = None if calendar else _likely_unit(span)
            if unit not in (None, "s") and _likely_unit(TimeSpan(bound, bound)) != unit:
                hint = f"the times look like {_LIKELY[unit]}: pass `timestamp_unit` {unit}, or give it in these"
            elif calendar and _likely_unit(TimeSpan(bound, bound)) == "us" and _likely_unit(span) != "us":
                hint = "the column's numbers seem to count something else: pass `timestamp_unit`"
            raise InputError(
                f"`{name}` {shown[0]} lies outside of the times of {what}, {shown[1]} to {shown[2]}; {hint}"
            )


def describe_time(time: int, calendar: bool | None) -> str:
    """A block's time as a date, or as the integer that it is where that counts something else or has no date."""
    if not calendar:
        return str(time)
    try:
        return (_EPOCH + timedelta(microseconds=time)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{time} (microseconds since 1970)"


_LIKELY = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
#: Seconds since 1970, at the beginning of 1980 and of 2100: what times of a log are likely to be.
_EARLIEST, _LATEST = 315_532_800, 4_102_444_800


def _likely_unit(span: TimeSpan) -> str | None:
    """What times count, if they are Unix times of our days."""
    units = zip(_LIKELY, (1, 10**3, 10**6, 10**9), strict=True)
    return next((u for u, f in units if _EARLIEST * f <= span.first and span.last <= _LATEST * f), None)
