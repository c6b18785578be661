"""The way of minibatches to the training device, ahead of their use; the training stream waits for them on the device.

What is written to page-locked memory is copied on a stream of its own. Nothing here makes the thread that trains wait:
threads that fill the buffers wait until the copy that used one last is done, and the training stream for the copy.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sent(Generic[_T]):
    """What is on its way.

    Attributes:
        made: on the device, to be used after `Feed.receive`.
        ready: is passed when it is there; None where it is there already.
    """

    made: _T
    ready: torch.cuda.Event | None


class Feed:
    """The training device is the CPU: what is written stays where it is."""

    def send(self, size: int, write: Callable[[NDArray[np.int32]], None], make: Callable[[Tensor], _T]) -> Sent[_T]:
        """Fills a buffer, brings it to the device, and makes something of it there; called by any thread.

        Args:
            size: of the buffer, in numbers of 4 bytes.
            write: fills the buffer, int32 (size,), on the CPU.
            make: makes of the buffer on the device what is wanted, without waiting for the device; what it does there
                comes after all that was sent before.
        """
        buffer = torch.empty(size, dtype=torch.int32)
        write(buffer.numpy())
        return Sent(make(buffer), None)

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        """Memory on the device that only `make` of `send` reads and writes."""
        return torch.empty(size, dtype=dtype)

    def receive(self, sent: Sent[SparseRows]) -> SparseRows:
        """The rows that were sent, for the work that this thread gives to the device from now on."""
        return sent.made


class PinnedFeed(Feed):
    """The training device is a GPU: page-locked buffers, which are used again, and a stream for the copies.

    A buffer is as long as what was written to it at most; a thread waits where none is free.

    Args:
        device: the GPU.
        buffers: how many; as many threads can write at a time.
    """

    def __init__(self, device: torch.device, buffers: int) -> None:
        self._stream = torch.cuda.Stream(device)
        # The buffers that nobody writes to, each with the event of its last copy; the oldest copy comes first.
        self._free: queue.SimpleQueue[tuple[Tensor | None, torch.cuda.Event]] = queue.SimpleQueue()
        for _ in range(buffers):
            # A thread that waits for it sleeps.
            self._free.put((None, torch.cuda.Event(blocking=True)))

    def send(self, size: int, write: Callable[[NDArray[np.int32]], None], make: Callable[[Tensor], _T]) -> Sent[_T]:
        """See `Feed.send`; waits for a buffer, and for the copy from it."""
        pinned, copied = self._free.get()
        try:
            copied.synchronize()  # at once where it was never recorded
            with torch.cuda.stream(self._stream):
                if pinned is None or len(pinned) < size:
                    pinned = torch.empty(size, dtype=torch.int32, pin_memory=True)
                write(pinned[:size].numpy())
                # Memory of the copies' stream: whatever that stream does comes after what it did before.
                there = pinned[:size].to(self._stream.device, non_blocking=True)
                copied.record(self._stream)
        finally:
            self._free.put((pinned, copied))
        with torch.cuda.stream(self._stream):
            made = make(there)
            ready = torch.cuda.Event()
            ready.record(self._stream)
        return Sent(made, ready)

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        """See `Feed.empty`; not memory that the training stream may still be at work with."""
        with torch.cuda.stream(self._stream):
            return torch.empty(size, dtype=dtype, device=self._stream.device)

    def receive(self, sent: Sent[SparseRows]) -> SparseRows:
        """See `Feed.receive`; the device waits for the copy, this thread does not."""
        stream = torch.cuda.current_stream(self._stream.device)
        assert sent.ready is not None
        stream.wait_event(sent.ready)
        for tensor in _tensors(sent.made):
            # When they are given up, their memory is free after what the training stream has got to do by then.
            tensor.record_stream(stream)
        return sent.made


def _tensors(rows: SparseRows) -> Iterator[Tensor]:
    yield from (rows.offsets, rows.columns, rows.values)
    if rows.features is not None:
        yield from _tensors(rows.features)


def feed_to(device: torch.device, buffers: int) -> Feed:
    """The way to a device, for so many threads at a time."""
    return PinnedFeed(device, buffers) if device.type == "cuda" else Feed()
