"""Whole files in dialects of all kinds: each record is read or bad, once, and the plan says how they are read."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ids.hashing import LONGEST_ID
from nnsparse_stream.ratings import reading
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.input_plan import plan_inputs
from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.ratings.reading import read_split
from nnsparse_stream.ratings.text_records import BadRecord

LINE_BITS = (1 << reading.RECORD_BITS) - 1


def read(data: bytes | pa.Table, where: Path, **options: Any) -> tuple[dict[int, tuple], list[BadRecord]]:
    """Ratings by their lines or records, and bad records, of a file."""
    path = where / "f"
    pq.write_table(data, path) if isinstance(data, pa.Table) else path.write_bytes(data)
    plan = plan_inputs([str(path)], **options)
    ratings, bad = {}, []
    for split in plan.splits:
        for block in read_split(split, plan.schema._replace(position=True)):
            bad += block.bad
            for row in block.ratings.to_pylist():
                position = row.pop("position") & LINE_BITS
                ratings[position] = tuple(row.values())
    return ratings, bad


PLAIN = b"user,item,rating\n1,a,3.5\n2,b,4\n"
CLICKS = ([(b"u", b"i", b"5"), (b"v", b"i", b"6")], [(b"u", b"j", b"7")])
READ = {2: (1, "a", 3.5), 3: (2, "b", 4.0)}


@pytest.mark.parametrize(
    ("data", "dialect"),
    [
        (PLAIN.replace(b",", b";"), Dialect()),
        (PLAIN.replace(b",", b"::"), Dialect()),
        (PLAIN.replace(b",", b" ~ "), Dialect(" ~ ")),
        (PLAIN.replace(b",", b";").replace(b".", b","), Dialect(decimal=",")),
        (PLAIN.replace(b"a,", b"'a',"), Dialect(quote="'")),
        (PLAIN.decode().encode("utf-16"), Dialect(encoding="utf-16")),
        (gzip.compress(PLAIN.decode().encode("utf-16-be"), mtime=0), Dialect(encoding="utf-16-be")),
        (PLAIN.replace(b"\n", b"\r\n"), Dialect(encoding="latin-1")),
        (b"junk, or not\n" + PLAIN.removeprefix(b"user,item,rating\n"), Dialect(skip_lines=1)),
        (b"names,of,columns\n" + PLAIN.removeprefix(b"user,item,rating\n"), Dialect(skip_lines=1, header=False)),
    ],
)
def test_one_log_in_many_dialects(tmp_path: Path, data: bytes, dialect: Dialect) -> None:
    assert read(data, tmp_path, dialect=dialect) == (READ, [])


def test_comments_are_no_records(tmp_path: Path) -> None:
    data = b"# made by hand, and\n#user,item\n" + PLAIN + b"# 5,x,1\n3,#c,1\n"
    for last in (b"", b"4,d,2\n", b"x,,\n"):
        ratings, bad = read(data + last, tmp_path, dialect=Dialect(comment="#"))
        assert (list(ratings), len(bad)) == ([4, 5, 7, 8] if last == b"4,d,2\n" else [4, 5, 7], int(last == b"x,,\n"))


def test_latin_1_ids_are_kept_apart(tmp_path: Path) -> None:
    data = "user,item,rating\n1,Motörhead,3\n2,Motorhead,4\n".encode("latin-1")
    assert read(data, tmp_path, dialect=Dialect(encoding="latin-1"))[0][2] == (1, "Motörhead", 3.0)
    _, bad = read(data, tmp_path)
    assert [record.reason for record in bad] == ["item is not valid UTF-8; name the file's `encoding`"]


@pytest.mark.parametrize("size", [1, 7, 50, 1 << 20])
def test_line_breaks_inside_quotes_whatever_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Such a file is read as one piece, and no line of a review becomes a rating."""
    monkeypatch.setattr(reading, "_CHUNK_BYTES", size)
    monkeypatch.setattr(reading, "SPLIT_BYTES", 20)
    lines = [f'{row},{row % 7},{row % 5},"fine, {row}"' for row in range(30)]
    lines[11] = '11,4,1,"pasted:\n\n999,7,5,row\n# ""end"""'
    data = ("user,item,rating,review\n" + "\n".join(lines)).encode()
    for packed in (data, gzip.compress(data), data.replace(b"\n", b"\r\n")):
        ratings, bad = read(packed, tmp_path, dialect=Dialect(comment="#"))
        assert list(ratings) == [*range(2, 14), *range(17, 35)]
        assert [row[0] for row in ratings.values()] == list(range(30))
        assert not bad


def test_where_a_file_is_cut_a_quote_that_is_not_closed_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SPLIT_BYTES", 30_000)
    lines = [f"{row},{row % 7},{row % 5},fine" for row in range(20_000)]
    lines[15_000] = '15000,1,1,"pasted:\n999,7,5,row\nend"'
    data = ("user,item,rating,review\n" + "\n".join(lines)).encode()
    with pytest.raises(InputError, match=r"f, line 15002: a quote is not closed .* pass `multiline` .*`quote` none"):
        read(data, tmp_path)
    ratings, bad = read(data, tmp_path, dialect=Dialect(multiline=True))
    assert (len(ratings), bad) == (20_000, [])
    ratings, bad = read(data, tmp_path, dialect=Dialect(quote="none"))
    assert len(ratings) == 20_001  # as was said: quotes are ordinary
    assert [record.reason for record in bad] == ["1 fields where 4 are expected"]


def test_a_header_that_is_read_as_a_record_is_named(tmp_path: Path) -> None:
    ratings, bad = read(PLAIN, tmp_path, names=FieldNames("0", "1", "2"), id_type="string")
    assert len(ratings) == 2
    assert bad[0][1:3] == (1, "rating is not a number; where the line is a header, pass `header` true")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("header", [b"user,item,rating", b"user,item", b"user,item,time"])
def test_a_header_that_is_repeated_is_a_bad_record(tmp_path: Path, header: bytes, end: bytes) -> None:
    width = header.count(b",") + 1
    first, second = (end.join([header, *(b",".join(row[:width]) for row in rows), b""]) for rows in CLICKS)
    ratings, bad = read(first + second, tmp_path)
    assert [row[:2] for row in ratings.values()] == [("u", "i"), ("v", "i"), ("u", "j")]
    assert [record[1:] for record in bad] == [(4, "it repeats the header", header.decode())]
    ratings, _ = read((first + second).replace(b"u,", b"1,").replace(b"v,", b"2,"), tmp_path)
    assert [row[0] for row in ratings.values()] == [1, 2, 1]  # nor does it make strings of integers


def test_a_line_that_is_no_record_for_its_rating_does_not_tell_the_type_of_ids(tmp_path: Path) -> None:
    ratings, bad = read(b"user,item,rating\nid,id,stars\n1,2,3\n", tmp_path)
    assert (ratings, len(bad)) == ({3: (1, 2, 3.0)}, 1)


def test_a_file_without_a_header_follows_the_order_of_those_with_one_or_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"rating,user,item\n3,1,2\n")
    (tmp_path / "b.csv").write_bytes(b"4,1,3\n")
    with pytest.raises(InputError, match=r"a.csv has a header, .* 1, 2, 0 \(from 0\), and .*b.csv has none"):
        plan_inputs([str(tmp_path)])
    (tmp_path / "a.csv").write_bytes(b"user,item,rating,time\n1,2,3,4\n")
    plan_inputs([str(tmp_path)])


@pytest.mark.parametrize(
    "data",
    [
        b"user,item,time\n1,a,5\n2,b,6\n",
        b'{"user":1,"item":"a","time":5}\n{"user":2,"item":"b","time":6}\n',
        pa.table({"user": [1, 2], "time": [5, 6], "item": ["a", "b"]}),
    ],
)
def test_a_log_without_ratings_is_read_as_ones(tmp_path: Path, data: bytes | pa.Table) -> None:
    names = FieldNames(rating="none", timestamp="time")
    ratings, _ = read(data, tmp_path, names=names, duplicates="last")
    assert list(ratings.values()) == [(1, "a", 1.0, 5), (2, "b", 1.0, 6)]
    if not isinstance(data, bytes) or data[:1] != b"{":
        assert list(read(data, tmp_path)[0].values()) == [(1, "a", 1.0), (2, "b", 1.0)]


def test_ratings_and_ones_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(PLAIN)
    (tmp_path / "b.csv").write_bytes(b"user,item\n3,c\n")
    with pytest.raises(InputError, match=r"a\.csv has ratings, and .*b\.csv has no column 'rating'"):
        plan_inputs([str(tmp_path / "*.csv")])
    assert plan_inputs([str(tmp_path / "*.csv")], FieldNames(rating="none")).schema.rating


@pytest.mark.parametrize("late", ["007", "0x1F", "1.0", "+1", " 1", "-0", "9223372036854775808"])
def test_an_integer_in_another_spelling_that_comes_late_is_a_bad_record(tmp_path: Path, late: str) -> None:
    data = b"user,item,rating\n" + b"".join(b"%d,7,5\n" % row for row in range(10_000)) + f"{late},7,5\n".encode()
    ratings, bad = read(data, tmp_path)
    assert len(ratings) == 10_000
    assert [record.position for record in bad] == [10_002]
    assert "pass `id_type` string" in bad[0].reason
    assert read(data, tmp_path, id_type="string")[0].get(10_002, ("",))[0] == ("" if late == " 1" else late)


def test_json_numbers_and_strings_are_not_one_id(tmp_path: Path) -> None:
    line = '{{"user":{},"item":7,"rating":5}}\n'
    head = "".join(line.format(row) for row in range(3000))
    _, bad = read((head + line.format('"1"')).encode(), tmp_path)
    assert "user is a string, and those before are numbers" in bad[0].reason
    _, bad = read((head + line.format("1.0")).encode(), tmp_path)
    assert "user is not an integer" in bad[0].reason
    early = (line.format("1") + line.format('"1"')).encode()
    with pytest.raises(InputError, match=r'as a number and as a string: 1 in .*line 1, "1" in .*line 2'):
        read(early, tmp_path)
    assert read(early, tmp_path, id_type="string") == ({1: ("1", "7", 5.0), 2: ("1", "7", 5.0)}, [])


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_integers_beyond_64_bits_are_read_as_strings(tmp_path: Path, form: str) -> None:
    table = pa.table({"user": pa.array([2**64 - 1, 7], pa.uint64()), "item": ["a", "b"], "rating": [1.0, 2.0]})
    data = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode() if form == "jsonl" else table
    assert read(data, tmp_path, id_type="string") == ({1: (str(2**64 - 1), "a", 1.0), 2: ("7", "b", 2.0)}, [])
    ratings, bad = read(data, tmp_path)
    assert ratings == {2: (7, "b", 2.0)}
    assert bad[0].reason.startswith("user does not fit in 64 bits; pass `id_type` string")


def test_half_floats_are_ids(tmp_path: Path) -> None:
    table = pa.table({"user": pa.array([1.0, 2.5], pa.float32()).cast(pa.float16()), "item": [1, 1], "rating": [1, 2]})
    ratings, bad = read(table, tmp_path)
    assert (ratings, bad[0].reason) == ({1: (1, 1, 1.0)}, "user is not an integer")


def test_whole_numbers_of_parquet_are_integers_whatever_their_type(tmp_path: Path) -> None:
    kinds: dict[str, tuple[list, str]] = {
        "doubles": ([1.0, 2.5, 2.0**53, 2.0**60, None, float("nan")], "not an integer"),
        "decimals": ([Decimal("1.00"), Decimal("2.50"), Decimal(2**53), Decimal(10) ** 30, None, Decimal("0.01")], ""),
    }
    for ids, _ in kinds.values():
        table = pa.table({"user": ids, "item": ["a"] * 6, "rating": [1.0] * 6})
        for wanted in ("auto", "string"):
            ratings, bad = read(table, tmp_path, id_type=wanted)
            of = str if wanted == "string" else int
            assert ratings == {1: (of(1), "a", 1.0), 3: (of(2**53), "a", 1.0)}
            assert [record.reason for record in bad] == [
                "user is not an integer",
                "user is too large for an exact integer",
                "user is null",
                "user is not an integer",
            ]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_id_that_is_too_long_is_a_bad_record(tmp_path: Path, form: str) -> None:
    ids = ["é" * (LONGEST_ID // 2), "x" * (LONGEST_ID + 1), "y"]
    rows = [{"user": 1, "item": name, "rating": 1.0} for name in ids]
    data: bytes | pa.Table = pa.Table.from_pylist(rows)
    if form == "jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif form == "csv":
        data = ("user,item,rating\n" + "".join(f"1,{name},1\n" for name in ids)).encode()
    ratings, bad = read(data, tmp_path)
    assert {row[1] for row in ratings.values()} == {ids[0], ids[2]}
    assert [record.reason for record in bad] == [f"item is longer than {LONGEST_ID} bytes"]


def test_the_plan_says_how_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"user;item;rating\nx;y;bad\n7;y;3\n")
    (tmp_path / "b.csv").write_bytes(b"user;item;rating\n8;z;4\n")
    pq.write_table(pa.table({"user": ["9"], "item": ["z"], "rating": [2.5]}), tmp_path / "c.csv")
    text, parquet = plan_inputs([str(tmp_path / "*.csv")]).described()
    assert (text["files"], text["format"], text["delimiter"], text["header"]) == (2, "csv", ";", True)
    assert text["columns"] == {"user": 0, "item": 1, "rating": 2}
    assert text["example"] == {"user": "7", "item": "y", "rating": 3.0}
    assert parquet == {
        "files": 1,
        "format": "parquet",
        "columns": {"user": "user", "item": "item", "rating": "rating"},
        "example": {"user": "9", "item": "z", "rating": 2.5},
    }


def test_a_disk_that_fails_is_no_fault_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    plan = plan_inputs([str(tmp_path / "f")])

    def fail(*_: object, inside: bool) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading, "_whole_lines", fail)
    with pytest.raises(StoreError, match=r"f: cannot be read from byte 0 on: .*Input/output error; run it again later"):
        list(read_split(plan.splits[0], plan.schema))
    monkeypatch.undo()
    monkeypatch.setattr(reading, "parse_lines", lambda *_: {}["a bug"])
    with pytest.raises(KeyError):
        list(read_split(plan.splits[0], plan.schema))
