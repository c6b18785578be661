"""Selections: which ratings stay, and that those which stay as interactions count as a 1."""

from __future__ import annotations

import pyarrow as pa

from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.ratings.times import TimeRange

BLOCK = pa.record_batch(
    {
        "user": [1, 2, 3, 4],
        "item": [1, 1, 1, 1],
        "rating": pa.array([3.5, 4, 4.1, -2], pa.float32()),
        "timestamp": [5, 6, 7, 8],
    }
)


def test_ratings_from_a_value_on_become_interactions() -> None:
    kept = Selection(TimeRange(end=8), positive_from=4).filter(BLOCK)
    assert kept.schema == BLOCK.schema
    assert kept.to_pylist() == [
        {"user": 2, "item": 1, "rating": 1.0, "timestamp": 6},
        {"user": 3, "item": 1, "rating": 1.0, "timestamp": 7},
    ]
    assert Selection(positive_from=-2.0).filter(BLOCK)["user"].to_pylist() == [1, 2, 3, 4]


def test_a_rating_is_compared_as_it_is_stored() -> None:
    assert Selection(positive_from=4.1).filter(BLOCK)["user"].to_pylist() == [3]


def test_without_a_value_ratings_stay_as_they_are() -> None:
    assert Selection(TimeRange(7)).filter(BLOCK)["rating"].to_pylist() == BLOCK["rating"].slice(2).to_pylist()
