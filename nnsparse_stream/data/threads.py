"""Threads that work side by side on the pieces of a step, in order and bounded.

NumPy, Arrow and files work without Python's lock, so threads use all cores.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

_T = TypeVar("_T")
_Result = TypeVar("_Result")
#: More than this would hold many shards in memory at once.
_MOST_THREADS = 8
_WAIT_SECONDS = 0.01


def usable_cores() -> int:
    """The cores that this process may use, as containers restrict them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads() -> int:
    """As many as these cores, and at most eight."""
    return min(usable_cores(), _MOST_THREADS)


class Threads:
    """Threads of one run; a context manager, which ends when all of them have.

    Args:
        number: how many.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool = ThreadPoolExecutor(number)
        self._left = threading.Event()
        self._at_work: set[int] = set()

    def __enter__(self) -> Threads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What the threads write must not come after what the caller does about an error, or about an interrupt that is
        # followed by others. Not by joining: an interrupted join takes a thread for ended.
        while not self._pool_is_idle():
            pass
        self._pool.shutdown()

    def _pool_is_idle(self) -> bool:
        """Waits until no thread works, or comes to; False where it was interrupted."""
        try:
            self._left.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            while self._at_work:
                time.sleep(_WAIT_SECONDS)
        except KeyboardInterrupt:
            return False
        return True

    def map(self, work: Callable[[_T], _Result], pieces: Iterable[_T]) -> Iterator[_Result]:
        """Works on pieces; the results come in their order, and no more of them wait than there are threads.

        Raises:
            BaseException: what `work` raised for the first of the pieces for which it raised anything.
        """
        begun: deque[Future[_Result]] = deque()
        for piece in pieces:
            # One more than there are threads: while the oldest result is being taken, none is idle.
            if len(begun) > self._number:
                yield begun.popleft().result()
            begun.append(self._pool.submit(self._work, work, piece))
        while begun:
            yield begun.popleft().result()

    def _work(self, work: Callable[[_T], _Result], piece: _T) -> _Result:
        self._at_work.add(threading.get_ident())
        try:
            if self._left.is_set():
                raise CancelledError
            return work(piece)
        finally:
            self._at_work.discard(threading.get_ident())

    def while_needed(self, items: Iterable[_T]) -> Iterator[_T]:
        """Items of a piece that takes long: no more of them when the run has been left, by an error or an interrupt.

        Raises:
            CancelledError: it has been left; nobody waits for the piece.
        """
        for item in items:
            if self._left.is_set():
                raise CancelledError
            yield item
