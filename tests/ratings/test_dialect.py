"""Dialects: which spellings are taken, how a record is cut into fields, which lines quotes join."""

from __future__ import annotations

import csv
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings import dialect as dialects
from nnsparse_stream.ratings.dialect import Dialect, record_ends

QUOTED = Dialect(",", '"')


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Dialect(delimiter=""), "`delimiter` '' cannot stand between fields"),
        (Dialect(delimiter="a"), "`delimiter` 'a' cannot stand"),
        (Dialect(delimiter="-"), "`delimiter` '-' cannot stand"),
        (Dialect(delimiter=5), "`delimiter` is 5; give str"),  # type: ignore[arg-type]
        (Dialect(header="yes"), "`header` is 'yes'; give bool"),  # type: ignore[arg-type]
        (Dialect(quote="''"), "`quote` \"''\" is not one character"),
        (Dialect("::", '"'), "fields with `delimiter` '::' cannot have `quote`"),
        (Dialect("'", "'"), "cannot have `quote`"),
        (Dialect(decimal=";"), "`decimal` is ';'"),
        (Dialect(skip_lines=-1), "`skip_lines` is -1"),
        (Dialect(encoding="klingon"), "`encoding` 'klingon' is none of text"),
        (Dialect(encoding="base64"), "`encoding` 'base64' is none of text"),
        (Dialect(encoding="punycode"), "`encoding` 'punycode' is none of text"),
        (Dialect(encoding="idna"), "`encoding` 'idna' is none of text"),
    ],
)
def test_a_dialect_that_cannot_be_is_refused(wish: Dialect, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wish.checked()


def test_spellings_of_one_dialect_are_one() -> None:
    assert Dialect("\\t", "none", encoding="UTF8").checked() == Dialect("\t", "", encoding="utf-8")
    assert Dialect(encoding="latin1").checked().is_bytewise
    assert not Dialect(encoding="utf-16").checked().is_bytewise
    assert not Dialect(encoding="shift_jis").checked().is_bytewise


def test_numbers_have_the_decimal_point_of_the_dialect() -> None:
    comma = Dialect(decimal=",")
    assert comma.is_number("3,5")
    assert comma.number("-3,5e1") == -35
    assert not comma.is_number("3.5")
    assert QUOTED.looks_decimal("3,5")
    assert not comma.looks_decimal("3,5")
    assert not any(QUOTED.is_number(text) for text in ("nan", "1_0", "0x1", "", "١"))


@pytest.mark.parametrize(
    ("record", "fields", "loose"),
    [
        ("a,b,", ["a", "b", ""], set()),
        ('"a,b",c', ["a,b", "c"], set()),
        ('"a ""b"" c",', ['a "b" c', ""], set()),
        ('"","x"', ["", "x"], set()),
        ('12" vinyl,3', ['12" vinyl', "3"], {0}),
        ('1,"Heroes" x,3', ["1", 'Heroes" x,3'], {1}),
        ('1,"a "b" c",3', ["1", 'a "b" c', "3"], {1}),
        ('1,"a\nb",3', ["1", "a\nb", "3"], set()),
    ],
)
def test_a_record_is_cut_where_its_quotes_are_closed(record: str, fields: list[str], loose: set[int]) -> None:
    assert QUOTED.split(record) == (fields, loose)


FIELDS = st.lists(st.text(st.sampled_from('a,"\n '), max_size=4), min_size=2, max_size=4)


@given(st.lists(FIELDS, min_size=1, max_size=6))
def test_what_a_csv_writer_writes_is_read_back(rows: list[list[str]]) -> None:
    """Fields, the lines that quotes join, and where records end, all agree with Python's own writer."""
    lines: list[str] = []

    class Sink:
        def write(self, text: str) -> None:
            lines.append(text)

    csv.writer(Sink(), lineterminator="\n").writerows(rows)
    assert [QUOTED.split(text.removesuffix("\n"))[0] for text in lines] == rows
    data = "".join(lines).encode()
    parts = data.removesuffix(b"\n").split(b"\n")
    starts = [0, *(sum(text.count("\n") for text in lines[: place + 1]) for place in range(len(lines)))]
    joined = [(first, end, True) for first, end in itertools.pairwise(starts) if end > first + 1]
    assert list(QUOTED.groups(parts)) == joined
    if b'"' in data:
        ends = record_ends(data, QUOTED)
        assert ends is not None
        assert data[: ends[-1] + 1] == data
        assert len(ends) == len(rows)


def test_quotes_that_are_not_in_order_are_seen() -> None:
    for data in (b'1,a"b,3\n', b'1,"a"b",3\n', b'"a" b,3\n', b'a,"b" \n'):
        assert record_ends(data, QUOTED) is None


def groups(text: str, dialect: Dialect = QUOTED) -> list[tuple[int, int, bool]]:
    return list(dialect.groups(text.encode().split(b"\n")))


def test_lines_are_joined_until_the_quotes_are_closed_and_even(monkeypatch: pytest.MonkeyPatch) -> None:
    assert groups('a,b\n1,"x\ny",2\nc,d') == [(1, 3, True)]
    assert groups('1,"he said "yes"\n9,9,9\nend"\nc,d') == [(0, 3, True)]
    assert groups('1,"a 12" pipe\n9,9,9\nend"\nc,d"') == [(0, 4, True)]
    assert groups('1,"x\n2,3\n4,5') == [(0, 3, False)]
    assert groups("1,'x\n2,3") == []
    assert groups('# "x\n1,2', Dialect(",", '"', comment="#")) == []
    assert groups('1,"x\n2,3', Dialect(",", "")) == []
    monkeypatch.setattr(dialects, "LONGEST_QUOTED", 20)
    assert groups('1,"x\n' + "2,3\n" * 10 + '1,"x\ny"') == [(0, 1, False), (11, 13, True)]
