"""The training entries of row groups in memory, the host's or the training device's, and minibatches made of them."""

from __future__ import annotations

import contextlib
import mmap
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnsparse_stream.data.fold_rows import features_of_rows
from nnsparse_stream.feeding.device_feed import Feed, Sent
from nnsparse_stream.kernels.cpu.copies import gather, keep_fold
from nnsparse_stream.sparse.rows import SparseRows

_TRAIN = 0
# Parts of a buffer begin at multiples of so many numbers: kernels read 16 bytes at once, and GPUs have lines of 128.
_ALIGN = 64


class Kept(NamedTuple):
    """Where the training entries of some rows lie in a store.

    Attributes:
        starts: int64 (rows,).
        lengths: int64 (rows,).
        features: of the rows, on the host.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    features: SparseRows | None

    @staticmethod
    def concatenate(parts: Sequence[Kept]) -> Kept:
        """The rows of several parts, one after the other."""
        starts, lengths, features = zip(*parts, strict=True)
        together = None if features[0] is None else SparseRows.concatenate(features)
        return Kept(np.concatenate(starts), np.concatenate(lengths), together)

    def select(self, rows: NDArray[np.int64]) -> Kept:
        """Some of the rows, in any order."""
        features = None if self.features is None else self.features.select(torch.from_numpy(rows))
        return Kept(self.starts[rows], self.lengths[rows], features)

    def bytes_of(self, rows: NDArray[np.int64], entries: int) -> int:
        """What a minibatch of these rows and so many entries takes, in SparseRows."""
        size = 8 * entries + 4 * len(rows)
        if self.features is None:
            return size
        offsets = self.features.offsets.numpy()
        return size + 4 * len(rows) + 8 * int((offsets[rows + 1] - offsets[rows]).sum())

    def sampled(self, draws: NDArray[np.float32], bound: int) -> Kept:
        """Of the only row the entries with the lowest draws, in their order, as so many pieces of one entry."""
        taken = np.sort(np.argsort(draws, kind="stable")[:bound])
        return Kept(self.starts + taken, np.ones(bound, dtype=np.int64), self.features)


class Store(ABC):
    """Columns and values of entries, 8 bytes each; several threads may put row groups there, and take minibatches.

    Args:
        capacity: entries.
        num_columns: of the data set.
        feed: the way to the training device.
    """

    def __init__(self, capacity: int, num_columns: int, feed: Feed) -> None:
        self._capacity, self._num_columns, self._feed = capacity, num_columns, feed
        self._held, self._lock = 0, threading.Lock()

    def keep(self, batch: pa.RecordBatch) -> Kept:
        """Copies the training entries of rows of a shard; rows that have none are among the rows.

        Raises:
            ValueError: the rows are not what a shard of this data set may hold.
        """
        offsets = batch.column("columns").offsets.to_numpy()
        folds, columns, values = (
            batch.column(name).flatten().to_numpy(zero_copy_only=False) for name in ("fold", "columns", "values")
        )
        if not len(folds) == len(columns) == len(values):
            raise ValueError("the lists of a row have different lengths")
        count = int(np.count_nonzero(folds == _TRAIN))
        with self._lock:
            start, self._held = self._held, self._held + count
        if start + count > self._capacity:
            raise ValueError("there are more training entries than the manifest says")
        lengths = self._put(start, count, lambda out: keep_fold(folds, _TRAIN, offsets, columns, values, out))
        return Kept(start + np.cumsum(lengths) - lengths, lengths, features_of_rows(batch))

    @abstractmethod
    def _put(self, start: int, count: int, copy: Callable[[tuple[Any, Any]], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Has `copy` write so many columns and values, and keeps them at a place; gives what `copy` gives."""

    def send(self, pieces: Kept, lengths: NDArray[np.int64]) -> Sent[SparseRows]:
        """Sends a minibatch to the training device.

        Args:
            pieces: its entries, and its rows' features.
            lengths: (rows,), how many of them each row has.
        """
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return self._send(pieces, offsets)

    @abstractmethod
    def _send(self, pieces: Kept, offsets: NDArray[np.int32]) -> Sent[SparseRows]: ...


class HostStore(Store):
    """Entries in the host's memory; minibatches are put together there."""

    def __init__(self, capacity: int, num_columns: int, feed: Feed) -> None:
        super().__init__(capacity, num_columns, feed)
        self._columns, self._values = _pages(capacity, np.int32), _pages(capacity, np.float32)

    def _put(self, start: int, count: int, copy: Callable[[tuple[Any, Any]], NDArray[np.int64]]) -> NDArray[np.int64]:
        return copy((self._columns[start : start + count], self._values[start : start + count]))

    def _send(self, pieces: Kept, offsets: NDArray[np.int32]) -> Sent[SparseRows]:
        entries = int(offsets[-1])
        size, (head, columns, values, *features) = _parts(len(offsets), entries, entries, *_sizes(pieces.features))

        def write(buffer: NDArray[np.int32]) -> None:
            buffer[head] = offsets
            out = buffer[columns], buffer[values].view(np.float32)
            gather(self._columns, self._values, pieces.starts, pieces.lengths, out)
            _write(pieces.features, buffer, features)

        def make(buffer: Tensor) -> SparseRows:
            return _view(buffer, [head, columns, values], self._num_columns, _made(pieces.features, buffer, features))

        return self._feed.send(size, write, make)


def _pages(size: int, dtype: type) -> NDArray[Any]:
    """An array whose memory is the process's as long as the array is used, and not longer.

    Of blocks that one thread takes and another gives up, the usual allocator keeps pieces: 220 MB after 72 million
    entries, with two readers.
    """
    pages = mmap.mmap(-1, max(size, 1) * np.dtype(dtype).itemsize)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype)[:size]


class DeviceStore(Store):
    """Entries in the training device's memory; minibatches are put together there, of sizes that the host knows."""

    def __init__(self, capacity: int, num_columns: int, feed: Feed) -> None:
        super().__init__(capacity, num_columns, feed)
        self._columns, self._values = (feed.empty(capacity, dtype) for dtype in (torch.int32, torch.float32))

    def _put(self, start: int, count: int, copy: Callable[[tuple[Any, Any]], NDArray[np.int64]]) -> NDArray[np.int64]:
        size, (columns, values) = _parts(count, count)
        copied = []

        def write(buffer: NDArray[np.int32]) -> None:
            copied.append(copy((buffer[columns], buffer[values].view(np.float32))))

        def make(buffer: Tensor) -> None:
            self._columns[start : start + count].copy_(buffer[columns])
            self._values[start : start + count].copy_(buffer[values].view(torch.float32))

        self._feed.send(size, write, make)
        return copied[0]

    def _send(self, pieces: Kept, offsets: NDArray[np.int32]) -> Sent[SparseRows]:
        entries, number = int(offsets[-1]), len(pieces.starts)
        size, (head, lengths, shifts, *features) = _parts(len(offsets), number, 2 * number, *_sizes(pieces.features))

        def write(buffer: NDArray[np.int32]) -> None:
            buffer[head], buffer[lengths] = offsets, pieces.lengths
            # What is to be added to an entry's place in the minibatch for its place in the store.
            buffer[shifts].view(np.int64)[:] = pieces.starts - np.cumsum(pieces.lengths) + pieces.lengths
            _write(pieces.features, buffer, features)

        def make(buffer: Tensor) -> SparseRows:
            # With their number known, nothing here waits for the device.
            shift = buffer[shifts].view(torch.int64)
            at = torch.repeat_interleave(shift, buffer[lengths], output_size=entries)
            at += torch.arange(entries, device=at.device)
            columns, values = self._columns.index_select(0, at), self._values.index_select(0, at)
            made = _made(pieces.features, buffer, features)
            return SparseRows(buffer[head], columns, values, self._num_columns, made)

        return self._feed.send(size, write, make)


def _parts(*sizes: int) -> tuple[int, list[slice]]:
    """Where in a buffer parts of these sizes lie, and its size."""
    begins = [0]
    for size in sizes:
        begins.append(begins[-1] + -(-size // _ALIGN) * _ALIGN)
    return begins[-1], [slice(begin, begin + size) for (begin, _), size in zip(pairwise(begins), sizes, strict=True)]


def _sizes(features: SparseRows | None) -> list[int]:
    """Of the three parts of features."""
    return [] if features is None else [len(features.offsets), features.num_entries, features.num_entries]


def _write(features: SparseRows | None, buffer: NDArray[np.int32], parts: list[slice]) -> None:
    if features is not None:
        tensors = (features.offsets, features.columns, features.values.view(torch.int32))
        for part, tensor in zip(parts, tensors, strict=True):
            buffer[part] = tensor.numpy()


def _made(features: SparseRows | None, buffer: Tensor, parts: list[slice]) -> SparseRows | None:
    return None if features is None else _view(buffer, parts, features.num_columns, None)


def _view(buffer: Tensor, parts: list[slice], num_columns: int, features: SparseRows | None) -> SparseRows:
    offsets, columns, values = (buffer[part] for part in parts)
    return SparseRows(offsets, columns, values.view(torch.float32), num_columns, features)
