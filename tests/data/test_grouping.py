"""Grouping: shards of sparse rows against a plain dictionary, in any order and cut."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.data.grouping import (
    DUPLICATES,
    DuplicateRatingError,
    encode_block,
    filter_rows,
    fold_block,
    group_rows,
    partition,
)
from nnsparse_stream.data.shard_grouping import ShardGrouping
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.ids.ranks import rank_ids
from nnsparse_stream.ids.vocabulary import count_ids, order_counts
from nnsparse_stream.ratings.folds import Folds, HashFolds, LastFolds, RowFolds, TimeFolds, assign_folds
from nnsparse_stream.storage.block_store import to_ipc

RATING = st.floats(-5, 5, width=32)
RECORD = st.tuples(
    st.integers(-4, 12), st.sampled_from(["a", "b", "ü", "zz"]), RATING, st.integers(0, 3), st.integers(0, 2)
)
RECORDS = st.lists(RECORD, min_size=1, max_size=40)


def blocks_of(records: list[tuple], axis: str, cuts: int = 1) -> tuple[list[pa.RecordBatch], Any]:
    """Encoded blocks with every column there can be, and the vocabulary."""
    users, items, ratings, times, folds = zip(*records, strict=True)
    table = pa.record_batch(
        {
            "user": pa.array(users, type=pa.int64()),
            "item": pa.array(items),
            "rating": pa.array(ratings, type=pa.float32()),
            "timestamp": pa.array(times, type=pa.int64()),
            "fold": pa.array(folds, type=pa.uint8()),
        }
    )
    vocabulary = order_counts(count_ids(table["item" if axis == "user" else "user"]))
    size = -(-len(records) // cuts)
    return [
        encode_block(table.slice(start, size), axis, vocabulary) for start in range(0, len(records), size)
    ], vocabulary


def entries(rows: pa.RecordBatch, vocabulary: Any) -> dict[tuple, tuple[float, int]]:
    found = {}
    for row in rows.to_pylist():
        ids = vocabulary.decode(np.array(row["columns"], dtype=np.int32)).to_pylist()
        for column, value, fold in zip(ids, row["values"], row["fold"], strict=True):
            found[row["row"], column] = (value, fold)
    return found


@given(RECORDS, st.sampled_from(["user", "item"]), st.integers(1, 5), st.randoms(use_true_random=False))
def test_mean_merges_whatever_the_order_and_the_cut(
    records: list[tuple], axis: str, cuts: int, shuffler: random.Random
) -> None:
    blocks, vocabulary = blocks_of(records, axis)
    rows, merged = group_rows(blocks, axis, vocabulary, "mean", None)
    assert sum(len(row) for row in rows["columns"].to_pylist()) + merged == len(records)
    expected: dict[tuple, list] = {}
    for user, item, rating, _, fold in records:
        pair = (user, item) if axis == "user" else (item, user)
        expected.setdefault(pair, []).append((rating, fold))
    found = entries(rows, vocabulary)
    assert found.keys() == expected.keys()
    for pair, ratings in expected.items():
        assert found[pair][0] == pytest.approx(np.mean([rating for rating, _ in ratings]), abs=1e-6)
        assert found[pair][1] == max(fold for _, fold in ratings)
    assert rows["row"].to_pylist() == sorted(
        rows["row"].to_pylist(), key=lambda name: str(name).encode() if axis == "item" else name
    )
    assert all(row == sorted(set(row)) for row in rows["columns"].to_pylist())
    shuffled = records.copy()
    shuffler.shuffle(shuffled)
    again, _ = blocks_of(shuffled, axis, cuts)
    assert group_rows(again, axis, vocabulary, "mean", None)[0].equals(rows)


@given(
    RECORDS,
    st.sampled_from(["sum", "max", "count"]),
    st.sampled_from(["user", "item"]),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_interactions_are_summed_or_counted_whatever_the_order_and_the_cut(
    records: list[tuple], policy: str, axis: str, cuts: int, shuffler: random.Random
) -> None:
    blocks, vocabulary = blocks_of(records, axis)
    rows, merged = group_rows(blocks, axis, vocabulary, policy, None)
    expected: dict[tuple, list] = {}
    for user, item, rating, _, fold in records:
        expected.setdefault((user, item) if axis == "user" else (item, user), []).append((rating, fold))
    found = entries(rows, vocabulary)
    assert found.keys() == expected.keys()
    assert merged == len(records) - len(expected)
    for pair, several in expected.items():
        values = [rating for rating, _ in several]
        value = {"sum": sum(values), "max": max(values), "count": len(values)}[policy]
        assert found[pair] == (pytest.approx(value, abs=1e-5), max(fold for _, fold in several))
    shuffled = records.copy()
    shuffler.shuffle(shuffled)
    assert to_ipc(group_rows(blocks_of(shuffled, axis, cuts)[0], axis, vocabulary, policy, None)[0]) == to_ipc(rows)


def test_a_sum_that_cannot_be_stored_names_the_pair() -> None:
    blocks, vocabulary = blocks_of([(7, "a", 3e38, 0, 0), (8, "b", 3e38, 0, 0), (7, "a", 3e38, 0, 0)], "item")
    with pytest.raises(InputError, match=r"ratings of user 7 and item 'a' sum to 6e\+38, beyond what is stored"):
        group_rows(blocks, "item", vocabulary, "sum", None)
    assert group_rows(blocks, "item", vocabulary, "mean", None)[1] == 1


@given(RECORDS, st.sampled_from(["first", "last"]), st.randoms(use_true_random=False))
def test_first_and_last_go_by_time(records: list[tuple], policy: str, shuffler: random.Random) -> None:
    blocks, vocabulary = blocks_of(records, "user")
    rows, _ = group_rows(blocks, "user", vocabulary, policy, None)
    choose = min if policy == "first" else max
    expected = {}
    for pair in {record[:2] for record in records}:
        _, rating, fold = choose(
            (time, rating, fold) for user, item, rating, time, fold in records if (user, item) == pair
        )
        expected[pair] = (rating, fold)
    assert entries(rows, vocabulary) == expected
    shuffled = records.copy()
    shuffler.shuffle(shuffled)
    assert group_rows(blocks_of(shuffled, "user", 3)[0], "user", vocabulary, policy, None)[0].equals(rows)


def test_first_and_last_go_by_position_without_time() -> None:
    block = pa.record_batch(
        {"user": [1, 1, 1], "item": ["a", "a", "a"], "rating": pa.array([1, 2, 3], pa.float32()), "position": [9, 2, 5]}
    )
    vocabulary = order_counts(count_ids(block["item"]))
    for policy, value in (("first", 2.0), ("last", 1.0)):
        rows, merged = group_rows([encode_block(block, "user", vocabulary)], "user", vocabulary, policy, HashFolds())
        assert (rows["values"].to_pylist(), merged) == ([[value]], 2)


@pytest.mark.parametrize("policy", ["first", "last", "mean"])
def test_minus_zero_is_zero_whatever_the_order(policy: str) -> None:
    zeros = ((1, -0.0), (1, 0.0), (2, -0.0), (2, -0.0), (3, -0.0))
    records = [(user, "a", zero, 0, 0) for user, zero in zeros]
    for order in (records, records[::-1]):
        blocks, vocabulary = blocks_of(order, "user")
        values = group_rows(blocks, "user", vocabulary, policy, None)[0]["values"].flatten().to_numpy()
        assert values.tobytes() == np.zeros(3, dtype=np.float32).tobytes()


def test_error_names_the_pair() -> None:
    records = [(7, "a", 1.0, 0, 0), (8, "b", 1.0, 0, 0), (7, "a", 1.0, 0, 0)]
    for axis in ("user", "item"):
        blocks, vocabulary = blocks_of(records, axis, 3)
        with pytest.raises(DuplicateRatingError, match="user 7 rated item 'a' more than once") as caught:
            group_rows(blocks, axis, vocabulary, "error", None)
        assert (caught.value.user, caught.value.item) == (7, "a")


def test_folds_by_hash_are_those_of_the_pair_on_both_axes() -> None:
    records = [(user, item, 1.0, 0, 0) for user in range(50) for item in ("a", "b", "c")]
    by_axis = {}
    for axis in ("user", "item"):
        blocks, vocabulary = blocks_of(records, axis)
        rows, _ = group_rows(blocks, axis, vocabulary, "error", HashFolds((50, 25, 25), 3))
        by_axis[axis] = {pair: fold for pair, (_, fold) in entries(rows, vocabulary).items()}
    assert by_axis["user"] == {(user, item): fold for (item, user), fold in by_axis["item"].items()}
    users, items = pa.array([r[0] for r in records]), pa.array([r[1] for r in records])
    direct = assign_folds(hash_ids(users), hash_ids(items), (50, 25, 25), 3)
    assert list(by_axis["user"].values()) == direct.tolist()


@given(RECORDS, st.integers(1, 7))
def test_partition_keeps_each_rating_once_and_rows_together(records: list[tuple], parts: int) -> None:
    (block,), _ = blocks_of(records, "user")
    pieces = dict(partition(block, "row", parts))
    assert sum(len(piece) for piece in pieces.values()) == len(block)
    for part, piece in pieces.items():
        assert set(hash_ids(piece["row"]) % np.uint64(parts)) == {part}
    joined = pa.Table.from_batches(pieces.values()).to_pylist()
    assert sorted(map(str, joined)) == sorted(map(str, block.to_pylist()))


def test_no_ratings_make_no_rows() -> None:
    (block,), vocabulary = blocks_of([(1, "a", 1.0, 0, 0)], "user")
    rows, merged = group_rows([block.slice(0, 0)], "user", vocabulary, "error", HashFolds())
    assert (len(rows), merged) == (0, 0)


def test_unknown_columns_are_no_silent_loss() -> None:
    _, vocabulary = blocks_of([(1, "a", 1.0, 0, 0)], "user")
    block = pa.record_batch({"user": [1], "item": ["q"], "rating": pa.array([1], pa.float32())})
    with pytest.raises(KeyError, match="item 'q'"):
        encode_block(block, "user", vocabulary)


def test_ranks_order_strings_by_bytes() -> None:
    ids, ranks = rank_ids(pa.array(["b", "Z", "é", "a", "b"]))
    assert ids.to_pylist() == ["Z", "a", "b", "é"]
    assert ranks.tolist() == [2, 0, 3, 1, 2]


FOLDS_BY_TIME = st.sampled_from([TimeFolds(1, 3), TimeFolds(test_from=2), (1, 1), (0, 2), (2, 0)])


@given(
    RECORDS,
    FOLDS_BY_TIME,
    st.sampled_from(["user", "item"]),
    st.sampled_from(["first", "last", "mean"]),
    st.randoms(use_true_random=False),
)
def test_folds_by_time_go_by_the_ratings_that_are_kept(
    records: list[tuple], cut: Any, axis: str, policy: str, shuffler: random.Random
) -> None:
    folds: Folds = LastFolds(axis, *cut) if isinstance(cut, tuple) else cut
    blocks, vocabulary = blocks_of(records, axis)
    rows, _ = group_rows(blocks, axis, vocabulary, policy, folds)
    times: dict[tuple, int] = {}
    for user, item, _, time, _ in records:
        pair = (user, item) if axis == "user" else (item, user)
        better = min if policy == "first" else max
        times[pair] = better(times.get(pair, time), time)
    found = {pair: fold for pair, (_, fold) in entries(rows, vocabulary).items()}
    assert found.keys() == times.keys()
    if isinstance(folds, TimeFolds):
        starts = [float("inf") if start is None else start for start in (folds.validation_from, folds.test_from)]
        assert found == {pair: 2 if t >= starts[1] else int(t >= starts[0]) for pair, t in times.items()}
    else:
        for row in {row for row, _ in times}:
            latest = sorted(((t, _bytes(column)) for (r, column), t in times.items() if r == row), reverse=True)
            expected = [2] * folds.test + [1] * folds.validation
            expected = [*expected[: len(latest) - 1], *[0] * len(latest)][: len(latest)]
            by_column = {_bytes(column): fold for (r, column), fold in found.items() if r == row}
            assert [by_column[column] for _, column in latest] == expected
    shuffled = records.copy()
    shuffler.shuffle(shuffled)
    assert group_rows(blocks_of(shuffled, axis, 3)[0], axis, vocabulary, policy, folds)[0].equals(rows)


@given(
    RECORDS,
    FOLDS_BY_TIME | st.sampled_from([HashFolds((40, 30, 30)), RowFolds("item", 30, 30, 50)]),
    st.randoms(use_true_random=False),
)
def test_a_block_is_folded_like_the_rows_that_it_becomes(
    records: list[tuple], cut: Any, shuffler: random.Random
) -> None:
    records = list({record[:2]: record for record in records}.values())  # nothing to merge
    folds: Folds = LastFolds("item", *cut) if isinstance(cut, tuple) else cut
    blocks, vocabulary = blocks_of(records, "item")
    rows, _ = group_rows(blocks, "item", vocabulary, "error", folds)
    shuffler.shuffle(records)
    users, items, ratings, times, _ = zip(*records, strict=True)
    block = pa.record_batch(
        {"user": users, "item": items, "rating": pa.array(ratings, pa.float32()), "timestamp": pa.array(times)}
    )
    folded = fold_block(block, folds)
    assert folded.select(block.schema.names).equals(block)
    found = zip(folded["item"].to_pylist(), folded["user"].to_pylist(), folded["fold"].to_pylist(), strict=True)
    assert {(item, user): fold for item, user, fold in found} == {
        pair: fold for pair, (_, fold) in entries(rows, vocabulary).items()
    }


def test_records_of_one_pair_and_time_are_folded_alike_in_any_order() -> None:
    block = pa.record_batch(
        {"user": [1, 1, 1], "item": [2, 2, 2], "rating": pa.array([3, 1, 2], pa.float32()), "timestamp": [5, 5, 5]}
    )
    for order in ([0, 1, 2], [2, 0, 1]):
        folded = fold_block(block.take(pa.array(order)), LastFolds("user", 1, 1))
        assert sorted(zip(folded["rating"].to_pylist(), folded["fold"].to_pylist(), strict=True)) == [
            (1.0, 0),
            (2.0, 1),
            (3.0, 2),
        ]


@given(RECORDS, st.sampled_from(["user", "item"]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_filters_count_once_before_anything_is_left_out(
    records: list[tuple], axis: str, least_of_row: int, least_of_column: int, cuts: int
) -> None:
    row, column = (0, 1) if axis == "user" else (1, 0)
    by_row, by_column = (Counter(record[place] for record in records) for place in (row, column))
    frequent = pa.array([name for name, count in by_column.items() if count >= least_of_column])
    if not len(frequent):
        return
    vocabulary = order_counts(count_ids(frequent))
    users, items, ratings, _, _ = zip(*records, strict=True)
    block = pa.record_batch({"user": users, "item": items, "rating": pa.array(ratings, pa.float32())})
    size = -(-len(block) // cuts)
    encoded = [
        encode_block(block.slice(start, size), axis, vocabulary, known_columns_only=True)
        for start in range(0, len(block), size)
    ]
    kept, filtered = filter_rows(encoded, least_of_row)
    expected = [
        (record[row], record[column])
        for record in records
        if by_row[record[row]] >= least_of_row and by_column[record[column]] >= least_of_column
    ]
    columns = vocabulary.decode(kept["column"].to_numpy()).to_pylist()
    assert list(zip(kept["row"].to_pylist(), columns, strict=True)) == expected
    assert filtered == len(records) - len(expected)


@given(
    RECORDS,
    st.sampled_from(["user", "item"]),
    st.sampled_from(DUPLICATES),
    st.none() | st.just(HashFolds((40, 30, 30))) | FOLDS_BY_TIME | st.just("rows"),
    st.integers(1, 5),
    st.integers(0, 12),
    st.integers(1, 5),
    st.sets(st.sampled_from([-4, -1, 2, 5, 9, "a", "ü"])),
    st.booleans(),
)
def test_a_shard_in_parts_has_the_rows_of_one_at_once(
    records: list[tuple],
    axis: str,
    policy: str,
    cut: Any,
    min_row_ratings: int,
    most_ratings: int,
    cuts: int,
    unknown: set[int | str],
    timed: bool,
) -> None:
    folds: Folds | None = LastFolds(axis, *cut) if isinstance(cut, tuple) else cut
    if cut == "rows":
        folds = RowFolds(axis, 30, 30, 50)
    blocks, vocabulary = blocks_of(records, axis, cuts)
    left_out = [index for index, name in enumerate(vocabulary.ids.to_pylist()) if name in unknown]
    for place, block in enumerate(blocks):  # as `encode_block` gives them with known columns only
        column = block["column"].to_numpy().copy()
        column[np.isin(column, left_out)] = -1
        blocks[place] = block.set_column(1, "column", pa.array(column))
    if not timed and not (folds and folds.timed):
        positions = iter(random.Random(len(records)).sample(range(100), len(records)))
        blocks = [
            block.set_column(3, "position", pa.array([next(positions) for _ in range(len(block))])) for block in blocks
        ]
    order = sorted(blocks[0].schema.names, reverse=len(records) % 2 == 0)  # which does not matter
    blocks = [block.select(order) for block in blocks]
    try:
        block, filtered = filter_rows(blocks, min_row_ratings)
        rows, merged = group_rows([block], axis, vocabulary, policy, folds)
    except DuplicateRatingError:
        with pytest.raises(DuplicateRatingError) as caught:
            ShardGrouping(axis, vocabulary, policy, folds, min_row_ratings, most_ratings).group(iter(blocks))
        assert [record[:2] for record in records].count((caught.value.user, caught.value.item)) > 1
        return
    in_parts = ShardGrouping(axis, vocabulary, policy, folds, min_row_ratings, most_ratings).group(iter(blocks))
    assert to_ipc(in_parts[0]) == to_ipc(rows)
    assert in_parts[1:] == (merged, filtered)


@pytest.mark.parametrize(
    ("light", "columns", "most"),
    [
        (5, 10_000, 0.2),  # one row has four ratings of five, and most of them are merged away
        (5, 80_000, 0.5),  # a third of them is left, and comes together
        (1, 80_000, 0.3),  # all rows are light
    ],
)
def test_a_shard_in_parts_takes_a_fraction_of_the_memory(
    light: int, columns: int, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnsparse_stream.data.shard_grouping._CUT_BYTES", 1 << 18)
    number = np.arange(300_000)
    row = np.where(number % light, 1, number // 500)
    vocabulary = order_counts(count_ids(pa.array(np.arange(columns))))
    block = pa.record_batch(
        {
            "row": row,
            "column": (number * 7 % columns).astype(np.int32),
            "rating": (number % 10).astype(np.float32),
            "timestamp": number,
        }
    )

    def peak(most_ratings: int) -> int:
        """Of NumPy's arrays, which are most of it; Arrow's are not traced."""
        blocks = (block.slice(start, 10_000) for start in range(0, len(block), 10_000))
        tracemalloc.start()
        rows, *_ = ShardGrouping("user", vocabulary, "mean", LastFolds("user"), 1, most_ratings).group(blocks)
        _, traced = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        found.append(to_ipc(rows))
        return traced

    found: list[bytes] = []
    once, parts = peak(len(block)), peak(20_000)
    assert parts < most * once
    assert found[0] == found[1]


def _bytes(name: int | str) -> int | bytes:
    return name.encode() if isinstance(name, str) else name
