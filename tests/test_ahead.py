"""Work done ahead by threads: order, bounds, errors, and that a run's threads end with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.ahead import Ahead, Threads


@pytest.mark.parametrize("number", [0, 1, 2, 5])
@given(pieces=st.lists(st.lists(st.integers(), max_size=5), max_size=8), held=st.integers(1, 3))
def test_results_come_in_order(number: int, pieces: list[list[int]], held: int) -> None:
    threads = Threads(number)
    ahead: Ahead[int] = Ahead(threads, held)
    found = [result for piece in pieces for result in ahead.start(iter(piece))]
    found += ahead.finish()
    threads.end()
    assert found == [result for piece in pieces for result in piece]


def test_as_many_pieces_go_on_as_there_are_threads_to_be() -> None:
    threads = Threads(3)
    together = threading.Barrier(3, timeout=20)

    def wait() -> Iterator[int]:
        yield together.wait()

    ahead: Ahead[int] = Ahead(threads)
    found = [result for _ in range(3) for result in ahead.start(wait())]
    assert not found  # the third has started, and none had to be waited for
    assert sorted(ahead.finish()) == [0, 1, 2]


def test_no_more_waits_than_may() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    threads = Threads(1)
    results = threads.begin(make(), held=3)
    assert next(results) == 0
    deadline = time.monotonic() + 20
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5  # one is taken, three wait, and one is made but has no place
    threads.end()
    assert len(made) <= 6


def test_an_error_ends_all_work_before_it_is_raised() -> None:
    threads = Threads(2)
    ended = threading.Event()
    may_fail = threading.Event()

    def work() -> Iterator[int]:
        try:
            while True:
                may_fail.set()
                yield 1
        finally:
            ended.set()

    def fail() -> Iterator[int]:
        assert may_fail.wait(20)
        raise KeyError("what was wrong")
        yield 0

    ahead: Ahead[int] = Ahead(threads, held=1)
    with pytest.raises(KeyError, match="what was wrong"):
        _ = [*ahead.start(fail()), *ahead.start(work()), *ahead.finish()]
    assert ended.is_set()


def test_who_waits_elsewhere_when_an_error_ends_the_run_gets_it_too() -> None:
    """Beam may run several bundles in this process at once, and each has its own pieces."""
    threads = Threads(2)
    waits = threads.begin(iter(range(100)), held=1)
    assert next(waits) == 0

    def fail() -> Iterator[int]:
        raise KeyError("what was wrong")
        yield 0

    with pytest.raises(KeyError, match="what was wrong"):
        list(threads.begin(fail(), held=1))
    with pytest.raises(KeyError, match="what was wrong"):
        list(waits)


def test_what_an_ended_run_begins_fails() -> None:
    threads = Threads(2)
    threads.end()
    with pytest.raises(RuntimeError, match="the run has ended before its work was done"):
        list(threads.begin(iter([1]), held=1))


def test_a_piece_that_goes_on_can_be_taken_over() -> None:
    threads = Threads(2)
    ahead: Ahead[int] = Ahead(threads)
    ahead.adopt(threads.begin(iter([1, 2]), held=1))
    assert [*ahead.start(iter([3])), *ahead.finish()] == [1, 2, 3]
