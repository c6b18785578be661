"""Vocabulary: order, encoding and decoding, on integers dense and sparse and on strings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary, count_ids, keep_frequent, merge_counts, order_counts
from nnsparse_stream.storage.files import write_file

INTEGERS = st.one_of(st.integers(-5, 20), st.integers(-(2**63), 2**63 - 1))
IDS = st.one_of(
    st.tuples(st.just(pa.int64()), st.lists(INTEGERS), st.lists(INTEGERS)),
    st.tuples(st.just(pa.string()), st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5))),
)


@given(IDS, st.integers(1, 4))
def test_it_is_ordered_by_count_then_id_and_maps_both_ways(case: tuple, block: int) -> None:
    kind, ids, others = case
    blocks = [pa.array(ids[start : start + block], type=kind) for start in range(0, len(ids), block)]
    counts = [count_ids(pa.array([], type=kind)), *(count_ids(part) for part in blocks)]
    vocabulary = order_counts(merge_counts(counts))
    expected = sorted(Counter(ids).items(), key=lambda item: (-item[1], _bytes(item[0])))
    assert vocabulary.ids.to_pylist() == [name for name, _ in expected]
    assert vocabulary.counts.tolist() == [count for _, count in expected]
    index = {name: position for position, (name, _) in enumerate(expected)}
    wanted = pa.array(ids + others, type=kind)
    encoded = vocabulary.encode(wanted)
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [index.get(name, -1) for name in wanted.to_pylist()]
    assert vocabulary.decode(vocabulary.encode(pa.array(ids, type=kind))).to_pylist() == ids


def _bytes(value: int | str) -> int | bytes:
    return value.encode() if isinstance(value, str) else value


def test_parquet_round_trip_in_parts(tmp_path) -> None:
    vocabulary = order_counts(count_ids(pa.array(["x", "y", "y"])))
    write_file(str(tmp_path / "0"), vocabulary.to_parquet())
    read = Vocabulary.read([str(tmp_path / "0")])
    assert read.to_table().equals(vocabulary.to_table())
    assert read.to_parquet() == vocabulary.to_parquet()
    with pytest.raises(InputError, match="indices are not 0, 1, 2"):
        Vocabulary.read([str(tmp_path / "0")] * 2)


def test_strings_beyond_what_one_array_holds(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = order_counts(count_ids(pa.array(["x", "y", "y"])))
    write_file(str(tmp_path / "0"), vocabulary.to_parquet())
    monkeypatch.setattr("nnsparse_stream.ids.vocabulary._STRING_BYTES", 3)
    wide = Vocabulary.read([str(tmp_path / "0")])
    assert (wide.ids.type, wide.id_type, wide.to_table()["id"].type) == (pa.large_string(), "string", pa.large_string())
    assert wide.encode(pa.array(["y", "z", "x"])).tolist() == [0, -1, 1]
    assert wide.decode(np.array([1, 0])).to_pylist() == ["x", "y"]
    write_file(str(tmp_path / "0"), wide.to_parquet())
    monkeypatch.undo()
    assert Vocabulary.read([str(tmp_path / "0")]).decode(np.array([0, 1])).equals(vocabulary.ids)


def test_damaged_files_are_named(tmp_path) -> None:
    whole = order_counts(count_ids(pa.array([1, 2]))).to_parquet()
    (tmp_path / "v").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="v is not a whole Parquet file"):
        Vocabulary.read([str(tmp_path / "v")])
    with pytest.raises(InputError, match="lacks one of the columns"):
        Vocabulary.from_table(pa.table({"index": [0]}))
    with pytest.raises(InputError, match="holds an id twice"):
        Vocabulary(pa.array([3, 3]), np.array([1, 1]))


@given(st.lists(st.integers(0, 5)), st.integers(1, 4))
def test_seldom_ids_are_left_out(ids: list[int], least: int) -> None:
    kept = keep_frequent(count_ids(pa.array(ids, type=pa.int64())), least)
    assert dict(zip(kept["id"].to_pylist(), kept["count"].to_pylist(), strict=True)) == {
        name: count for name, count in Counter(ids).items() if count >= least
    }
