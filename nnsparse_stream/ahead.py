"""Work that threads do ahead of what is asked for, in order and bounded: for runs in one process on several cores."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
#: How often one that waits looks whether its run has ended, in seconds.
_LOOK_SECONDS = 0.1


class Threads:
    """The threads of one run. NumPy, Arrow and files work without Python's lock, so threads use all cores.

    Args:
        number: how many pieces of work of one kind go on side by side; 0: none, all happens when it is asked for.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._live: set[threading.Thread] = set()

    def begin(self, work: Iterable[_T], held: int) -> Iterator[_T]:
        """Starts a thread that goes through `work`, at most `held` results ahead of the iterator that is returned."""
        results: queue.Queue[tuple[str, Any]] = queue.Queue(held)

        def put(kind: str, value: Any) -> bool:
            while not self._ended.is_set() and threading.main_thread().is_alive():
                try:
                    results.put((kind, value), timeout=_LOOK_SECONDS)
                    return True
                except queue.Full:
                    continue
            return False

        def run() -> None:
            try:
                for result in work:
                    if not put("result", result):
                        return
                put("end", None)
            except BaseException as error:  # raised again where the results are taken
                put("error", error)
            finally:
                self._live.discard(threading.current_thread())

        thread = threading.Thread(target=run)
        self._live.add(thread)
        try:
            thread.start()
        except BaseException:  # the system gives no more threads: there is none to wait for
            self._live.discard(thread)
            raise
        return self._taken(results)

    def end(self) -> None:
        """Waits until every thread has come to an end; those with results left stop at the next of them."""
        self._ended.set()
        for thread in list(self._live):
            thread.join()

    def _taken(self, results: queue.Queue[tuple[str, Any]]) -> Iterator[Any]:
        while True:
            try:
                kind, value = results.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._ended.is_set():  # what would have come next has no one to make it
                    raise self._error or RuntimeError("the run has ended before its work was done") from None
                continue
            if kind == "result":
                yield value
            elif kind == "end":
                return
            else:
                # What the others write must not come after what the caller does about the error.
                self._error = self._error or value
                self.end()
                raise value


class Ahead(Generic[_T]):
    """Pieces of work, each an iterator, whose results come in the order of the pieces while later ones go on.

    Args:
        threads: of the run.
        held: results of a piece that may wait to be taken.
    """

    def __init__(self, threads: Threads, held: int = 8) -> None:
        self._threads, self._held = threads, held
        self._running: deque[Iterator[_T]] = deque()

    def adopt(self, results: Iterator[_T]) -> None:
        """Takes over work that `Threads.begin` started, as the latest piece."""
        self._running.append(results)

    def start(self, work: Iterable[_T]) -> Iterator[_T]:
        """Starts a piece, and gives results of earlier ones where enough go on: to be gone through to its end."""
        if not self._threads.number:
            yield from work
            return
        # One more than there are threads to be: while the oldest comes to its end, none is idle.
        while len(self._running) >= self._threads.number:
            yield from self._running.popleft()
        self._running.append(self._threads.begin(work, self._held))

    def finish(self) -> Iterator[_T]:
        """The results of all pieces that go on."""
        while self._running:
            yield from self._running.popleft()
