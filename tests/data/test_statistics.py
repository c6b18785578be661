"""Statistics that add up: against numpy over the whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.data.dataset import shard_schema
from nnsparse_stream.data.statistics import RatingStatistics, add_statistics
from nnsparse_stream.ratings.folds import FOLD_NAMES

ENTRY = st.tuples(st.floats(-100, 100, width=32), st.integers(0, 4))


def rows_of(entries: list[tuple[float, int]]) -> pa.RecordBatch:
    rows = [
        {"row": row, "columns": [0], "values": [value], "fold": [fold]} for row, (value, fold) in enumerate(entries)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=shard_schema(pa.int64()))


@given(st.lists(st.lists(ENTRY, max_size=6), max_size=5))
def test_parts_add_up_to_the_whole(parts: list[list[tuple[float, int]]]) -> None:
    found = add_statistics(RatingStatistics.of(rows_of(part)) for part in parts)
    values = np.array([value for part in parts for value, _ in part])
    folds = np.array([fold for part in parts for _, fold in part], dtype=int)
    assert found.fold_entries == tuple(np.bincount(folds, minlength=5))
    by_fold = found.entries_by_fold()
    assert [by_fold.get(name, 0) for name in FOLD_NAMES] == list(found.fold_entries)
    assert len(by_fold) == (5 if (folds > 2).any() else 3)
    train = values[folds == 0]
    written = found.to_json()
    assert (written["min"], written["max"]) == ((values.min(), values.max()) if len(values) else (None, None))
    if len(train):
        assert written["mean"] == pytest.approx(train.mean(), abs=1e-9)
        assert written["std"] == pytest.approx(train.std(), abs=1e-6)
    else:
        assert (written["mean"], written["std"]) == (None, None)
