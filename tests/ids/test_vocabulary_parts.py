"""Parts of a vocabulary: whatever the cuts, their concatenation is the order by count and id; earlier ids stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnsparse_stream.data.grouping import partition
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids import vocabulary_parts
from nnsparse_stream.ids.vocabulary import Vocabulary, count_ids, merge_counts, sort_counts
from nnsparse_stream.ids.vocabulary_parts import count_known, cut_counts, cut_known, cut_points, sample_counts

IDS = st.one_of(
    st.tuples(st.just(pa.int64()), st.lists(st.integers(-5, 20))),
    st.tuples(st.just(pa.string()), st.lists(st.text(max_size=2))),
)


def brute_force(ids: list) -> list[tuple]:
    order = {name: name.encode() if isinstance(name, str) else name for name in ids}
    return sorted(Counter(ids).items(), key=lambda entry: (-entry[1], order[entry[0]]))


def in_order(merged: list[pa.RecordBatch], empty: pa.RecordBatch) -> tuple[list[tuple], list[int]]:
    """All ids with their counts, through samples, cuts and sorted parts; and the parts' sizes."""
    points = cut_points([empty, *map(sample_counts, merged)], sum(map(len, merged)))
    parts: dict[int, list[pa.RecordBatch]] = {part: [empty] for part in range(len(points) + 1)}
    for block in merged:
        for part, counts in cut_counts(block, points):
            parts[part].append(counts)
    ordered = [sort_counts(pa.concat_batches(blocks)) for _, blocks in sorted(parts.items())]
    found = [tuple(row.values()) for counts in ordered for row in counts.to_pylist()]
    return found, [len(counts) for counts in ordered]


@given(IDS, st.integers(1, 6), st.integers(1, 3), st.integers(1, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_parts_are_the_order_by_count_and_id(case: tuple, size: int, one_in: int, partitions: int) -> None:
    kind, ids = case
    empty = count_ids(pa.array([], type=kind))
    counts = merge_counts([empty, count_ids(pa.array(ids, type=kind))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_parts, "PART_IDS", size)
        patch.setattr(vocabulary_parts, "SAMPLED_ONE_IN", one_in)
        merged = [block for _, block in partition(counts, "id", partitions)]
        found, sizes = in_order(merged, empty)
        # However the ids are spread over workers, the parts are the same.
        assert in_order([counts], empty) == (found, sizes)
    assert found == brute_force(ids)


def test_parts_are_of_about_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where most ids have the same count, too: there the ids themselves are cut."""
    monkeypatch.setattr(vocabulary_parts, "PART_IDS", 10_000)
    monkeypatch.setattr(vocabulary_parts, "SAMPLED_ONE_IN", 16)
    ids = np.arange(100_000)
    counts = pa.record_batch([pa.array(ids), pa.array(np.where(ids % 5, 1, ids % 70))], names=["id", "count"])
    found, sizes = in_order([counts], counts.slice(0, 0))
    assert len(sizes) == len(found) / 10_000 == 10
    assert max(sizes) < 12_000


def test_too_many_ids_are_refused() -> None:
    empty = count_ids(pa.array([], type=pa.int64()))
    with pytest.raises(InputError, match="2147483648 distinct column ids are more than"):
        cut_points([empty], 2**30, 2**30)


@given(IDS, st.lists(st.integers(0, 30), unique=True), st.integers(1, 5))
def test_known_ids_keep_their_places(case: tuple, earlier: list[int], size: int) -> None:
    kind, ids = case
    held = pa.array(earlier, type=pa.int64()).cast(kind)
    base = Vocabulary(held, np.ones(len(earlier), dtype=np.int64))
    counted = Counter(ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_parts, "PART_IDS", size)
        known, new = cut_known(count_ids(pa.array(ids, type=kind)), base)
        found: list[tuple] = []
        for part in range(-(-len(earlier) // size)):
            counts, first = count_known([block for of, block in known if of == part], base, part)
            assert first == len(found)
            found += [tuple(row.values()) for row in counts.to_pylist()]
    assert found == [(name, counted[name]) for name in held.to_pylist()]
    assert dict(zip(*new.to_pydict().values(), strict=True)) == {
        name: count for name, count in counted.items() if name not in held.to_pylist()
    }
