"""A run in this process alone: its blocks go from stage to stage by reference, and threads work on them side by side.

On an engine a worker has one core and its blocks are sent; in one process both would be a waste. What is computed is
the same.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import pyarrow as pa

from nnsparse_stream.ahead import Ahead, Threads
from nnsparse_stream.ratings.dead_letters import split_outputs
from nnsparse_stream.ratings.input_plan import InputPlan
from nnsparse_stream.ratings.reading import BLOCK_BYTES, Split
from nnsparse_stream.storage.block_store import BlockStore

#: More than this would hold many shards in memory at once.
_MOST_THREADS = 8
#: What is read while Beam is being imported: so many splits, and at most so many bytes before they are wanted.
_BEGUN_SPLITS = 8
_BEGUN_BYTES = 128 << 20
#: Of glibc's mallopt: arrays up to 8 MiB come from the one heap that all threads share, which grows by 16 MiB and
#: gives back what is free beyond 64 MiB.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_HEAP = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: 8 << 20, _M_TOP_PAD: 16 << 20, _M_TRIM_THRESHOLD: 64 << 20}


class _Run:
    """What a run in one process has, and one on an engine has not."""

    def __init__(self) -> None:
        # The cores that this process may use, as containers restrict them; where the system does not tell, all of them.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = Threads(min(cores, _MOST_THREADS) if cores > 1 else 0)
        self.store = BlockStore()
        self.heap = ExitStack()
        self.heap.enter_context(_one_heap())
        self.users = 0
        self.begun: frozenset[Split] = frozenset()
        self.begun_results: list[Iterator[tuple[str, Any]]] = []


_NO_THREADS = Threads(0)
_run: _Run | None = None
#: Of the change of `_run`, and of how many use it.
_lock = threading.Lock()


@contextmanager
def in_process() -> Iterator[None]:
    """While it lasts, all pipelines that this process runs are taken to have no other process to work for them.

    It may be entered again, by this thread or by others: what it holds is given up when the last has left.
    """
    global _run
    with _lock:
        _run = run = _run or _Run()
        run.users += 1
    try:
        yield
    finally:
        with _lock:
            run.users -= 1
            if not run.users:
                _run = None
                run.threads.end()
                run.store.close()
                run.heap.close()


def begin_reading(plan: InputPlan) -> None:
    """Begins to read the first splits of a plan in a run in one process, whose pipeline is about to be built."""
    if _run is None or not _run.threads.number:
        return
    first = plan.splits[:_BEGUN_SPLITS]
    _run.begun = frozenset(first)
    number = _run.threads.number
    for start in range(number):
        work = chain.from_iterable(split_outputs(split, plan.schema) for split in first[start::number])
        _run.begun_results.append(_run.threads.begin(work, _BEGUN_BYTES // BLOCK_BYTES // number))


def store() -> BlockStore | None:
    """Where blocks wait between stages; None where they are sent."""
    return None if _run is None else _run.store


def ahead() -> Ahead[Any]:
    """What a DoFn gives a bundle's work to: threads in a run in one process, else none."""
    return Ahead(_NO_THREADS if _run is None else _run.threads)


def take_begun(split: Split, work: Ahead[tuple[str, Any]]) -> bool:
    """Whether `begin_reading` began to read a split; the first that asks for one of these gets the results of all."""
    if _run is None or split not in _run.begun:
        return False
    while _run.begun_results:
        work.adopt(_run.begun_results.pop(0))
    return True


@contextmanager
def _one_heap() -> Iterator[None]:
    """Lets Arrow and NumPy use again what either has freed.

    Each would ask the system for most arrays anew, and threads that wait for fresh pages wait for one another: the same
    work took 1.6 times as long. Only glibc is known to take these settings; elsewhere nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not all(mallopt(parameter, value) for parameter, value in _HEAP.items()):
        yield
        return
    outer = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(outer)
