"""A directory to which files are added: every record once, from any position, however files are cut; and letters."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reading_events import events_of, letters_of, read_all

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming import directory_source
from nnsparse_stream.streaming.directory_source import DirectorySource
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.events import SECOND, UNKNOWN, event_schema
from nnsparse_stream.streaming.source import Reading

NAMES = FieldNames(timestamp="time")
FORM = EventFormat("user", "string", "int64", NAMES)
BASE = 1_700_000_000
HEADER = "user,item,rating,time\n"


def line(record: int) -> str:
    """A record's line; every fifth takes a rating back, every seventh is malformed."""
    rating = "" if record % 5 == 4 else f"{record % 9 / 2}"
    return f"u{record % 4},{record if record % 7 else 'none'},{rating},{BASE + record}\n"


def put(directory: Path, name: str, text: str | bytes, written: float) -> None:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, (written, written))


def test_events_have_the_axis_rows_their_times_and_nulls(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", HEADER + f"7,x,4.5,{BASE}\n7,y,,{BASE * 1000 + 1}\n8,x,3,2023-11-14T22:13:21Z\n", BASE + 5)
    form = FORM._replace(axis="item")
    (reading,), events = read_all(DirectorySource(str(tmp_path), form._replace(column_type="string")))
    assert reading.events[0].schema == event_schema("string", "string")
    assert events == [
        {"row": "x", "column": "7", "value": 4.5, "time": BASE * SECOND},
        {"row": "y", "column": "7", "value": None, "time": BASE * SECOND + 1000},
        {"row": "x", "column": "8", "value": 3.0, "time": (BASE + 1) * SECOND},
    ]
    assert reading.letters == []


def test_records_without_times_have_that_of_their_file(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "u,1,4\n", BASE + 0.25)
    _, events = read_all(DirectorySource(str(tmp_path), FORM._replace(names=FieldNames())))
    assert [event["time"] for event in events] == [BASE * SECOND + SECOND // 4]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.sampled_from(["csv", "gzip", "jsonl", "parquet"]))
@example([3, 0, 40], "csv")
def test_any_cut_into_files_gives_the_same_events(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], kind: str
) -> None:
    directory = tmp_path_factory.mktemp("cut")
    first = 0
    for number, count in enumerate(counts):
        records = [line(record).rstrip("\n").split(",") for record in range(first, first + count)]
        first += count
        if kind in ("csv", "gzip"):
            text = (HEADER + "".join(",".join(record) + "\n" for record in records)).encode()
            put(directory, f"{number}", gzip.compress(text) if kind == "gzip" else text, BASE + number)
        elif kind == "jsonl":
            objects = [dict(zip(HEADER.strip().split(","), record, strict=True)) for record in records]
            put(directory, f"{number}", "".join(json.dumps(one) + "\n" for one in objects), BASE + number)
        else:
            table = pa.table(
                {
                    "user": [record[0] for record in records],
                    "item": pa.array([None if r[1] == "none" else int(r[1]) for r in records], pa.int64()),
                    "rating": pa.array([float(r[2]) if r[2] else None for r in records], pa.float64()),
                    "time": pa.array([int(r[3]) for r in records], pa.int64()),
                }
            )
            pq.write_table(table, directory / f"{number}", row_group_size=7)
            os.utime(directory / f"{number}", (BASE + number,) * 2)
    readings, events = read_all(DirectorySource(str(directory), FORM))
    expected = [record for record in range(first) if record % 7]
    assert [event["column"] for event in events] == expected
    assert [event["time"] for event in events] == [(BASE + record) * SECOND for record in expected]
    assert [event["value"] is None for event in events] == [record % 5 == 4 for record in expected]
    assert len(letters_of(readings)) == first - len(expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.lists(st.integers(0, 30), min_size=1, max_size=6), st.data())
def test_reading_again_from_any_position_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, block: int, counts: list[int], data: st.DataObject
) -> None:
    """Blocks are made small, so that positions lie inside files."""
    directory = tmp_path_factory.mktemp("again")
    first = 0
    for number, count in enumerate(counts):
        text = HEADER + "".join(line(record) for record in range(first, first + count))
        put(directory, f"{number}", text if number % 2 else gzip.compress(text.encode()), BASE + number // 2)
        first += count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory_source, "BLOCK_BYTES", block)
        patch.setattr("nnsparse_stream.ratings.reading.BLOCK_BYTES", block)
        readings, events = read_all(DirectorySource(str(directory), FORM))
        assert len(events) + len(letters_of(readings)) == first
        cut = data.draw(st.integers(0, len(readings) - 1))
        again, _ = read_all(pickle.loads(pickle.dumps(DirectorySource(str(directory), FORM))), readings[cut].after)
    assert events_of(readings[: cut + 1]) + events_of(again) == events
    assert letters_of(readings[: cut + 1]) + letters_of(again) == letters_of(readings)
    assert again[-1].after == readings[-1].after


def test_a_large_file_is_read_in_pieces_and_its_lines_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsparse_stream.ratings.reading._LEAST_SPLIT_BYTES", 1 << 14)
    monkeypatch.setattr(directory_source, "BLOCK_BYTES", 1 << 12)
    put(tmp_path, "a.csv", HEADER + "".join(line(record) for record in range(4000)), BASE)
    readings, events = read_all(DirectorySource(str(tmp_path), FORM))
    assert [event["column"] for event in events] == [record for record in range(4000) if record % 7]
    assert len(readings) > 5
    assert max(sum(len(block) for block in reading.events) for reading in readings) < 1000
    places = [letter.place for letter in letters_of(readings)]
    assert places == [f"{tmp_path}/a.csv, line {record + 2}" for record in range(0, 4000, 7)]
    again, _ = read_all(DirectorySource(str(tmp_path), FORM), readings[3].after)
    assert letters_of(readings[:4]) + letters_of(again) == letters_of(readings)


@pytest.mark.parametrize("order", ["time", "name"])
def test_files_are_read_in_order_and_new_ones_after(tmp_path: Path, order: str) -> None:
    form = FORM._replace(order=order)
    for name, written in (("b", 1), ("a", 1), ("c", 0)):
        put(tmp_path, name, HEADER + f"{name},1,1,{BASE}\n", BASE + written)
    source = DirectorySource(str(tmp_path), form)
    readings, events = read_all(source)
    assert [event["row"] for event in events] == (["c", "a", "b"] if order == "time" else ["a", "b", "c"])
    assert source.read("files", readings[-1].after)._replace(watermark=0) == Reading(
        [], [], readings[-1].after, 0, True
    )
    put(tmp_path, "d", HEADER + f"d,1,1,{BASE}\n", BASE + 2)
    for opened in (source, DirectorySource(str(tmp_path), form)):
        assert [event["row"] for event in read_all(opened, readings[-1].after)[1]] == ["d"]


def test_what_appears_behind_is_read_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_source, "_REMEMBERED", 3)
    for number in range(6):
        put(tmp_path, f"{number}", HEADER + f"{number},1,1,{BASE}\n", BASE + 10 * number)
    source = DirectorySource(str(tmp_path), FORM)
    position = read_all(source)[0][-1].after
    put(tmp_path, "near", HEADER + f"near,1,1,{BASE}\n", BASE + 35)
    put(tmp_path, "far", HEADER + f"far,1,1,{BASE}\n", BASE + 5)
    (reading,), events = read_all(source, position)
    assert [event["row"] for event in events] == ["near"]
    assert [letter.place for letter in reading.letters] == [f"{tmp_path}/far"]
    assert "behind the last 3 files" in reading.letters[0].reason
    assert read_all(source, reading.after)[0][0].letters == []
    # While nobody looked: it is told how many, once.
    (reading,), events = read_all(DirectorySource(str(tmp_path), FORM), position)
    assert [event["row"] for event in events] == ["near"]
    (letter,) = reading.letters
    assert letter.place == str(tmp_path)
    assert letter.reason.startswith("1 of the 4 files up to 2 appeared while nobody looked")
    assert read_all(DirectorySource(str(tmp_path), FORM), reading.after)[0][0].letters == []


def test_positions_stay_small_and_removed_files_are_no_matter(tmp_path: Path) -> None:
    source = DirectorySource(str(tmp_path), FORM)
    position = source.begin("files")
    for number in range(600):
        put(tmp_path, f"{number}", HEADER + f"{number},1,1,{BASE}\n", BASE + number)
    readings, events = read_all(source, position)
    assert len(events) == 600
    assert len(readings[-1].after) < 6_000
    for number in range(0, 600, 2):
        (tmp_path / f"{number}").unlink()
    put(tmp_path, "600", HEADER + f"600,1,1,{BASE}\n", BASE + 600)
    for opened in (source, DirectorySource(str(tmp_path), FORM)):
        (reading,), events = read_all(opened, readings[-1].after)
        assert [event["row"] for event in events] == ["600"]
        assert reading.letters == []


def test_unfinished_and_hidden_files_are_not_read(tmp_path: Path) -> None:
    for name in (".a", "_b", "c.tmp"):
        put(tmp_path, name, HEADER + f"x,1,1,{BASE}\n", BASE)
    assert read_all(DirectorySource(str(tmp_path), FORM))[1] == []
    (tmp_path / "c.tmp").rename(tmp_path / "c")
    assert len(read_all(DirectorySource(str(tmp_path), FORM))[1]) == 1


def test_a_file_that_cannot_be_read_is_a_letter_once_one_was_read(tmp_path: Path) -> None:
    put(tmp_path, "bad", "nobody,knows\n1,2\n", BASE)
    with pytest.raises(InputError, match="there is no column 'user'"):
        read_all(DirectorySource(str(tmp_path), FORM))
    put(tmp_path, "good", HEADER + f"x,1,1,{BASE}\n", BASE - 1)
    whole = gzip.compress((HEADER + "".join(line(record) for record in range(1, 5000))).encode())
    put(tmp_path, "half", whole[: len(whole) // 2], BASE + 1)
    pq.write_table(pa.table({"user": ["x"], "item": ["y"], "rating": [1.0], "time": [BASE]}), tmp_path / "typed")
    os.utime(tmp_path / "typed", (BASE + 2, BASE + 2))
    put(tmp_path, "last", HEADER + f"z,1,1,{BASE}\n", BASE + 3)
    readings, events = read_all(DirectorySource(str(tmp_path), FORM))
    assert (events[0]["row"], events[-1]["row"]) == ("x", "z")
    told = [letter for letter in letters_of(readings) if ", line " not in letter.place]
    assert [letter.place.rpartition("/")[2] for letter in told] == ["bad", "half", "typed"]
    assert "its gzip data ends early" in told[1].reason
    assert "item ids are strings" in told[2].reason


def test_a_directory_that_is_emptied_remembers_that_it_was_read(tmp_path: Path) -> None:
    put(tmp_path, "good", HEADER + f"x,1,1,{BASE}\n", BASE)
    source = DirectorySource(str(tmp_path), FORM)
    position = read_all(source)[0][-1].after
    (tmp_path / "good").unlink()
    for number in range(2):
        put(tmp_path, f"bad{number}", "nobody,knows\n1,2\n", BASE + number)
        readings, _ = read_all(source, position)
        assert [letter.place.rpartition("/")[2] for letter in letters_of(readings)] == [f"bad{number}"]
        position = readings[-1].after
        (tmp_path / f"bad{number}").unlink()


def test_a_file_that_goes_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_source, "BLOCK_BYTES", 100)
    monkeypatch.setattr("nnsparse_stream.ratings.reading.BLOCK_BYTES", 100)
    put(tmp_path, "a", HEADER + "".join(line(record) for record in range(1, 100)), BASE)
    first = DirectorySource(str(tmp_path), FORM).read("files", str(directory_source._Place()))
    (tmp_path / "a").unlink()
    (reading,), events = read_all(DirectorySource(str(tmp_path), FORM), first.after)
    assert events == []
    assert "before it was read to its end" in reading.letters[0].reason


def test_the_watermark_follows_the_events_and_then_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_source, "BLOCK_BYTES", 1)
    source = DirectorySource(str(tmp_path), FORM._replace(out_of_order=2 * SECOND))
    put(tmp_path, "0", HEADER + "x,none,1,1\n", BASE)
    put(tmp_path, "1", HEADER + f"x,1,1,{BASE + 9}\n", BASE + 1)
    put(tmp_path, "2", HEADER + f"x,1,1,{BASE + 5}\n", BASE + 2)
    monkeypatch.setattr(directory_source, "_MOST_FILES", 1)
    monkeypatch.setattr("time.time_ns", lambda: (BASE + 60) * 10**9)
    marks = [reading.watermark for reading in read_all(source)[0]]
    assert marks == [UNKNOWN, (BASE + 7) * SECOND, (BASE + 7) * SECOND, (BASE + 58) * SECOND]


def test_an_event_of_tomorrow_is_a_letter(tmp_path: Path) -> None:
    put(tmp_path, "a", HEADER + f"x,1,1,{BASE}\ny,2,2,{BASE + 100_000}\n", BASE)
    (reading,), events = read_all(DirectorySource(str(tmp_path), FORM))
    assert [event["row"] for event in events] == ["x"]
    assert reading.letters[0].place == f"{tmp_path}/a, line 3"
    assert '"user": "y"' in reading.letters[0].text


def test_ratings_below_a_positive_one_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a", HEADER + f"x,1,4,{BASE}\nx,2,3.5,{BASE}\nx,3,,{BASE}\n", BASE)
    _, events = read_all(DirectorySource(str(tmp_path), FORM._replace(positive_from=4.0)))
    assert [(event["column"], event["value"]) for event in events] == [(1, 1.0), (3, None)]


def test_a_first_record_without_a_rating_is_no_header(tmp_path: Path) -> None:
    put(tmp_path, "a", "x,1,\nx,2,5\n", BASE)
    _, events = read_all(DirectorySource(str(tmp_path), FORM._replace(names=FieldNames())))
    assert [event["value"] for event in events] == [None, 5.0]


def test_movielens_has_times_by_default_and_json_ids_may_be_numbers_or_texts(tmp_path: Path) -> None:
    put(tmp_path, "a", f"1::2::3.5::{BASE}\n", BASE + 1)
    put(tmp_path, "b", '{"user": 1, "item": 5, "rating": 1}\n{"user": "1", "item": "6", "rating": null}\n', BASE + 2)
    readings, events = read_all(DirectorySource(str(tmp_path), FORM._replace(names=FieldNames())))
    assert letters_of(readings) == []
    assert [tuple(event.values()) for event in events] == [
        ("1", 2, 3.5, BASE * SECOND),
        ("1", 5, 1.0, (BASE + 2) * SECOND),
        ("1", 6, None, (BASE + 2) * SECOND),
    ]


def test_a_directory_in_memory_and_none_at_all(tmp_path: Path) -> None:
    storage.write_file("memory://events/a", (HEADER + f"x,1,1,{BASE}\n").encode())
    assert len(read_all(DirectorySource("memory://events", FORM))[1]) == 1
    with pytest.raises(InputError, match="no such file"):
        read_all(DirectorySource(str(tmp_path / "nowhere"), FORM))
    put(tmp_path, "a", HEADER, BASE)
    with pytest.raises(InputError, match="is a file where a directory is meant"):
        read_all(DirectorySource(str(tmp_path / "a"), FORM))
    with pytest.raises(InputError, match="`order` is 'size'"):
        DirectorySource(str(tmp_path), FORM._replace(order="size"))
