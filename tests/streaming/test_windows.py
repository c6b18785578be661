from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.streaming.windows import Windows

#: The years 1 to 9999.
TIMES = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)


@given(st.lists(TIMES), st.integers(1, 10**15))
def test_a_time_lies_in_its_window(times: list[int], size: int) -> None:
    begins = Windows(size, 0).begin_of(np.array(times, dtype=np.int64))
    assert begins.tolist() == [time // size * size for time in times]


@given(TIMES, TIMES)
def test_names_give_begins_back_and_sort_by_time(one: int, other: int) -> None:
    # A name without microseconds ends sooner: such names sort among their own kind, as windows of one size are.
    one, other = (time - time % 1_000_000 for time in (one, other))
    assert Windows.begin_of_name(Windows.name(one)) == one
    assert (Windows.name(one) < Windows.name(other)) == (one < other)


@given(TIMES)
def test_a_name_has_its_microseconds(begin: int) -> None:
    name = Windows.name(begin)
    assert Windows.begin_of_name(name) == begin
    assert len(name) == (27 if begin % 1_000_000 else 20)


def test_names() -> None:
    assert Windows.name(1_795_694_405_000_000) == "2026-11-26T12-00-05Z"
    assert Windows.name(1_795_694_405_000_010) == "2026-11-26T12-00-05.000010Z"


@pytest.mark.parametrize(
    "name", ["", "2026-11-26", "2026-11-26T12:00:05Z", "2026-11-26T12-00-05", "2026-13-26T12-00-05Z"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (NumPy's own message where a month is none)
        Windows.begin_of_name(name)
