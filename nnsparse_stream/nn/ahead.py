"""Scoring that keeps a GPU at work while the host uses what it has scored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows

_Block = TypeVar("_Block")
_Sent = TypeVar("_Sent", Tensor, SparseRows)
# One a GPU, for all threads of the process.
_TURNS: dict[torch.device, threading.Lock] = {}


def sent(block: _Sent, device: torch.device) -> _Sent:
    """What lies on the CPU, on a device; a GPU receives it by way of page-locked memory, and nothing waits for it."""
    return block.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else block


def ahead(
    blocks: Iterable[_Block], work: Callable[[_Block], tuple[Tensor, ...]], device: torch.device
) -> Iterator[tuple[_Block, tuple[Tensor, ...]]]:
    """Does some work on each block, without gradients, and gives its results to the CPU.

    On the CPU a block's work is done when it is asked for. On a GPU that of the next block is queued before a block's
    results are given out; these are copied meanwhile, to page-locked memory on a stream of their own, so that the
    results of two blocks are held. However many threads of a process work on one GPU, a block's work is queued whole
    before that of another thread's block, on one stream: what it takes beside its results is there once.

    Args:
        blocks: what is worked on.
        work: queues a block's work on the device, and waits for nothing there; gives tensors.
        device: where.

    Yields:
        Each block, and its results on the CPU.
    """
    if device.type != "cuda":
        for block in blocks:
            with torch.no_grad():
                found = work(block)
            yield block, found
            del found  # not kept while the next one is made
        return
    turn = _TURNS.setdefault(device, threading.Lock())
    earlier: tuple[_Block, _Copies] | None = None
    for block in blocks:
        with turn, torch.cuda.device(device), torch.no_grad():
            queued = block, _Copies(work(block), device)
        if earlier is not None:
            yield earlier[0], earlier[1].wait()
        earlier = queued
    if earlier is not None:
        yield earlier[0], earlier[1].wait()


class _Copies:
    """Copies of tensors of a GPU in page-locked memory, which torch keeps for the next ones when they are let go."""

    def __init__(self, tensors: tuple[Tensor, ...], device: torch.device) -> None:
        stream, computing = _copy_stream(device), torch.cuda.current_stream()
        self._copies = tuple(torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors)
        # Blocking: a thread that waits leaves the processor to others.
        self._done = torch.cuda.Event(blocking=True)
        stream.wait_stream(computing)
        with torch.cuda.stream(stream):
            for copy, tensor in zip(self._copies, tensors, strict=True):
                copy.copy_(tensor, non_blocking=True)
                tensor.record_stream(stream)
            self._done.record(stream)

    def wait(self) -> tuple[Tensor, ...]:
        """The copies, once they are whole."""
        self._done.synchronize()
        return self._copies


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
