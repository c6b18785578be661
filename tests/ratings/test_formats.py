"""Formats: what a file is taken for, which line is a header, which columns are read, what type ids have."""

from __future__ import annotations

import datetime
import gzip
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings import reading
from nnsparse_stream.ratings.formats import inspect_file
from nnsparse_stream.ratings.id_types import IdKind
from nnsparse_stream.ratings.input_plan import InputPlan, plan_inputs
from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.storage import files as storage

DEFAULT = FieldNames()
POSITIONS = FieldNames("0", "1", "2")


def write(path: Path, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize(
    ("content", "names", "expected"),
    [
        ("user,item,rating\n1,2,3\n", DEFAULT, ("csv", 17, (0, 1, 2))),
        ("x,rating,item,user\n1,2,3,4\n", DEFAULT, ("csv", 19, (3, 2, 1))),
        ("1,2,3\n4,5,6\n", DEFAULT, ("csv", 0, (0, 1, 2))),
        ("1\t2\t3\t9\n", DEFAULT, ("tsv", 0, (0, 1, 2))),
        ("user\titem\trating\n1\t2\t3\n", DEFAULT, ("tsv", 17, (0, 1, 2))),
        ("1::2::3::9\n", DEFAULT, ("movielens", 0, (0, 1, 2))),
        ("a::b::x\n", DEFAULT, ("movielens", 0, (0, 1, 2))),
        ("\n\n 1,2,3\n", DEFAULT, ("csv", 0, (0, 1, 2))),
        ("\ufeffuser,item,rating\r\n1,2,3\r\n", DEFAULT, ("csv", 21, (0, 1, 2))),
        ("a,b,c\n1,2,3\n", POSITIONS, ("csv", 0, (0, 1, 2))),
        ("1|2|3\n", DEFAULT, ("csv", 0, (0, 1, 2))),
        ("1;2;3;a,b,c\n", DEFAULT, ("csv", 0, (0, 1, 2))),
        ("1,2,3,a|b|c|d\n", DEFAULT, ("csv", 0, (0, 1, 2))),
        ('"user";"item";"rating"\n"1";"a,b";"3"\n', DEFAULT, ("csv", 23, (0, 1, 2))),
        ("ann,tea,\nann,rice,5\n", POSITIONS, ("csv", 0, (0, 1, 2))),
        ("a,b,4.5\n", POSITIONS, ("csv", 0, (0, 1, 2))),
        ('"user","item","rating"\n1,2,3\n', DEFAULT, ("csv", 23, (0, 1, 2))),
        ("userId,movieId,rating\n1,2,3\n", FieldNames("userId", "movieId"), ("csv", 22, (0, 1, 2))),
        ("userId,b,c\n1,2,3\n", FieldNames("userId", "2", "1"), ("csv", 11, (0, 2, 1))),
        ("1,2,3,4\n", FieldNames(timestamp="3"), ("csv", 0, (0, 1, 2, 3))),
        ("1,2\n", FieldNames(rating=None), ("csv", 0, (0, 1))),
        ("item,user\n1,2\n", FieldNames(rating=None), ("csv", 10, (1, 0))),
    ],
)
@pytest.mark.parametrize("suffix", ["txt", "gz"])
def test_text_files_are_recognised(
    tmp_path: Path, content: str, names: FieldNames, expected: tuple, suffix: str
) -> None:
    file, _, _ = inspect_file(write(tmp_path / f"f.{suffix}", content), 0, -1, names)
    assert (file.format, file.body, file.positions) == expected
    assert file.compressed == (suffix == "gz")


def test_json_lines_are_recognised(tmp_path: Path) -> None:
    url = write(tmp_path / "f", 'oops\n{"user": 1}\n{"item": "a", "rating": 2}\n')
    file, users, items = inspect_file(url, 0, -1, DEFAULT, "jsonl")
    assert (file.format, file.names) == ("jsonl", ("user", "item", "rating"))
    assert (users, items) == (
        IdKind("int64", True, integer=f"1 in {url}, line 2"),
        IdKind("string", True, string=f'"a" in {url}, line 3'),
    )


def test_parquet_is_recognised_with_every_usable_type(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user": pa.array(["a", "b"]).dictionary_encode(),
            "item": pa.array([1, 2], type=pa.uint8()),
            "rating": pa.array([Decimal("1.5"), Decimal("2")]),
            "when": pa.array([datetime.datetime(2020, 1, 1)] * 2),
        }
    )
    pq.write_table(table, tmp_path / "f", row_group_size=1)
    file, users, items = inspect_file(str(tmp_path / "f"), 3, 1, FieldNames("0", "item", "rating", "when"))
    assert file.names == ("user", "item", "rating", "when")
    assert (file.number, file.fold, file.row_groups) == (3, 1, (1, 1))
    assert (users.type, items.type) == ("string", "int64")


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (["1", "-20", "0"], "int64"),
        (["1", "x"], "string"),
        (["1", "007"], "string"),
        (["1", "1.0"], "string"),
        (["99999999999999999999"], "string"),
        (["1", ""], "int64"),
    ],
)
def test_ids_in_text_are_integers_where_all_are_plain(tmp_path: Path, ids: list[str], kind: str) -> None:
    url = write(tmp_path / "f.csv", "user,item,rating\n" + "".join(f"{name},1,2\n" for name in ids))
    _, users, _ = inspect_file(url, 0, -1, DEFAULT)
    assert users[:2] == (kind, False)


BAD_FILES = [
    ("f", "", DEFAULT, "is empty"),
    ("f.gz", "", DEFAULT, "is empty"),
    ("f", "\n  \n", DEFAULT, "is empty"),
    ("f", "what is this\n", DEFAULT, r"line 1: this is neither .* what is this"),
    ("f", "1+2+3\n", DEFAULT, "name the `format`, or the `delimiter`"),
    ("f", "userId,movieId,rating\n", DEFAULT, r"no column 'user'; the columns found are userId, movieId, rating; pass"),
    ("f", "user,item,stars\n", DEFAULT, r"no column 'rating'; .* pass `rating_column`"),
    ("f", "1,2,3\n", FieldNames(rating="stars"), "no column 'user'"),
    ("f", "1,2,3\n", FieldNames("0", "1", "7"), r"no column at position 7 .* 3 columns found"),
    ("f", "user,user,item,rating\n", DEFAULT, "'user' more than once"),
    (
        "f",
        '{"user": 1, "item": 2}\n',
        DEFAULT,
        "no field 'rating'; the fields found are user, item; pass `rating_column` NAME; where every record is",
    ),
    ("f", '{"user"\n', DEFAULT, "no JSON object"),
    ("f", b"BZh91AY", DEFAULT, "compressed with bzip2: decompress it first; only gzip"),
    ("f", b"\xff\xfe1\x00", DEFAULT, "UTF-16"),
    ("f", b"PAR1 and then nothing", DEFAULT, "not a whole Parquet file"),
    ("f", b"x" * 70_000, DEFAULT, "no line break in its first 65536 bytes"),
]


@pytest.mark.parametrize(("name", "content", "names", "message"), BAD_FILES)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: str | bytes, names: FieldNames, message: str
) -> None:
    url = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        inspect_file(url, 0, -1, names)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user": [True], "item": [1], "rating": [1.0]},
            "user column 'user' is bool, and numbers or strings are needed",
        ),
        ({"user": [1], "item": [1], "rating": ["x"]}, "rating column 'rating' is string, and numbers are needed"),
        (
            {"user": [1], "item": [1], "rating": [1], "when": [True]},
            "bool, and numbers, timestamps or ISO text are needed",
        ),
        (
            {"user": [1], "item": [1], "stars": [1]},
            "no column 'rating'.* pass `feedback` implicit, or `rating_column` none",
        ),
    ],
)
def test_parquet_columns_of_other_types_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "f")
    with pytest.raises(InputError, match=message):
        inspect_file(str(tmp_path / "f"), 0, -1, FieldNames(timestamp="when" if "when" in columns else None))


def plan(tmp_path: Path, *contents: str, **options: str) -> InputPlan:
    names = options.pop("names", DEFAULT)
    urls = [write(tmp_path / f"{place}.txt", content) for place, content in enumerate(contents)]
    return plan_inputs(urls, names, **options)  # type: ignore[arg-type]


def test_one_type_of_ids_for_all_files(tmp_path: Path) -> None:
    integers, strings = "1,2,3\n", "a,2,3\n"
    json_integers, json_strings = '{"user":1,"item":2,"rating":3}\n', '{"user":"1","item":2,"rating":3}\n'
    assert plan(tmp_path, integers, integers).schema[:2] == ("int64", "int64")
    assert plan(tmp_path, integers, strings).schema[:2] == ("string", "int64")
    assert plan(tmp_path, integers, json_strings).schema[:2] == ("string", "int64")
    assert plan(tmp_path, integers, strings, id_type="int").schema[:2] == ("int64", "int64")
    assert plan(tmp_path, integers, json_integers, id_type="string").schema[:2] == ("string", "string")
    for other in (strings, json_strings):
        with pytest.raises(InputError, match=r"integers in .* and strings in .*; pass `id_type` string"):
            plan(tmp_path, json_integers, other)
    with pytest.raises(InputError, match="pass `id_type` string"):
        plan(tmp_path, json_strings, id_type="int")


def test_time_or_position_is_read_where_the_policy_needs_it(tmp_path: Path) -> None:
    movielens, csv = "1::2::3::4\n", "user,item,rating,when\n1,2,3,4\n"

    def needs(*contents: str, **options: str) -> tuple[bool, bool]:
        schema = plan(tmp_path, *contents, **options).schema
        return schema.timestamp, schema.position

    assert needs(movielens) == (False, False)
    assert needs(movielens, duplicates="last") == (True, False)
    assert needs(movielens, csv, duplicates="last") == (False, True)
    assert needs(csv, names=FieldNames(timestamp="when"), duplicates="first") == (True, False)
    assert needs(csv, names=FieldNames(timestamp="when"), duplicates="mean") == (False, False)


def test_files_without_a_record_are_left_out_and_all_of_them_refused(tmp_path: Path) -> None:
    rowless = tmp_path / "rowless.parquet"
    pq.write_table(pa.table({"user": pa.nulls(0)}), rowless)
    empty = [
        write(tmp_path / str(place), text) for place, text in enumerate(["", "\n \n", "user,item,rating\n", "\ufeff"])
    ]
    empty += [write(tmp_path / "e.gz", ""), write(tmp_path / "h.gz", "user,item,rating\r\n\r\n"), str(rowless)]
    full = [write(tmp_path / name, "1,2,3\n") for name in ("full", "more")]
    planned = plan_inputs([*empty[:3], full[0], *empty[3:], full[1]])
    assert [(file.url, file.number) for file in planned.files] == [(full[0], 0), (full[1], 1)]
    assert planned.empty == tuple(empty)
    with pytest.raises(InputError, match=r"the input holds no record: all its files are empty, the first is .*/0"):
        plan_inputs(empty)
    with pytest.raises(InputError, match="the input of the fold test holds no record"):
        plan_inputs({0: full, 2: empty})
    blank = write(tmp_path / "blank", "\n" * 70_000 + "1,2,3\n")
    with pytest.raises(InputError, match="its first 65536 bytes hold no record"):
        plan_inputs([blank])


def test_splits_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(reading, "SPLIT_BYTES", 2)
    monkeypatch.setattr(storage, "can_seek", lambda url: not asked.append(url))  # type: ignore[func-returns-value]
    planned = plan_inputs([write(tmp_path / name, "1,2,3\n4,5,6\n") for name in "ab"])
    assert [split.file.url for split in planned.splits] == [file.url for file in planned.files for _ in range(6)]
    assert sorted(asked) == [file.url for file in planned.files]


@pytest.mark.parametrize(
    ("times", "unit", "form"),
    [
        (["1", "-2", ""], "auto", "own"),
        (["1", "2"], "ms", "ms"),
        (["1512269065.0", "2"], "auto", "s"),
        (["1.5"], "ns", "ns"),
        (["2005-04-02 23:53:47", "x"], "auto", "iso"),
        (["2005-04-02"], "s", "iso"),
        ([""], "auto", "own"),
        (["20050402"], "auto", "own"),
    ],
)
def test_the_form_of_times(tmp_path: Path, times: list[str], unit: str, form: str) -> None:
    text = "user,item,rating,when\n" + "".join(f"1,2,3,{time}\n" for time in times)
    planned = plan(tmp_path, text, names=FieldNames(timestamp="when"), timed_for="a test", timestamp_unit=unit)
    assert planned.files[0].time_form == form
    assert planned.calendar == (form != "own")
    assert planned.time_unit == (form if form in ("s", "ms", "ns") else None)


def test_times_that_are_none_or_of_two_kinds_are_refused(tmp_path: Path) -> None:
    head, options = "user,item,rating,when\n", {"names": FieldNames(timestamp="when"), "timed_for": "a test"}
    with pytest.raises(InputError, match="'when' begins with '04/02/2005', which is neither a number nor an ISO date"):
        plan(tmp_path, head + "1,2,3,04/02/2005\n", **options)
    mixed = (head + "1,2,3,2005-04-02\n", head + "1,2,3,1112400000\n")
    with pytest.raises(
        InputError, match=r"dates, or decimals, in .*0.txt and integers in .*1.txt; .*`timestamp_unit` s"
    ):
        plan(tmp_path, *mixed, **options)
    assert plan(tmp_path, *mixed, timestamp_unit="s", **options).calendar


def test_input_named_twice_or_roles_of_one_column_are_refused(tmp_path: Path) -> None:
    url = write(tmp_path / "f", "1,2,3\n")
    with pytest.raises(InputError, match="named more than once"):
        plan_inputs([url, url])
    with pytest.raises(InputError, match=r"named more than once \(the input of two folds\)"):
        plan_inputs({0: [url], 2: [url]})
    with pytest.raises(InputError, match="`user_column` and `item_column` name the same column"):
        plan_inputs([url], FieldNames("0", "0", "2"))


def test_an_empty_block_has_the_schema_of_the_blocks(tmp_path: Path) -> None:
    planned = plan_inputs({0: [write(tmp_path / "f", "1,x,3\n")]}, duplicates="first")
    assert planned.empty_block().schema == pa.schema(
        {"user": pa.int64(), "item": pa.string(), "rating": pa.float32(), "position": pa.int64(), "fold": pa.uint8()}
    )
