"""Times: what a flag may say, what it means in a time column, and ranges."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.times import TimeRange, TimeSpan, check_bounds, column_time, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01T00:01", 60),
        ("1970-01-01 00:01:01", 61),
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T02:00:00+01:30", 1800),
        ("1969-12-31T23:59:59", -1),
    ],
)
def test_dates_are_utc_unless_they_say_otherwise(text: str, seconds: int) -> None:
    time = parse_time(text)
    assert column_time(time, False, "test_from") == seconds
    assert column_time(time, True, "test_from") == seconds * 1_000_000


def test_integers_are_the_columns_own() -> None:
    assert column_time(parse_time("-978300760"), False, "test_from") == -978300760
    with pytest.raises(InputError, match="`test_from` 5 is an integer and the time column holds timestamps"):
        column_time(parse_time("5"), True, "test_from")


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "1_000", "2001-13-01", "2001-1-1", "20010101T000000", "9" * 19, "0000-01-01"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_time(text)


@given(st.datetimes(timezones=st.just(timezone.utc)))
def test_microseconds_are_exact(time: datetime) -> None:
    found = column_time(time, True, "test_from")
    assert datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=found) == time


@given(st.lists(st.integers(-3, 3)), *[st.none() | st.integers(-4, 4)] * 2)
def test_a_range_holds_its_start_and_not_its_end(times: list[int], start: int | None, end: int | None) -> None:
    block = pa.record_batch({"timestamp": pa.array(times, pa.int64()), "place": pa.array(range(len(times)))})
    kept = TimeRange(start, end).filter(block)
    wanted = [i for i, t in enumerate(times) if (start is None or t >= start) and (end is None or t < end)]
    assert kept["place"].to_pylist() == wanted


def test_a_range_without_bounds_needs_no_times() -> None:
    block = pa.record_batch({"user": [random.randrange(9)]})
    assert TimeRange().filter(block) is block


def test_times_of_two_units_are_refused() -> None:
    mixed = TimeSpan(1_577_836_801, 1_577_836_808_000)
    with pytest.raises(InputError, match="look like seconds at one place and milliseconds at another"):
        check_bounds(mixed, TimeRange(), None)
    check_bounds(mixed, TimeRange(), None, calendar=True)
    check_bounds(TimeSpan(1, 1_577_836_808_000), TimeRange(), None)
