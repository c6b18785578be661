"""Reading: every record is a rating or a bad record, at its exact line; fast and slow ways agree."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings import reading
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.input_plan import plan_inputs
from nnsparse_stream.ratings.json_records import BadLineError
from nnsparse_stream.ratings.reading import describe_pair, read_split
from nnsparse_stream.ratings.record_values import parse_record
from nnsparse_stream.ratings.text_records import BadRecord, BlockSchema, parse_lines

LINE_BITS = (1 << 40) - 1


def read(path: Path, schema: BlockSchema | None = None, **options: str) -> tuple[dict, list[BadRecord]]:
    """Ratings by position, and bad records, of one file."""
    plan = plan_inputs([str(path)], **options)  # type: ignore[arg-type]
    schema = (schema or plan.schema)._replace(position=True)
    ratings, bad = {}, []
    for split in plan.splits:
        for block in read_split(split, schema):
            bad += block.bad
            for row in block.ratings.to_pylist():
                position = row.pop("position") & LINE_BITS
                ratings[position] = tuple(row.values())
    return ratings, bad


OTHER = "an integer in another spelling than the plain one"
STRINGS = "pass `id_type` string where ids are not integers"
BAD_CSV = [
    ("1,2,nan", "rating is not finite"),
    ("1,2,-inf", "rating is not finite"),
    ("1,2,1e39", "rating is not finite"),
    ("1,2,", "rating is empty"),
    ("1,2,four", "rating is not a number"),
    ("1,2,1_0", "rating is not a number"),
    ("1,2", "2 fields where 3 are expected"),
    ("1,2,3,4", "4 fields where 3 are expected"),
    (",2,3", "user is empty"),
    ("1,,3", "item is empty"),
    ("x,2,3", "user is not an integer; pass `id_type` string where ids are not integers"),
    ("1,2.5,3", "item is not an integer; pass `id_type` string where ids are not integers"),
    ("99999999999999999999,2,3", f"user is {OTHER}; {STRINGS}"),
    ("007,2,3", f"user is {OTHER}; {STRINGS}"),
    ("1, 2,3", f"item is {OTHER}; {STRINGS}"),
    ("1,2\t,3", f"item is {OTHER}; {STRINGS}"),
    ("0x1F,2,3", f"user is {OTHER}; {STRINGS}"),
    ("-0,2,3", f"user is {OTHER}; {STRINGS}"),
    ("1,+2,3", f"item is {OTHER}; {STRINGS}"),
    ("1,2.0,3", f"item is {OTHER}; {STRINGS}"),
    ("1,2,3;5", "rating is not a number"),
    ('1,2,"3,5"', "rating is not a number; pass `decimal` ',' where a comma is the decimal point"),
    ("9999999999999999999,2,3", "user does not fit in 64 bits; pass `id_type` string where ids are not integers"),
    ("1,2\r,3", "a carriage return inside the line"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_CSV)
def test_a_bad_line_is_named_and_costs_one_record(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(f"user,item,rating\r\n1,1,1\r\n\r\n{line}\r\n5,6,7.5".encode())
    ratings, bad = read(path, id_type="int")
    assert ratings == {2: (1, 1, 1.0), 5: (5, 6, 7.5)}
    assert bad == [BadRecord(str(path), 4, reason, line)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"user":1,"item":2,"rating":NaN}', "rating is not finite"),
        (b'{"user":1,"item":2,"rating":1e999}', "rating is not finite"),
        (b'{"user":1,"item":2,"rating":1' + b"0" * 400 + b"}", "rating is not finite"),
        (b'{"user":1,"item":2,"rating":true}', "rating is not a number"),
        (b'{"user":1,"item":2,"rating":null}', "rating is null"),
        (b'{"user":null,"item":2,"rating":3}', "user is null"),
        (b'{"item":2,"rating":3}', "the field user is missing"),
        (
            b'{"user":1.5,"item":2,"rating":3}',
            "user is not an integer",
        ),
        (b'{"user":1,"item":2,"rating":3', "not valid JSON"),
        (b"{}{}", "not valid JSON"),
        (b"[1,2,3]", "not a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "f.jsonl"
    good = b'{"user":1,"item":1,"rating":1}'
    path.write_bytes(good + b"\n" + line + b"\n" + good.replace(b"1", b"5") + b"\n")
    ratings, bad = read(path, BlockSchema("int64", "int64"))
    assert ratings == {1: (1, 1, 1.0), 3: (5, 5, 5.0)}
    assert [(record.position, record.reason) for record in bad] == [(2, reason)]
    assert bad[0].text == line.decode()[:1000]


def test_string_ids(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes('user,item,rating\nü,"a ""b"", c",1\n007,\xfcx,2\n'.encode() + b"\xff,x,3\nx y,y,4\n x,y,4\n")
    ratings, bad = read(path)
    assert ratings == {2: ("ü", 'a "b", c', 1.0), 3: ("007", "üx", 2.0), 5: ("x y", "y", 4.0)}
    assert [(record.position, record.reason, record.text) for record in bad] == [
        (4, "user is not valid UTF-8; name the file's `encoding`", "\\xff,x,3"),
        (6, "user begins or ends with a space; pass `delimiter` ', ' where a space follows each delimiter", " x,y,4"),
    ]


def test_bytes_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    for bad_line in (b"", b"1,2,x,\n"):
        (tmp_path / "f.csv").write_bytes(b"user,item,rating,title\n" + bad_line + b"1,2,3,\xff\xfe\n")
        ratings, bad = read(tmp_path / "f.csv", BlockSchema("int64", "int64"))
        assert list(ratings.values()) == [(1, 2, 3.0)]
        assert len(bad) == len(bad_line[:1])


def test_parquet_nulls_and_the_like_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    columns = {
        "user": pa.array([1, None, 3, 4, 2**63, 6], type=pa.uint64()),
        "item": ["a", "b", "", None, "e", "f"],
        "rating": [1.0, 2.0, 3.0, 4.0, 5.0, float("inf")],
    }
    pq.write_table(pa.table(columns), path, row_group_size=4)
    ratings, bad = read(path)
    assert ratings == {1: (1, "a", 1.0)}
    assert [(record.position, record.reason) for record in bad] == [
        (2, "user is null"),
        (3, "item is empty"),
        (4, "item is null"),
        (5, "user does not fit in 64 bits; pass `id_type` string where ids are not integers"),
        (6, "rating is not finite"),
    ]
    assert json.loads(bad[0].text) == {"user": None, "item": "b", "rating": 2.0}


def test_parquet_integers_can_be_read_as_strings(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1], "item": [2], "rating": [3]}), tmp_path / "f")
    assert read(tmp_path / "f", id_type="string")[0] == {1: ("1", "2", 3.0)}


SEPARATOR = {"csv": ",", "tsv": "\t", "movielens": "::", "jsonl": ""}
FIELD = st.one_of(
    st.integers(-99, 99).map(str),
    st.floats(-5, 5).map(str),
    st.sampled_from(
        [
            "",
            " ",
            "x",
            "nan",
            "1e5",
            "+1",
            "-",
            ".5",
            "5.",
            "1e99",
            '"',
            '"1"',
            "'",
            ":",
            "::",
            ",",
            "\t",
            "\r",
            "\\",
            "é",
            "007",
            " 7",
            "7 ",
            "-0",
            "0x7",
            "\x1f",
            "\x00",
        ]
    ),
)
LINES = st.lists(st.lists(FIELD, min_size=0, max_size=5), max_size=12)


@pytest.mark.parametrize("file_format", ["csv", "tsv", "movielens", "jsonl"])
@given(LINES, st.sampled_from(["int64", "string"]), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_is_dropped_and_the_neighbours_do_not_matter(
    file_format: str, lines: list[list[str]], ids: str, ending: str
) -> None:
    """Each line read alone, and all together, give the same ratings and the same bad records."""
    if file_format == "jsonl":
        texts = [
            "{"
            + ",".join(f'"{key}":{value}' for key, value in zip(("user", "item", "rating"), line, strict=False))
            + "}"
            for line in lines
        ]
    else:
        texts = [SEPARATOR[file_format].join(line) for line in lines]
    data = "".join(text + ending for text in texts).encode()
    dialect = Dialect(SEPARATOR[file_format], '"' if file_format in ("csv", "tsv") else "")
    file = reading.RatingFile(
        "f", 0, file_format, False, 0, ("user", "item", "rating"), (0, 1, 2), 3, (), -1, dialect=dialect
    )
    schema = BlockSchema(ids, ids)
    whole = parse_lines(data, 1, file, schema)
    found = sorted(
        [
            (position, *row)
            for position, *row in zip(whole.positions.tolist(), *(c.to_pylist() for c in whole.columns), strict=True)
        ]
        + [(record.position, record.reason, record.text) for record in whole.bad],
        key=lambda row: row[0],
    )
    parts = data.split(b"\n")[:-1]
    joined = {line for first, end, _ in dialect.groups(parts) for line in range(first, end)}
    alone = []
    for number, line in enumerate(parts, start=1):
        if not line.strip() or number - 1 in joined:
            continue
        try:
            alone.append((number, *parse_record(line, file, schema)))
        except BadLineError as error:
            alone.append((number, str(error), line.removesuffix(b"\r").decode()))
    assert [row for row in found if row[0] - 1 not in joined] == alone
    assert all(len(row) == 3 for row in found if row[0] - 1 in joined)  # bad, as it is a field that is read


def test_blocks_and_chunks_are_bounded_and_lines_stay_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 50)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100)
    lines = ["", "user,item,rating"] + [f"{row},{row % 7},{row % 5}" if row % 10 else "bad" for row in range(200)]
    path = tmp_path / "f.csv"
    for ending in ("", "\n"):
        path.write_text("\n".join(lines) + ending)
        ratings, bad = read(path)
        assert ratings == {row + 3: (row, row % 7, row % 5) for row in range(200) if row % 10}
        assert [record.position for record in bad] == [row + 3 for row in range(0, 200, 10)]
    plan = plan_inputs([str(path)])
    assert max(block.ratings.nbytes for block in read_split(plan.splits[0], plan.schema)) <= 120


TEXT_LINES = st.lists(
    st.sampled_from(
        ["1,2,3", "44,5,6.5", '"7","8",9', '1,"2', '3",4', "x,1,2", "", "  ", "1,2", "é,1,1", "\r", "1,2,3\r"]
    )
)


@given(TEXT_LINES, st.booleans(), st.booleans(), st.integers(0, 3), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_splits_give_the_same_records_at_the_same_lines(
    tmp_path: Path, lines: list[str], mark: bool, end: bool, blank: int, data: st.DataObject
) -> None:
    """Header, mark, blank lines and quoted line breaks included; the first of the splits alone has the header."""
    assume(any(line.strip() for line in lines))
    text = ("\ufeff" if mark else "") + "\n" * blank + "\n".join(["user,item,rating", *lines]) + "\n" * end
    path = tmp_path / "f.csv"
    path.write_bytes(text.encode())
    schema = BlockSchema("int64", "int64", position=True)
    file = plan_inputs([str(path)]).files[0]
    ratings, bad = read(path, schema)
    assert reading.split_file(file) == [reading.Split(file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SPLIT_BYTES", data.draw(st.integers(1, len(text))))
        patch.setattr(reading, "_CHUNK_BYTES", data.draw(st.integers(1, len(text))))
        splits = reading.split_file(file)
        found, positions, letters, before = [], [], [], 0
        for split in splits:
            blocks = list(read_split(split, schema))
            rows = [row for block in blocks for row in block.ratings.to_pylist()]
            found += sorted(rows, key=lambda row: row["position"])
            letters += [bad._replace(position=bad.position + before) for block in blocks for bad in block.bad]
            before += sum(block.lines for block in blocks)
    positions = [row.pop("position") for row in found]
    assert [tuple(row.values()) for row in found] == [ratings[line] for line in sorted(ratings)]
    assert positions == sorted(set(positions))
    assert letters == bad
    assert len(splits) == 1 or before == text.count("\n")


def test_a_file_is_cut_to_equal_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SPLIT_BYTES", 10)
    (tmp_path / "f.csv").write_text("user,item,rating\n" + "1,2,3\n" * 4)
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(b"user,item,rating\n" + b"1,2,3\n" * 4))
    plain, packed = (plan_inputs([str(tmp_path / name)]).splits for name in ("f.csv", "f.csv.gz"))
    # 41 bytes in five pieces of eight, but for the header's 17, which are in the first.
    assert [(split.first, split.last, split.number) for split in plain] == [(0, 24, 0), (24, 32, 1), (32, 0, 2)]
    assert [split.is_whole for split in packed] == [True]


def test_a_line_that_is_too_long_has_its_number_in_any_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 10)
    monkeypatch.setattr(reading, "_LONGEST_LINE", 100)
    monkeypatch.setattr(reading, "SPLIT_BYTES", 50)
    (tmp_path / "f").write_text("1,2,3\n" * 20 + "1,2," + "3" * 200 + "\n" + "1,2,3\n" * 20)
    with pytest.raises(InputError, match=r"line 21: longer than"):
        read(tmp_path / "f")


def test_parquet_splits_cover_every_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"user": range(100), "item": range(100), "rating": [1.0] * 100})
    pq.write_table(table, tmp_path / "f", row_group_size=7)
    plan = plan_inputs([str(tmp_path / "f")])
    monkeypatch.setattr(reading, "SPLIT_RECORDS", 20)
    splits = reading.split_file(plan.files[0])
    assert [(split.first, split.last) for split in splits] == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15)]
    schema = plan.schema._replace(position=True)
    rows = [row for split in splits for block in read_split(split, schema) for row in block.ratings.to_pylist()]
    assert [(row["user"], row["position"]) for row in rows] == [(user, user + 1) for user in range(100)]


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 10)
    monkeypatch.setattr(reading, "_LONGEST_LINE", 100)
    (tmp_path / "f").write_text("1,2,3\n1,2," + "3" * 200)
    with pytest.raises(InputError, match=r"line 2: longer than"):
        read(tmp_path / "f")


def test_truncated_files_are_named_with_the_place(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"{row},{row * 7919 % 1000},3\n" for row in range(50_000)).encode())
    (tmp_path / "f.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"f\.gz: its gzip data ends early or is damaged after line 2\d\d\d\d;"):
        read(tmp_path / "f.gz")
    (tmp_path / "f.gz").write_bytes(whole[:1000] + b"\x00" * 1000 + whole[2000:])
    with pytest.raises(InputError, match=r"f\.gz: its gzip data ends early or is damaged"):
        read(tmp_path / "f.gz")


def test_every_member_of_a_gzip_file_is_read_and_counted(tmp_path: Path) -> None:
    first, second = (
        gzip.compress("".join(f"{row},{row * 7919 % 1000},3\n" for row in rows).encode())
        for rows in (range(20_000), range(20_000, 50_000))
    )
    (tmp_path / "f.gz").write_bytes(first + second)
    assert len(read(tmp_path / "f.gz")[0]) == 50_000
    (tmp_path / "f.gz").write_bytes(first + second[: len(second) // 2])
    with pytest.raises(InputError, match=r"f\.gz: its gzip data ends early or is damaged after line 3\d\d\d\d;"):
        read(tmp_path / "f.gz")


def test_damaged_parquet_pages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"user": range(9999), "item": range(9999), "rating": [1.0] * 9999}), path)
    data = bytearray(path.read_bytes())
    data[4:3000] = bytes(2996)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"f\.parquet: its Parquet data is damaged after record 0"):
        read(path)


def test_a_pair_is_found_in_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2,3\n4,5,6\n")
    pq.write_table(pa.table({"user": [9, 4], "item": [5, 5], "rating": [1, 1]}), tmp_path / "b.parquet")
    plan = plan_inputs([str(tmp_path)])
    expected = f"{tmp_path}/a.csv, line 2 and {tmp_path}/b.parquet, record 2"
    assert describe_pair(plan.files, plan.schema, 4, 5) == expected
