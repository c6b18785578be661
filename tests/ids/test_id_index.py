"""IdIndex: every id has its position, and no other has one, whatever the ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids import id_index
from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.ids.id_index import IdIndex

INTEGERS = st.one_of(st.integers(-5, 20), st.integers(-(2**63), 2**63 - 1))
IDS = st.one_of(
    *(
        st.tuples(st.just(kind), st.lists(values, unique=True), st.lists(values))
        for kind, values in (
            (pa.int64(), INTEGERS),
            (pa.string(), st.text(max_size=3)),
            (pa.large_string(), st.text(max_size=3)),
        )
    )
)


@given(IDS, st.sampled_from([1, 1 << 20]))
def test_ids_are_found_and_others_are_not(case: tuple, small: int) -> None:
    kind, ids, others = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_index, "_SMALL_RANGE", small)
        index = IdIndex.of(pa.array(ids, type=kind))
    assert index.hashes.tolist() == hash_ids(pa.array(ids, type=kind)).tolist()
    place = {name: position for position, name in enumerate(ids)}
    wanted = pa.array(ids + others + ids, type=pa.int64() if kind == pa.int64() else pa.string())
    found = index.find(wanted)
    assert found.dtype == np.int32
    assert found.tolist() == [place.get(name, -1) for name in wanted.to_pylist()]


def test_integers_have_a_table_unless_they_are_far_apart() -> None:
    assert len(IdIndex.of(pa.array([7, 5])).table) == 3
    assert len(IdIndex.of(pa.array([0, 1 << 20])).table) == 0
    assert len(IdIndex.of(pa.array(np.arange(1 << 18) * 8)).table) == (1 << 21) - 7
    assert len(IdIndex.of(pa.array(np.arange(1 << 18) * 9)).table) == 0


def test_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "hash_ids", lambda ids: np.full(len(ids), 7, dtype=np.uint64))
    index = IdIndex.of(pa.array(["a", "b", "c"]))
    assert index.find(pa.array(["c", "x", "a", "b", "c"])).tolist() == [2, -1, 0, 1, 2]
    with pytest.raises(InputError, match="holds an id twice"):
        IdIndex.of(pa.array(["a", "b", "a"]))


@pytest.mark.parametrize("ids", [[3, 3], [3, 2**60, 3], ["a", "b", "a"]])
def test_an_id_that_is_there_twice_is_refused(ids: list) -> None:
    with pytest.raises(InputError, match="holds an id twice"):
        IdIndex.of(pa.array(ids))
