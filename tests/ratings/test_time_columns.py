"""Time columns: every way to write a time gives the same int64, whichever parser reads it."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings import text_records
from nnsparse_stream.ratings.formats import FieldNames, RatingFile
from nnsparse_stream.ratings.input_plan import plan_inputs
from nnsparse_stream.ratings.parquet_failures import parquet_failure
from nnsparse_stream.ratings.reading import read_split
from nnsparse_stream.ratings.text_records import BadRecord, BlockSchema, parse_lines
from nnsparse_stream.ratings.time_columns import BY_SIZE, iso_time, to_times

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: 2005-04-02T23:53:47.123456Z
TIME = 1_112_486_027_123_456


def read(path: Path, unit: str = "auto") -> tuple[list[int], list[BadRecord]]:
    names = FieldNames(timestamp="time")
    plan = plan_inputs([str(path)], names, timed_for="a test", timestamp_unit=unit)
    blocks = [block for split in plan.splits for block in read_split(split, plan.schema)]
    times = [time for block in blocks for time in block.ratings["timestamp"].to_pylist()]
    return times, [bad for block in blocks for bad in block.bad]


def write(path: Path, times: list[Any]) -> Path:
    """A log of these times: CSV, JSON lines or Parquet as the name says."""
    if path.suffix == ".parquet":
        times = times if isinstance(times, pa.Array) else pa.array(times)
        ones = [1] * len(times)
        pq.write_table(pa.table({"user": ones, "item": ones, "rating": ones, "time": times}), path)
    elif path.suffix == ".csv":
        path.write_text("user,item,rating,time\n" + "".join(f"1,1,1,{time}\n" for time in times))
    else:
        record = {"user": 1, "item": 1, "rating": 1}
        path.write_text("".join(json.dumps({**record, "time": time}) + "\n" for time in times))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2005-04-02 23:53:47.123456", TIME),
        ("2005-04-02T23:53:47.123456Z", TIME),
        ("2005-04-02T23:53:47.123456789", TIME),
        ("2005-04-02 23:53:47.123456789 UTC", TIME),
        ("2005-04-03T01:23:47.123456+01:30", TIME),
        ("2005-04-03 01:23:47.123456 +0130", TIME),
        ("2005-04-02 15:53:47.123456-08", TIME),
        ("  2005-04-02 23:53:47.123456 ", TIME),
        ("2005-04-02", 1_112_400_000_000_000),
        ("2005-04-02 23:53", 1_112_485_980_000_000),
        ("1969-12-31 23:59:59.5", -500_000),
        ("9999-12-31 23:59:59.999999", 253_402_300_799_999_999),
        *[
            (text, None)
            for text in ("", "x", "2005-02-30", "2005-4-2", "20050402", "2005-04-02 24:00", "2005", "\udce9")
        ],
        *[(text, None) for text in ("2005-04-02 23:53:47.", "2005-04-02Z", "12:00:00", "2005-04-02 23:53:60")],
    ],
)
def test_iso_times(text: str, expected: int | None) -> None:
    assert iso_time(text) == expected


ZONES = st.sampled_from(["", "Z", "+01:30", "-0800", " UTC"])
ISO = st.tuples(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), ZONES)


@given(st.lists(ISO, min_size=1, max_size=8), st.lists(st.sampled_from(["x", "2005-02-30", " "]), max_size=2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@pytest.mark.parametrize("name", ["f.csv", "f.jsonl", "f.parquet"])
def test_iso_times_of_any_mixture_are_read_one_like_another(
    tmp_path: Path, name: str, times: list[tuple[datetime, str]], bad: list[str]
) -> None:
    zones = {"+01:30": timedelta(hours=1.5), "-0800": timedelta(hours=-8)}
    texts = [f"{time}{zone}" for time, zone in times]
    wanted = [(time.replace(tzinfo=timezone.utc) - zones.get(zone, timedelta())) - EPOCH for time, zone in times]
    found, letters = read(write(tmp_path / name, [*texts, *bad, texts[0]]))
    assert sorted(found) == sorted(time // timedelta(microseconds=1) for time in [*wanted, wanted[0]])
    assert len(letters) == len(bad)


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl", "f.parquet"])
@pytest.mark.parametrize(
    ("times", "unit", "expected"),
    [
        ([5, -7, 2**62], "auto", [5, -7, 2**62]),
        ([5, -7], "s", [5_000_000, -7_000_000]),
        ([1_112_486_027_123, -1], "ms", [1_112_486_027_123_000, -1000]),
        ([TIME], "us", [TIME]),
        ([1_112_486_027_123_456_789, -1, 1], "ns", [TIME, -1, 0]),
        ([1_112_486_027.0, 2.5], "auto", [1_112_486_027_000_000, 2_500_000]),
        ([1_112_486_027.123456, 0.0000014], "s", [TIME, 1]),
        ([1_112_486_027_123.456], "ms", [TIME]),
        ([2.5], "us", [2]),
    ],
)
def test_numbers_of_a_unit(tmp_path: Path, name: str, times: list[float], unit: str, expected: list[int]) -> None:
    assert read(write(tmp_path / name, times), unit) == (expected, [])


@given(
    st.lists(
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)),
        min_size=1,
        max_size=6,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@pytest.mark.parametrize("unit", ["s", "ns"])
@pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
def test_neighbours_do_not_matter(tmp_path: Path, name: str, unit: str, times: list[float]) -> None:
    """A chunk that Arrow reads at once, and its lines one by one."""
    alone = [time for value in times for time in read(write(tmp_path / name, [value]), unit)[0]]
    for more in ([], ["x"]):
        found, bad = read(write(tmp_path / name, [*times, *more]), unit)
        assert sorted(found) == sorted(alone)
        assert len(found) + len(bad) == len(times) + len(more)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([TIME * 1000 + 789], pa.timestamp("ns")), TIME),
        (pa.array([TIME], pa.timestamp("us", "America/New_York")), TIME),
        (pa.array([TIME // 1000], pa.timestamp("ms", "UTC")), TIME // 1000 * 1000),
        (pa.array([date(2005, 4, 2)], pa.date32()), 1_112_400_000_000_000),
        (pa.array([date(2005, 4, 2)], pa.date64()), 1_112_400_000_000_000),
        (pa.array(["2005-04-02T23:53:47.123456Z"], pa.large_string()), TIME),
        (pa.array(["2005-04-02 23:53:47.123456"]).dictionary_encode(), TIME),
        (pa.array([1_112_486_027.123456]), TIME),
        (pa.array([1_112_486_027]).cast(pa.decimal128(21, 2)), 1_112_486_027_000_000),
    ],
)
def test_parquet_types(tmp_path: Path, column: pa.Array, expected: int) -> None:
    assert read(write(tmp_path / "f.parquet", column)) == ([expected], [])


def test_times_of_parquet_that_are_none_are_bad_records(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    times, bad = read(write(tmp_path / "f.parquet", [1.0, nan, inf, None, 1e300]))
    assert times == [1_000_000]
    assert [record.position for record in bad] == [2, 3, 4, 5]
    assert {record.reason for record in bad} == {"timestamp is no time that fits in 64 bits", "timestamp is null"}
    times, bad = read(write(tmp_path / "g.parquet", pa.array([2**62, None, 1000], pa.timestamp("ms"))))
    assert times == [1_000_000]
    assert [record.position for record in bad] == [1, 2]
    zoned = pa.array([None, TIME * 1000 + 1], pa.timestamp("ns", "America/New_York"))
    rows = pa.table({"user": [1, None], "item": [1, 1], "rating": [1, 1], "time": zoned})
    pq.write_table(rows, tmp_path / "h.parquet")
    assert [record.reason for record in read(tmp_path / "h.parquet")[1]] == ["timestamp is null", "user is null"]


def test_what_arrow_does_not_read_is_not_called_damaged(tmp_path: Path) -> None:
    def said(error: Exception) -> str:
        return str(parquet_failure("f", error, " is damaged"))

    assert "damaged" in said(pa.ArrowInvalid("x"))
    assert "damaged" in said(OSError("Corrupt snappy compressed data."))
    assert "damaged" not in said(pa.ArrowNotImplementedError("x"))
    assert "damaged" not in said(OSError(5, "Input/output error"))
    memory = pa.ArrowMemoryError("x")
    assert parquet_failure("f", memory, "is damaged") is memory
    assert not isinstance(memory, InputError)


BY_SIZES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([10**11 - 1, 10**11, 10**14 - 1, 10**14, 10**17 - 1, 10**17, -(10**11), 0, 10**19]),
    st.integers(0, 2 * 10**9),
    st.floats(0, 2e9),
    st.floats(-1e19, 1e19),
    st.sampled_from(["2005-04-02 23:53:47.123456", "2005-04-02T23:53:47Z", "2005-04-02", "20050402", "x", ""]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(BY_SIZES, max_size=6), st.booleans())
def test_times_by_size_are_each_as_if_alone(times: list[Any], as_json: bool) -> None:
    """Numbers go by their size whatever is beside them, whichever parser reads them."""
    file = RatingFile("f", 0, "csv", False, 0, (), (0, 1, 2, 3), 4, (), -1, BY_SIZE)
    lines = [f"1,1,1,{time}\n".encode() for time in times]
    if as_json:
        file = file._replace(format="jsonl", names=("u", "i", "r", "t"), positions=(), json_ids=("", ""))
        lines = [json.dumps({"u": 1, "i": 1, "r": 1, "t": time}).encode() + b"\n" for time in times]
    schema = BlockSchema("int64", "int64", timestamp=True)

    def found(data: bytes, first: int = 1) -> list[tuple[int, Any]]:
        records = parse_lines(data, first, file, schema)
        rows = zip(records.positions.tolist(), records.columns[-1].to_pylist(), strict=True)
        return sorted([*rows, *((bad.position, bad.reason) for bad in records.bad)])

    together = found(b"".join(lines))
    assert [one for number, line in enumerate(lines) for one in found(line, number + 1)] == together
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_records, "_parse_chunk", lambda *_: None)
        assert found(b"".join(lines)) == together


def test_times_by_size() -> None:
    seconds = TIME // 10**6
    whole = seconds * 10**6
    numbers = pa.array([seconds, seconds * 1000 + 1, TIME, TIME * 1000 + 999, -seconds])
    assert to_times(numbers, BY_SIZE)[0].to_pylist() == [whole, whole + 1000, TIME, TIME, -whole]
    decimals = pa.array([seconds + 0.5, seconds * 1000 + 0.25, float(TIME)])
    assert to_times(decimals, BY_SIZE)[0].to_pylist() == [whole + 500_000, whole + 250, TIME]
    times, unfit = to_times(pa.array(["2005-04-02 23:53:47.123456", "x"]), BY_SIZE)
    assert (times[0].as_py(), unfit.tolist()) == (TIME, [False, True])
