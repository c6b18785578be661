"""JSON as typed values: what does not fit names the field."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pytest

from nnsparse_stream.storage.json_types import typed


@dataclass(frozen=True)
class Part:
    path: str
    sizes: tuple[tuple[int, int], ...]
    share: float = 0.5


class Whole(TypedDict):
    kind: Literal["a", "b"]
    parts: list[Part]
    best: float | None
    counts: dict[str, int]
    flag: bool
    rest: Any


GOOD = {
    "kind": "a",
    "parts": [{"path": "x", "sizes": [[1, 2]]}],
    "best": None,
    "counts": {"n": 3},
    "flag": True,
    "rest": [{}],
}


def test_what_fits_is_given_as_its_type() -> None:
    found = typed(Whole, GOOD)
    assert found == {**GOOD, "parts": [Part("x", ((1, 2),))]}
    assert typed(float, 3) == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, "kind is 'c', not 'a' or 'b'"),
        ({"kind": []}, r"kind is \[\], not"),
        ({"parts": {}}, "parts is {}, not a list"),
        ({"parts": [3]}, r"parts\[0\] is 3, not an object"),
        ({"parts": [{"path": "x"}]}, r"parts\[0\]\.sizes is missing"),
        ({"parts": [{"path": "x", "sizes": [[1]]}]}, r"parts\[0\]\.sizes\[0\] is \[1\], not a list of 2"),
        ({"parts": [{"path": "x", "sizes": [], "more": 1}]}, r"parts\[0\]\.more is not known"),
        ({"best": "1"}, "best is '1', not a number"),
        ({"best": True}, "best is True, not a number"),
        ({"best": float("nan")}, "best is nan, not a finite number"),
        ({"best": 10**400}, r"best is 1000.*\.\.\., not a finite number"),
        ({"counts": {"n": 1.0}}, r"counts\.n is 1\.0, not a whole number"),
        ({"counts": {"n": 2**63}}, r"counts\.n is 9223372036854775808, not of 64 bits"),
        ({"counts": []}, r"counts is \[\], not an object"),
        ({"flag": 1}, "flag is 1, not true or false"),
        ({"more": 1}, "more is not known"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        typed(Whole, {**GOOD, **change})


def test_what_a_caller_holds_is_free_when_it_returns() -> None:
    """An error that is kept in the frame that it came through would hold all callers, and models that these hold."""

    class Large:
        pass

    def caller() -> weakref.ref[Large]:
        large = Large()
        assert typed(Whole, GOOD)["best"] is None
        return weakref.ref(large)

    gc.disable()
    try:
        assert caller()() is None
    finally:
        gc.enable()
