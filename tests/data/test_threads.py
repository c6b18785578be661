"""Threads that work on the pieces of a step: order, bounds, errors, and that none goes on when a run is left."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.data.threads import Threads


@given(number=st.integers(1, 5), pieces=st.lists(st.integers(), max_size=12))
def test_results_come_in_order(number: int, pieces: list[int]) -> None:
    with Threads(number) as threads:
        assert list(threads.map(lambda piece: piece + 1, pieces)) == [piece + 1 for piece in pieces]


def test_as_many_pieces_go_on_as_there_are_threads() -> None:
    together = threading.Barrier(3, timeout=60)
    with Threads(3) as threads:
        assert sorted(threads.map(lambda _: together.wait(), range(3))) == [0, 1, 2]


def test_no_more_pieces_are_begun_than_threads_and_one() -> None:
    begun = []

    def pieces() -> Iterator[int]:
        for number in range(100):
            begun.append(number)
            yield number

    with Threads(2) as threads:
        results = threads.map(lambda piece: piece, pieces())
        assert next(results) == 0
        assert len(begun) == 4  # one was taken, two and one more wait or are worked on
        assert list(results) == list(range(1, 100))


def test_an_error_ends_all_work_before_it_is_raised() -> None:
    may_fail = threading.Event()
    begun, ended = [], []

    def forever() -> Iterator[int]:
        while True:
            may_fail.set()
            yield 1

    def work(piece: int) -> None:
        if piece == 0:
            assert may_fail.wait(60)
            raise KeyError("what was wrong")
        begun.append(piece)
        try:
            for _ in threads.while_needed(forever()):
                pass
        except CancelledError:
            ended.append(piece)
            raise

    with pytest.raises(KeyError, match="what was wrong"), Threads(2) as threads:
        list(threads.map(work, range(5)))
    assert sorted(ended) == begun
    assert len(begun) < 4


def test_a_second_interrupt_ends_no_sooner_than_the_work() -> None:
    ended = []
    threads = Threads(1)

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def work(piece: int) -> None:
        interrupt()
        assert threads._left.wait(60)
        time.sleep(0.02)  # the main thread waits for this one by then, most likely
        interrupt()
        time.sleep(0.02)
        ended.append(piece)

    with pytest.raises(KeyboardInterrupt), threads:
        list(threads.map(work, [1]))
    assert ended == [1]
