"""Types of ids: plain integers, what files say, and files that disagree."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.id_types import (
    IdKind,
    choose_id_type,
    is_plain_integer,
    may_be_spelt_otherwise,
    plain_lengths,
    text_id_kind,
)

OTHER_SPELLINGS = ["007", "-0", "+1", " 1", "1 ", "\t1", "0x1F", "0X1f", "1.0", "00", "-01", "1e3", "9" * 19, "١", ""]


def test_an_integer_has_one_plain_spelling() -> None:
    assert all(is_plain_integer(str(number)) for number in (0, 1, -1, 10, 2**63 - 1, -(2**63)))
    assert not any(is_plain_integer(text) for text in OTHER_SPELLINGS)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_lengths_of_plain_spellings(numbers: list[int]) -> None:
    assert plain_lengths(np.array(numbers, dtype=np.int64)) == sum(len(str(number)) for number in numbers)


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("spelling", ["007", "-0", " 1", "1 ", "0x1F", "00", "-01", "0"])
@pytest.mark.parametrize("place", range(3))
def test_another_spelling_is_noticed_anywhere_in_a_chunk(delimiter: str, spelling: str, place: int) -> None:
    plain = delimiter.join(["10", "0", "0.5"]) + "\n"
    line = delimiter.join([*["1"] * place, spelling, *["1"] * (2 - place)]) + "\n"
    for before in (0, 1, 13106, 13107):  # about the bytes that are looked at together
        assert may_be_spelt_otherwise((plain * before + line).encode(), delimiter.encode()) is (spelling != "0")


def test_files_that_disagree_are_named_with_both_places() -> None:
    integers = text_id_kind([("a, line 2", "1")])
    fractions = text_id_kind([("b, line 3", "x"), ("b, line 5", "1.0")])
    padded = text_id_kind([("c, line 2", "01")])
    assert (integers.type, fractions.type, padded.type) == ("int64", "string", "string")
    both = [("a", integers), ("b", fractions)]
    message = (
        "user ids are written with and without a decimal point: 1 in a, line 2, 1.0 in b, line 5; write them alike"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        choose_id_type("user", both)
    assert choose_id_type("user", both, "string") == "string"
    assert choose_id_type("user", both, "int") == "int64"
    assert choose_id_type("user", [("b", fractions), ("c", padded)]) == "string"
    assert choose_id_type("user", [("a", integers), ("c", padded)]) == "string"
    mixed = IdKind("mixed", True, "1 in d, line 1", string='"1" in d, line 2')
    with pytest.raises(InputError, match='as a number and as a string: 1 in d, line 1, "1" in d, line 2'):
        choose_id_type("user", [("d", mixed)])
    assert choose_id_type("user", [("d", mixed)], "string") == "string"
