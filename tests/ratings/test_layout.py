"""Layouts: delimiters by content, headers, logs without ratings, and what is refused with what to do."""

from __future__ import annotations

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.layout import FieldNames, Layout, find_layout

DEFAULT = FieldNames()
CLICKS = FieldNames(rating="none")


def layout(
    text: str,
    names: FieldNames = DEFAULT,
    file_format: str = "auto",
    dialect: Dialect = Dialect(),  # noqa: B008
) -> Layout:
    return find_layout("f", text.encode().split(b"\n"), dialect.checked(), file_format, names)


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("1;2;3,5\n4;5;6,5", ";"),  # the decimal comma is not the delimiter
        ("u|i|5|9\nv|j|4|9", "|"),
        ("1\t2\t3\ta,b,c\n1\t2\t3\ta,b", "\t"),
        ("1,2,3,a;b;c\n1,2,3,a;b", ","),
        ("1::2::3::x,y,z", "::"),
        ('"a;b","c",3\n"a","c;d",4', ","),
        ("user;item;rating\n1;2;3", ";"),
    ],
)
def test_the_delimiter_is_told_by_the_content(text: str, delimiter: str) -> None:
    found = layout(text, dialect=Dialect(decimal="," if "3,5" in text else "."))
    assert found.dialect.delimiter == delimiter


@pytest.mark.parametrize("delimiter", ["::", "; ", ";", " ", "§", "\t", "~"])
def test_a_delimiter_may_be_named(delimiter: str) -> None:
    text = delimiter.join(["user", "item", "rating"]) + "\n" + delimiter.join("123")
    found = layout(text, dialect=Dialect(delimiter=delimiter))
    assert (found.dialect.header, found.positions, found.num_fields) == (True, (0, 1, 2), 3)
    assert found.dialect.quote == ('"' if len(delimiter.encode()) == 1 else "")


@pytest.mark.parametrize(
    ("text", "names", "header", "expected"),
    [
        ("a,b,c\n1,2,3", FieldNames("0", "1", "2"), None, False),
        ("a,b,c\n1,2,3", FieldNames("0", "1", "2"), True, True),
        ("user,item,rating\n1,2,3", DEFAULT, None, True),
        ("1,2,3", DEFAULT, None, False),
        ("ann,tea,\nann,rice,5", DEFAULT, False, False),
        ("ann,tea\nbob,rice", FieldNames("0", "1", None), None, False),
        ("user,item,x\nuser,item,5", FieldNames("0", "1", "2"), False, False),
    ],
)
def test_a_header_is_what_holds_the_names(text: str, names: FieldNames, header: bool | None, expected: bool) -> None:
    assert layout(text, names, dialect=Dialect(header=header)).dialect.header is expected


def test_the_number_of_fields_is_that_of_most_records() -> None:
    assert layout("1,2\n1,2,3\n1,2,3", FieldNames("0", "1", "2")).num_fields == 3
    assert layout("user,item,rating\n1,2\n1,2").num_fields == 3


@pytest.mark.parametrize(
    ("text", "names", "positions"),
    [
        ("user,item\n1,2", DEFAULT, (0, 1)),
        ("item,timestamp,user\n1,2,3", DEFAULT, (2, 0)),
        ("user,item,when,created_at\n1,2,3,4", FieldNames(timestamp="when"), (0, 1, 2)),
        ("user,item,stars\n1,2,3", CLICKS, (0, 1)),
        ("1\t2\t881250949", CLICKS, (0, 1)),
        ("1\t2\t881250949", CLICKS._replace(timestamp="2"), (0, 1, 2)),
        ("u,i", FieldNames("0", "1", "none"), (0, 1)),
        ("ann,tea,12\nbob,rice,x", FieldNames("0", "1", "none"), (0, 1)),
        ("ann,tea,x\nbob,rice,12\ncid,tea,y", FieldNames("0", "1", "none"), (0, 1)),
    ],
)
def test_a_log_without_ratings(text: str, names: FieldNames, positions: tuple[int, ...]) -> None:
    found = layout(text, names)
    assert (found.rated, found.positions) == (False, positions)


ONES = "where every record is an interaction, as a click, pass `feedback` implicit, or `rating_column` none"
REFUSED = [
    ("1\t2\t881250949\n3\t4\t881250950", DEFAULT, Dialect(), f"third field seems to be a time .*881250949; {ONES}"),
    ("1::2::881250949123", DEFAULT, Dialect(), "seems to be a time"),
    ("user,item,stars\n1,2,3", DEFAULT, Dialect(), f"no column 'rating'; .* {ONES}"),
    ("1,2\n3,4", DEFAULT, Dialect(), f"no column 'user'; the columns found are 1, 2; .* {ONES}"),
    ("1,2,2026-01-31", DEFAULT, Dialect(), f"no column 'user'; .* {ONES}"),
    ("1,2\n3,4", FieldNames("0", "1", "2"), Dialect(), f"no column at position 2 .* {ONES}"),
    ("user, item, rating\n1, 2, 3", DEFAULT, Dialect(), "beside the delimiter: pass `delimiter` ', '"),
    ("1;2;3,5\n1;2;4,5", DEFAULT, Dialect(), "where a comma is the decimal point, pass `decimal` ','"),
    ("user,item,rating\n1,2,3", FieldNames("user", "1", "2"), Dialect(header=False), "there are no names"),
    ("1,2,3", DEFAULT, Dialect(header=True), "no column 'user'"),
    ("a;b,c;d,3\na;b,c;d,4", FieldNames("0", "1", "2"), Dialect(), "fields still hold another one: .*`delimiter`"),
    ("a b c", DEFAULT, Dialect(), "neither Parquet, .* name the `format`, or the `delimiter`"),
    ("user,item,rating", FieldNames("user", "0"), Dialect(), "name the same column"),
    (
        "who,what,at\nann,tea,881250949",
        FieldNames("0", "1", "none"),
        Dialect(),
        "seems to be a header: who, what, at; p",
    ),
    ("who,what\nann,5\nbob,6", FieldNames("0", "1", "none"), Dialect(), "pass `header` true, or false where it is"),
    ("who,what,day\nann,tea,2026-01-31", FieldNames("0", "1", None), Dialect(), "seems to be a header"),
    ("Item_ID;user\ntea;ann", FieldNames("1", "0", "none"), Dialect(), "seems to be a header"),
]


@pytest.mark.parametrize(("text", "names", "dialect", "message"), REFUSED)
def test_what_cannot_be_laid_out_is_refused(text: str, names: FieldNames, dialect: Dialect, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout(text, names, dialect=dialect)


def test_a_format_and_a_delimiter_may_contradict_each_other() -> None:
    with pytest.raises(InputError, match="`format` tsv and `delimiter` ',' contradict each other"):
        layout("1,2,3", file_format="tsv", dialect=Dialect(delimiter=","))
