"""Compiled loops over the rows of a block on several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def by_rows(loop: Callable[[int, int], None], num_rows: int) -> None:
    """Calls `loop(first, last)` for parts of the rows, on as many threads as torch has, and waits for all.

    To start threads takes some hundred microseconds: for loops that take milliseconds.

    Args:
        loop: releases the interpreter's lock, and writes to what belongs to its rows only.
        num_rows: how many there are.
    """
    threads = torch.get_num_threads()
    size = max(1, -(-num_rows // threads))
    if size >= num_rows:
        loop(0, num_rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        # A list, so that what a loop raises is raised here.
        list(pool.map(lambda first: loop(first, min(first + size, num_rows)), range(0, num_rows, size)))
