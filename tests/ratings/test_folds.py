"""Folds and hashes: the documented formula, the shares, and independence from the order."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.ratings.folds import (
    FoldKeys,
    Folds,
    HashFolds,
    LastFolds,
    RowFolds,
    TimeFolds,
    TimeShares,
    assign_folds,
    folds_from_json,
)
from nnsparse_stream.ratings.time_counts import count_times

MASK = 2**64 - 1


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def hash_one(value: int | str) -> int:
    """The formula of docs/data-layout.md, one id at a time."""
    if isinstance(value, int):
        return mix((value + 0x9E3779B97F4A7C15) & MASK)
    state = 0xCBF29CE484222325
    for byte in value.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return mix(state)


def fold_one(user: int | str, item: int | str, percent: tuple[int, int, int], seed: int) -> int:
    salt = mix((seed + 0x9E3779B97F4A7C15) & MASK)
    u = (mix((mix(hash_one(user) ^ salt) + hash_one(item)) & MASK) >> 11) * (100 * 2.0**-53)
    return int(u >= percent[0]) + int(u >= percent[0] + percent[1])


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.text(max_size=30)))
def test_hashes_follow_the_formula(integers: list[int], strings: list[str]) -> None:
    assert hash_ids(pa.array(integers, type=pa.int64())).tolist() == [hash_one(value) for value in integers]
    array = pa.array(["skipped", *strings])
    assert hash_ids(array[1:]).tolist() == [hash_one(value) for value in strings]
    assert hash_ids(array).tolist()[1:] == [hash_one(value) for value in strings]


@given(st.lists(st.tuples(st.integers(0, 99), st.text(max_size=3)), min_size=1), st.integers(-3, 2**65))
def test_folds_follow_the_formula(pairs: list[tuple[int, str]], seed: int) -> None:
    users, items = (hash_ids(pa.array(side)) for side in zip(*pairs, strict=True))
    folds = assign_folds(users, items, (50, 20, 30), seed)
    assert folds.dtype == np.uint8
    assert folds.tolist() == [fold_one(user, item, (50, 20, 30), seed) for user, item in pairs]


def test_shares_are_met_and_seeds_differ() -> None:
    users = hash_ids(pa.array(np.repeat(np.arange(300), 300)))
    items = hash_ids(pa.array(np.tile(np.arange(300), 300)))
    folds = assign_folds(users, items, (80, 5, 15), 0)
    shares = np.bincount(folds, minlength=3) / len(folds)
    assert np.allclose(shares, [0.80, 0.05, 0.15], atol=0.004)
    # Every user gets the shares too, near enough: the hash of the pair does not hang on one side.
    per_user = (folds.reshape(300, 300) == 0).mean(axis=1)
    assert 0.65 < per_user.min() < per_user.max() < 0.95
    other = assign_folds(users, items, (80, 5, 15), 1)
    assert 0.6 < (folds == other).mean() < 0.75  # 0.8**2 + 0.05**2 + 0.15**2 where independent
    assert set(assign_folds(users, items, (100, 0, 0), 0)) == {0}
    assert set(assign_folds(users, items, (0, 0, 100), 0)) == {2}


def test_integers_and_strings_of_the_same_digits_hash_apart() -> None:
    integers = hash_ids(pa.array(range(1000)))
    strings = hash_ids(pa.array([str(value) for value in range(1000)]))
    assert not set(integers.tolist()) & set(strings.tolist())


def not_needed() -> np.ndarray:
    raise AssertionError("these folds do not go by it")


@given(st.lists(st.integers(-5, 5)), *[st.none() | st.integers(-4, 4)] * 2)
def test_a_cut_in_time(times: list[int], validation_from: int | None, test_from: int | None) -> None:
    if validation_from is None and test_from is None:
        with pytest.raises(ValueError, match="neither `validation_from` nor `test_from`"):
            TimeFolds()
        return
    if validation_from is not None and test_from is not None and validation_from >= test_from:
        with pytest.raises(
            ValueError, match=f"`validation_from` {validation_from} is not before `test_from` {test_from}"
        ):
            TimeFolds(validation_from, test_from)
        return
    folds = TimeFolds(validation_from, test_from)
    keys = FoldKeys(not_needed, np.array(times, dtype=np.int64), not_needed, not_needed)  # type: ignore[arg-type]
    found = folds.assign(keys)
    assert found.dtype == np.uint8
    assert found.tolist() == [
        2
        if test_from is not None and time >= test_from
        else int(validation_from is not None and time >= validation_from)
        for time in times
    ]
    assert folds.to_json() == {"method": "time", "validation_from": validation_from, "test_from": test_from}


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=30),
    st.integers(0, 4),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
def test_the_latest_of_each_row(
    ratings: list[tuple[int, int]], validation: int, test: int, shuffler: random.Random
) -> None:
    numbers = {row: number for number, row in enumerate(sorted({row for row, _ in ratings}))}
    # Each rating of a row is of another column, which breaks ties.
    columns = list(range(len(ratings)))
    shuffler.shuffle(columns)
    keys = FoldKeys(
        hashes=not_needed,  # type: ignore[arg-type]
        times=np.array([time for _, time in ratings], dtype=np.int64),
        rows=lambda: np.array([numbers[row] for row, _ in ratings], dtype=np.int64),
        ties=lambda: np.array(columns, dtype=np.int64),
    )
    folds = LastFolds("item", validation, test)
    found = folds.assign(keys).tolist()
    for row in numbers:
        mine = sorted((time, columns[i], found[i]) for i, (other, time) in enumerate(ratings) if other == row)
        expected = []
        for place in range(len(mine)):  # from the latest; the earliest stays for training
            is_first = place == len(mine) - 1
            expected.append(0 if is_first else 2 if place < test else 1 if place < test + validation else 0)
        assert [fold for _, _, fold in mine] == expected[::-1]
    assert (folds.row_axis, folds.to_json()) == (
        "item",
        {"method": "last", "axis": "item", "validation": validation, "test": test},
    )


def row_keys(pairs: list[tuple[int, str]]) -> FoldKeys:
    """Keys of pairs whose users are the rows."""
    users, items = zip(*pairs, strict=True)
    numbers = {user: number for number, user in enumerate(sorted(set(users)))}
    return FoldKeys(
        hashes=lambda: (hash_ids(pa.array(users)), hash_ids(pa.array(items))),
        times=None,
        rows=lambda: np.array([numbers[user] for user in users], dtype=np.int64),
        ties=not_needed,
    )


@given(
    st.sets(st.tuples(st.integers(0, 12), st.text("abcdefgh", min_size=1, max_size=2)), min_size=1, max_size=80),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_rows_held_out_follow_the_formula(pairs: set[tuple[int, str]], seed: int, shuffler: random.Random) -> None:
    ordered = sorted(pairs)
    shuffler.shuffle(ordered)
    found = dict(zip(ordered, RowFolds("user", 30, 30, 70, seed).assign(row_keys(ordered)).tolist(), strict=True))
    salt = mix((seed + 0x9E3779B97F4A7C15) & MASK)
    for user in {user for user, _ in pairs}:
        salted = mix(hash_one(user) ^ salt)
        v = (mix((salted + 0x9E3779B97F4A7C15) & MASK) >> 11) * (100 * 2.0**-53)
        fold = int(v >= 40) + int(v >= 70)
        mine = sorted(
            (item for of, item in pairs if of == user), key=lambda item: mix((salted + hash_one(item)) & MASK)
        )
        judged = min(int(len(mine) * 0.3 + 0.5), len(mine) - 1)
        expected = [fold] * judged + [fold + 2] * (len(mine) - judged) if fold else [0] * len(mine)
        assert [found[user, item] for item in mine] == expected


def test_shares_of_rows_and_of_what_is_shown_are_met() -> None:
    pairs = [(user, f"i{item}") for user in range(3_000) for item in range(10)]
    folds = RowFolds("user", 10, 20, 80).assign(row_keys(pairs)).reshape(3_000, 10)
    held = folds.max(axis=1)  # the codes of what is shown are the larger ones
    assert set(held.tolist()) == {0, 3, 4}
    assert np.allclose([(held == 3).mean(), (held == 4).mean()], [0.1, 0.2], atol=0.02)
    assert (folds[held == 0] == 0).all()
    for fold, shown in ((1, 3), (2, 4)):
        assert ((folds[held == shown] == fold).sum(axis=1) == 2).all()
        assert ((folds[held == shown] == shown).sum(axis=1) == 8).all()
        # Which are shown goes by the pair, not by the item.
        assert (folds[held == shown] == fold).mean(axis=0).min() > 0.1
    other = RowFolds("user", 10, 20, 80, seed=1).assign(row_keys(pairs)).reshape(3_000, 10)
    assert 0.5 < (other.max(axis=1) == held).mean() < 0.6  # 0.7**2 + 0.1**2 + 0.2**2 where independent


@pytest.mark.parametrize(
    "shares", [{"test": 0}, {"validation": 50, "test": 50}, {"test": 10, "shown": 100}, {"test": 10, "shown": 0}]
)
def test_rows_of_which_nothing_is_judged_or_left_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="than 0 and less than 100 percent"):
        RowFolds("user", **shares)


def test_shares_of_time_become_a_cut() -> None:
    counts = count_times(np.array([1, 2, 3, 4, 5, 6, 7, 7, 9, 9]))
    assert TimeShares(20, 30).cut(counts) == TimeFolds(6, 7, 20, 30)  # two at 7: four of ten are test, one validation
    assert TimeShares(test_share=10).cut(counts) == TimeFolds(None, 9, None, 10)
    assert TimeShares(validation_share=50).cut(counts) == TimeFolds(6, None, 50, None)
    with pytest.raises(InputError, match="too many ratings have the time 7 for `validation_share_time` 10"):
        TimeShares(10, 30).cut(counts)
    with pytest.raises(InputError, match=r"have the time 5, the first, for any to come before the latest 10%; .* than"):
        TimeShares(test_share=10).cut(count_times(np.array([5, 5, 5])))
    for shares in ((0, 0), (60, 40)):
        with pytest.raises(ValueError, match="do not sum to more than 0 and less than 100 percent"):
            TimeShares(*shares)


def test_hash_folds_ask_for_hashes_only() -> None:
    users, items = hash_ids(pa.array([1, 2, 3])), hash_ids(pa.array(["a", "b", "c"]))
    keys = FoldKeys(lambda: (users, items), None, not_needed, not_needed)
    folds = HashFolds((50, 25, 25), 7)
    assert folds.assign(keys).tolist() == assign_folds(users, items, (50, 25, 25), 7).tolist()
    assert folds.to_json() == {"method": "hash", "percent": [50, 25, 25], "seed": 7}


@pytest.mark.parametrize(
    "folds",
    [
        HashFolds((33.5, 0, 66.5), 7),
        TimeFolds(3, 8),
        TimeFolds(test_from=-5),
        TimeFolds(None, 8, None, 12.5),
        LastFolds("item", 2, 0),
        RowFolds("item", 5, 12.5, 70, 3),
    ],
)
def test_folds_are_what_their_json_says(folds: Folds) -> None:
    assert folds_from_json(folds.to_json()) == folds


def test_folds_that_json_leaves_out_have_their_defaults() -> None:
    assert folds_from_json({"method": "hash"}) == HashFolds()
    assert folds_from_json({"method": "last", "axis": "user"}) == LastFolds("user")
    assert folds_from_json({"method": "rows", "axis": "user"}) == RowFolds("user", 0, 10, 80, 0)
    assert folds_from_json({"method": "time", "test_share": 10}) == TimeShares(0, 10)
    assert folds_from_json({"method": "files"}) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hash", "folds are 'hash'; give a mapping"),
        ({}, "the method of folds is None; give hash, time, last, rows or files"),
        ({"method": "hash", "parts": 1}, "folds of method hash have no 'parts'; they have percent, seed"),
        ({"method": "files", "seed": 1}, "folds of method files have no 'seed'; they have nothing"),
        ({"method": "hash", "seed": "1"}, "seed of folds is '1'; give an integer"),
        ({"method": "hash", "percent": [90, 5]}, r"percent of folds is \[90, 5\]; give three percentages"),
        ({"method": "hash", "percent": [90, 20, -10]}, "give three percentages"),
        ({"method": "hash", "percent": [90, 10, 1]}, "give three percentages"),
        ({"method": "hash", "percent": ["90", "10", "0"]}, "give three percentages"),
        ({"method": "last"}, "folds of method last lack the axis; give user or item"),
        ({"method": "last", "axis": "row"}, "axis of folds is 'row'; give user or item"),
        ({"method": "last", "axis": "user", "test": -1}, "test of folds is -1; give an integer from 0"),
        ({"method": "rows"}, "folds of method rows lack the axis; give user or item: which rows"),
        ({"method": "rows", "axis": "user", "test": 120}, "test of folds is 120; give a percentage from 0 to 100"),
        ({"method": "rows", "axis": "user", "shown": 0}, "`shown` 0 is not more than 0 .* correct the folds"),
        ({"method": "time", "test_share": "1"}, "test_share of folds is '1'; give a percentage"),
        ({"method": "time", "test_share": 100}, "do not sum to more than 0 and less than 100 percent; correct"),
        ({"method": "time"}, "neither `validation_from` nor `test_from` is given; correct the folds"),
        ({"method": "time", "test_from": "2001-01-01"}, "test_from of folds is '2001-01-01'; give an integer"),
    ],
)
def test_folds_that_are_none_are_refused(value: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        folds_from_json(value)
