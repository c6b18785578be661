"""Chunks of text: Arrow's parser and ours agree in every dialect, on every id, and on lines that quotes join."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnsparse_stream.ids.hashing import LONGEST_ID
from nnsparse_stream.ratings import text_records
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.text_records import BlockSchema, OpenQuoteError, parse_lines, whole_records

DIALECTS = [
    Dialect(",", '"'),
    Dialect(";", "'", decimal=","),
    Dialect("|", ""),
    Dialect("\t", '"', comment="#"),
    Dialect("::", ""),
    Dialect(", ", ""),
]
NUMBERS = [
    "1",
    "22",
    "-3",
    "0",
    "007",
    "-0",
    "+1",
    " 1",
    "1 ",
    "1\t",
    "0x1F",
    "1.0",
    "9223372036854775808",
    "4.5",
    "4,5",
]
TEXTS = ["", "x", "x y", '"1"', "'1'", '"a', 'b"', 'a"b', '"a""b"', '"a\nb"', "'a\nb'", "é", "#", "\r"]
FIELDS = st.sampled_from([*NUMBERS, *TEXTS, "z" * (LONGEST_ID + 1)])
RECORDS = st.lists(st.one_of(st.lists(FIELDS, min_size=4, max_size=4), st.lists(FIELDS, max_size=5)), max_size=8)


def text_file(dialect: Dialect) -> RatingFile:
    return RatingFile("f", 0, "csv", False, 0, (), (0, 1, 2), 4, (), -1, dialect=dialect)


def found(data: bytes, dialect: Dialect, schema: BlockSchema, whole: bool = True) -> list[tuple]:
    records = parse_lines(data, 1, text_file(dialect), schema, whole)
    rows = zip(records.positions.tolist(), *(column.to_pylist() for column in records.columns), strict=True)
    return sorted([*rows, *((bad.position, bad.reason, bad.text) for bad in records.bad)], key=lambda row: row[0])


@given(
    RECORDS,
    st.sampled_from(DIALECTS),
    st.sampled_from(["int64", "string"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@example([["1", "2", "3", '"a\nb"']], DIALECTS[0], "int64", "\n", False)
@example([["1", "007", "3", ""], ["0", "2", "0.5", "2020-01-05 10:00"]], DIALECTS[0], "int64", "\n", False)
@example([["1", "2", "", "x"], ["1", "3", '""', "x"], ["1", "4", " ", "x"]], DIALECTS[0], "string", "\n", True)
@settings(max_examples=300, deadline=None)
def test_arrow_and_line_by_line_agree(
    records: list[list[str]], dialect: Dialect, ids: str, ending: str, retractions: bool
) -> None:
    data = "".join((dialect.delimiter or "").join(record) + ending for record in records).encode()
    schema = BlockSchema(ids, ids, retractions=retractions)
    fast = found(data, dialect, schema)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_records, "_parse_chunk", lambda *_: None)
        assert found(data, dialect, schema) == fast
    if ids == "int64":
        # Nothing that is no plain integer became one.
        spelt = {part for record in records for field in record for part in re.split("[,;'\" \t\r]+", field)}
        assert all(str(value) in spelt for row in fast if len(row) == 4 for value in row[1:3])


def test_a_record_without_a_rating_takes_it_back() -> None:
    rows = b"1,2,3,x\n1,3,,x\n1,,,x\n1,5,nan,x\n"
    taken_back = found(rows, DIALECTS[0], BlockSchema("int64", "int64", retractions=True))
    assert taken_back[:2] == [(1, 1, 2, 3.0), (2, 1, 3, None)]
    assert [row[1] for row in taken_back[2:]] == ["item is empty", "rating is not finite"]
    assert found(rows, DIALECTS[0], BlockSchema("int64", "int64"))[1][1] == "rating is empty"
    file = text_file(Dialect())._replace(format="jsonl", names=("u", "i", "r"), positions=(), json_ids=("", ""))
    lines = b'{"u": 1, "i": 2, "r": null}\n{"u": 1, "i": 3, "r": ""}\n{"u": 1, "i": 4}\n'
    records = parse_lines(lines, 1, file, BlockSchema("int64", "int64", retractions=True))
    assert [column.to_pylist() for column in records.columns] == [[1, 1], [2, 3], [None, None]]
    assert [bad.reason for bad in records.bad] == ["the field r is missing"]


TABLE = b'1,2,3,"pasted:\n9,9,9,x\nend"\n4,5,6,"a"\n'


def test_line_breaks_inside_quotes_of_a_field_that_is_not_read() -> None:
    schema = BlockSchema("int64", "int64")
    assert found(TABLE, DIALECTS[0], schema) == [(1, 1, 2, 3.0), (4, 4, 5, 6.0)]
    assert found(TABLE + b"x,5,6,7\n", DIALECTS[0], schema)[:2] == [(1, 1, 2, 3.0), (4, 4, 5, 6.0)]
    with pytest.raises(OpenQuoteError) as caught:
        found(b"7,8,9,x\n" + TABLE, DIALECTS[0], schema, whole=False)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    "data",
    [
        b'1,2,3,"pasted "table":\n9,9,9,x\nend"\n',  # quotes inside that are not doubled
        b'1,2,3,"a 12" pipe\n9,9,9,x\nend"\n',
        b'1,2,3, "pasted:\n9,9,9,x\nend"\n',  # a space before the quote
        b'1,"2,3,x\n9,9,9,x\n4",5,6,7\n',  # in a field that is read
        b'1,2,"3,x\n9,9,9,x\n',  # not closed, or cut off
        b'1,2,3,"4",5\n1,2,3,"x\n9,9,9,x\ny",z\n',  # of another number of fields
    ],
)
def test_no_line_that_may_be_inside_quotes_becomes_a_rating(data: bytes) -> None:
    rows = found(data, DIALECTS[0], BlockSchema("string", "string"))
    assert all(len(row) == 3 for row in rows)
    assert [row[0] for row in rows] == list(range(1, data.count(b"\n") + 1))


def test_a_quote_that_is_never_closed_costs_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_records, "LONGEST_QUOTED", 100)
    monkeypatch.setattr("nnsparse_stream.ratings.dialect.LONGEST_QUOTED", 100)
    data = b'1,"2,3,x\n' + b"9,9,9,x\n" * 50
    rows = found(data, DIALECTS[0], BlockSchema("int64", "int64"))
    assert rows[0][:2] == (
        1,
        "a quote is not closed in the line; pass `quote` none where quotes are ordinary characters",
    )
    assert [row for row in rows[1:] if len(row) == 4] == [(line, 9, 9, 9.0) for line in range(2, 52)]
    assert found(data, Dialect(",", ""), BlockSchema("string", "string"))[0] == (1, "1", '"2', 3.0)


def test_a_record_that_may_go_on_waits_for_its_end() -> None:
    file = text_file(DIALECTS[0])
    lines = TABLE.splitlines(keepends=True)
    whole = [whole_records(b"".join(lines[:count]), file) for count in range(5)]
    assert whole == [0, 0, 0, TABLE.index(b"4,5"), len(TABLE)]
    assert whole_records(b'a"b,2,3,4\n1,"', file) == 0
    assert whole_records(TABLE, text_file(Dialect(",", ""))) == len(TABLE)


def test_arrow_holds_no_memory_of_python():
    # Its threads may give a text back when Python has begun to end: an owner that asks for Python's lock then aborts.
    data = b"1,2,3\n" * 100
    before = sys.getrefcount(data)
    source = text_records._source(data)
    assert sys.getrefcount(data) == before
    assert source.read() == data
