"""A source by its URL; and the messages of logs, each of which is an event or a letter, whatever is beside it."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.layout import NO_COLUMN, FieldNames
from nnsparse_stream.streaming.events import SECOND
from nnsparse_stream.streaming.log_records import LogRecords
from nnsparse_stream.streaming.open_source import EventFormat, open_source

FORM = EventFormat("user", "string", "int64")
POSITIONS = FieldNames("0", "1", "2", "3")
BASE = 1_700_000_000
GOOD = [
    b'{"user": "x", "item": 1, "rating": 4}',
    b'{"user": 7, "item": "2", "rating": null, "more": [1]}',
    b'{\n  "user": "x",\r\n  "item": 3,\n  "rating": "2.5"\n}\n',
    b"x,1,4",
    b"7,2,\n",
    b"x,3,2.5,further,fields",
    b'"x",3,2.5',
]
BAD = [
    None,
    b"",
    b" \n",
    b"{",
    b"[1]",
    b'{"user": "x", "item": 1}',
    b'{"user": "x", "item": 1.5, "rating": 4}',
    b'{"user": null, "item": 1, "rating": 4}',
    b"x,1",
    b"x,none,1",
    b"x,1,nan",
    b"x,1,\xff",
    b"x,1,2\nx,2,2",
    b'"x,1,2',
    b'a"b,1,"2',
]


def parsed(form: EventFormat, messages: list[bytes | None], first: int = 0) -> tuple[list, list]:
    """The events as tuples, and the letters."""
    stored = np.arange(first, first + len(messages)) * SECOND + BASE * SECOND
    events, letters = LogRecords("log", form).events(messages, stored, lambda number: f"at {first + number}")
    return [tuple(event.values()) for event in events.to_pylist()], letters


def test_each_kind_of_message_is_an_event_or_a_letter() -> None:
    events, letters = parsed(FORM, [*GOOD, *BAD])
    ids = ["x", "7", "x", "x", "7", "x", "x"], [1, 2, 3, 1, 2, 3, 3]
    values = [4.0, None, 2.5, 4.0, None, 2.5, 2.5]
    assert events == list(zip(*ids, values, [(BASE + at) * SECOND for at in range(7)], strict=True))
    assert [letter.place for letter in letters] == [f"at {7 + number}" for number in range(len(BAD))]
    reasons = [letter.reason for letter in letters]
    assert reasons[:2] == ["the message is empty"] * 2
    assert reasons[5] == "the field rating is missing"
    assert reasons[12] == "a line break inside the message"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*GOOD, *BAD]), max_size=12), st.lists(st.integers(0, 12), max_size=3))
@example([b'"x', b'1",1,1'], [])
@example([b'"x,1,2', b'x",1,2'], [])
def test_any_cut_of_messages_gives_the_same(messages: list[bytes | None], cuts: list[int]) -> None:
    bounds = sorted({0, len(messages), *(min(cut, len(messages)) for cut in cuts)})
    parts = [parsed(FORM, messages[first:end], first) for first, end in pairwise(bounds)]
    events, letters = parsed(FORM, messages)
    assert [event for part in parts for event in part[0]] == events
    assert [letter for part in parts for letter in part[1]] == letters
    assert len(events) + len(letters) == len(messages)


def test_times_go_by_their_size_and_by_unit() -> None:
    times = [BASE, f"{BASE}000", BASE * 10**6, f"{BASE}.5", "2023-11-14T22:13:20Z", BASE * 10**9, BASE + 0.25]
    names = FieldNames(timestamp="time")
    objects = [{"user": "x", "item": 1, "rating": 1, "time": time} for time in times]
    events, letters = parsed(FORM._replace(names=names), [json.dumps(one).encode() for one in objects])
    assert letters == []
    assert [event[3] - BASE * SECOND for event in events] == [0, 0, 0, SECOND // 2, 0, 0, SECOND // 4]
    lines: list[bytes | None] = [f"x,1,1,{time}".encode() for time in times]
    assert parsed(FORM._replace(names=POSITIONS), lines)[0] == events
    milliseconds = FORM._replace(names=POSITIONS, timestamp_unit="ms")
    events, letters = parsed(milliseconds, [f"x,1,1,{BASE}".encode(), f"x,1,1,{BASE}000000".encode()])
    assert [event[3] for event in events] == [BASE * 1000]
    assert letters[0].reason.startswith("timestamp is more than a day after the record was stored")


def test_dialects_and_interactions() -> None:
    form = FORM._replace(dialect=Dialect(delimiter=";", decimal=",", encoding="latin-1"))
    assert parsed(form, ["ü;1;4,5".encode("latin-1")])[0][0][:3] == ("ü", 1, 4.5)
    clicks = FORM._replace(axis="item", row_type="int64", column_type="string", names=FieldNames(rating=NO_COLUMN))
    assert [event[:3] for event in parsed(clicks, [b"x,1", b'{"user": "y", "item": 2}'])[0]] == [
        (1, "x", 1),
        (2, "y", 1),
    ]
    assert parsed(FORM._replace(file_format="movielens"), [b"x::1::2"])[0][0][:3] == ("x", 1, 2.0)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (FORM._replace(file_format="parquet"), "`format` parquet is one of files"),
        (FORM._replace(file_format="csv", names=FieldNames(timestamp="time")), "`timestamp_column` with a position"),
    ],
)
def test_formats_that_messages_cannot_have(form: EventFormat, message: str) -> None:
    for url in ("kafka://localhost:1/topic", "redis://localhost:1/stream"):
        with pytest.raises(InputError, match=message if url.startswith("kafka") else "`format` .* is none of entries"):
            open_source(url, form)


@pytest.mark.parametrize("url", ["kafka://localhost/topic", "redis://localhost:1", "redis://localhost:1/", "kafka://"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match=r"give (kafka|redis)://HOST:PORT/(TOPIC|STREAM)"):
        open_source(url, FORM)


@pytest.mark.parametrize(("kind", "package"), [("kafka", "confluent_kafka"), ("redis", "redis")])
def test_a_package_that_is_missing(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"nnsparse_stream.streaming.{kind}_source", raising=False)
    with pytest.raises(InputError, match=rf"pip install 'nnsparse-stream\[{kind}\]'"):
        open_source(f"{kind}://localhost:1/name", FORM)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("kafka", "redis"):
        source = open_source(f"{kind}://localhost:1/name", FORM)
        monkeypatch.setattr(sys.modules[type(source).__module__], "_ANSWER_SECONDS", 0.5)
        with pytest.raises(StoreError, match=f"{kind}://localhost:1/name: .*run it again"):
            source.read("0", source.begin("0"))
