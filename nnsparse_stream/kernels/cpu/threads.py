"""The compiled loops on several threads: those that torch keeps for its own operations.

torch's threads wait for work in a loop that keeps a core busy for milliseconds after each operation, so that other
threads beside them would get half a core. They are those of OpenMP, which has a team for each thread that calls it:
several may call at once, as in torch's operations.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# Products that take some hundred microseconds; a thread starts within some ten.
_MANY_PRODUCTS = 1 << 20

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _find() -> Any:
    """OpenMP's `GOMP_parallel(body, data, threads, flags)`, in the library that torch has loaded; None without one."""
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # pragma: no cover
        return None
    parallel.argtypes, parallel.restype = (_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    # A forked process has the team, but none of its threads: it would wait for them for ever.
    os.register_at_fork(after_in_child=_stay_alone)
    return parallel


def _stay_alone() -> None:
    global _parallel
    _parallel = None


_parallel = _find()


def share(loop: Callable[..., None], *arguments: Any, cost: int) -> None:
    """Runs a compiled loop on as many threads as torch has, where that is worth it.

    Args:
        loop: called by each thread as `loop(claimed, *arguments)`; see `loops`.
        arguments: of the loop.
        cost: how many products it sums up.
    """
    claimed = np.zeros(1, np.int64)
    _together(lambda: loop(claimed, *arguments), torch.get_num_threads() if cost >= _MANY_PRODUCTS else 1)


def by_rows(loop: Callable[[int, int], None], num_rows: int) -> None:
    """Calls `loop(first, last)` for parts of the rows, on as many threads as torch has.

    Args:
        loop: releases the interpreter's lock, and writes to what belongs to its rows only.
        num_rows: how many there are.
    """
    threads = torch.get_num_threads()
    size = max(1, -(-num_rows // threads))
    firsts = iter(range(0, num_rows, size))

    def work() -> None:
        for first in firsts:
            loop(first, min(first + size, num_rows))

    _together(work, threads if num_rows > 1 else 1)


def _together(work: Callable[[], None], threads: int) -> None:
    """Calls `work` on this thread and on others, and waits for all; each call takes up what the others have left."""
    if threads == 1 or _parallel is None:
        work()
        return
    raised: list[BaseException] = []

    def body(_: int | None) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    _parallel(_Body(body), None, threads, 0)
    if raised:
        raise raised[0]
