"""Counts of times: the same for any parts and order, bounded; and the latest share, within a bin of the exact one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.ratings import time_counts
from nnsparse_stream.ratings.time_counts import TimeCounter, TimeCounts, add_times, count_times, latest_from

TIMES = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-40, 40), min_size=1, max_size=60)


def counts_of(found: TimeCounts) -> tuple[int, dict[int, int]]:
    shift, block = found
    bins = block["bin"].to_pylist()
    assert bins == sorted(set(bins))
    return shift, dict(zip(bins, block["count"].to_pylist(), strict=True))


@pytest.mark.parametrize("most", [2, 5, 1 << 14])
@given(times=TIMES, parts=st.integers(1, 20), shuffler=st.randoms(use_true_random=False))
def test_parts_add_up_to_the_narrowest_bins_of_the_whole(
    times: list[int], parts: int, shuffler: random.Random, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_counts, "MOST_BINS", most)
        shift, counts = counts_of(count_times(np.array(times, dtype=np.int64)))
        assert counts == {place: sum(time >> shift == place for time in times) for place in {t >> shift for t in times}}
        assert len(counts) <= most
        assert not shift or len({time >> (shift - 1) for time in times}) > most
        shuffled = times.copy()
        shuffler.shuffle(shuffled)
        counter = TimeCounter()
        for part in range(parts):
            counter.add(count_times(np.array(shuffled[part::parts], dtype=np.int64)))
        assert counts_of(counter.take()) == (shift, counts)


@given(TIMES, st.floats(0.1, 100))
def test_a_share_is_that_of_the_sorted_times_or_more_by_equal_ones(times: list[int], percent: float) -> None:
    latest = sorted(times, reverse=True)
    wanted = next(n for n in range(1, len(times) + 1) if n >= percent / 100 * len(times) or n == len(times))
    assert latest_from(count_times(np.array(times, dtype=np.int64)), percent) == latest[wanted - 1]


def test_a_share_of_wide_bins_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    times = np.random.default_rng(0).integers(0, 10**9, 20_000)
    exact = latest_from(count_times(times), 10)
    monkeypatch.setattr(time_counts, "MOST_BINS", 1 << 8)
    start = latest_from(count_times(times), 10)
    width = 1 << count_times(times)[0]
    assert start % width == 0
    assert exact - width < start <= exact
    assert 0.1 <= (times >= start).mean() < 0.11


def test_no_times_are_no_counts() -> None:
    assert counts_of(add_times([])) == (0, {})
    assert counts_of(add_times([add_times([]), count_times(np.array([5]))])) == (0, {5: 1})
