"""Rows of a data set on storage as tensors: one batch for evaluation, an endless supply of minibatches for training."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.shard_reader import ShardReader
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.sparse.rows import SparseRows

#: Entries that are shuffled together at most; at 8 bytes an entry, some 32 MB.
SHUFFLE_ENTRIES = 4_000_000
# Entries that are copied in the order of the shuffle at once, about.
_CHUNK_ENTRIES = 1 << 18
#: Bytes of minibatches that wait to be trained on at most.
PREFETCH_BYTES = 64 << 20


class Cursor(NamedTuple):
    """A position in an epoch: so many whole shuffle blocks, and so many minibatches of the next, have been taken."""

    block: int = 0
    minibatch: int = 0


class Minibatch(NamedTuple):
    """Rows to train on, on the training device, and the position after them."""

    rows: SparseRows
    after: Cursor


def shuffle_blocks(
    manifest: Manifest, seed: int, epoch: int, shuffle_entries: int = SHUFFLE_ENTRIES
) -> list[list[tuple[int, int]]]:
    """Which row groups are shuffled together, in which order: a pure function of (manifest, seed, epoch).

    Args:
        manifest: of the data set.
        seed: of the run.
        epoch: from 1.
        shuffle_entries: entries of a block at most; a larger row group is a block of its own.

    Returns:
        Blocks of (shard, row group); each row group of the data set is in one of them, once.
    """
    groups = [
        (shard, group, entries)
        for shard, entry in enumerate(manifest.shards)
        for group, (_, entries) in enumerate(entry.row_groups)
    ]
    blocks: list[list[tuple[int, int]]] = []
    held = shuffle_entries
    for index in _random(seed, epoch, 0).permutation(len(groups)):
        shard, group, entries = groups[index]
        if not blocks or held + entries > shuffle_entries:
            blocks.append([])
            held = 0
        blocks[-1].append((shard, group))
        held += entries
    return blocks


def _random(seed: int, epoch: int, part: int) -> np.random.Generator:
    """Random numbers of one part of an epoch: 0 for the order of the row groups, then one part a block."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, part]))


@dataclass
class TrainingStream:
    """Minibatches of a data set's training fold, read ahead by background threads into bounded memory.

    The order is a pure function of (manifest, seed, epoch): the same for any number of readers, and from any cursor on.
    Row groups are permuted, as many as hold `shuffle_entries` are read, their rows permuted together and cut by the
    batchifier; a minibatch never crosses blocks. Rows without a training entry are left out: there is nothing to learn
    from them. Of a row with more entries than the batchifier's bound, as many as the bound are drawn anew each epoch.

    Memory: a block of `shuffle_entries` and, for a moment, a copy of it; `prefetch_bytes` of minibatches; one row group
    for each reader; the footers of the shards that are open.

    Attributes:
        dataset: the data set.
        seed: of the run.
        batchifier: bounds minibatches by rows and by entries (8 bytes each).
        device: where minibatches are put; pinned and copied ahead of use where it is a GPU.
        readers: threads that read row groups.
        shuffle_entries: bounds a block.
        prefetch_bytes: bounds what waits to be used; one minibatch waits even if it is larger.
        waited: seconds that `epochs` has waited for minibatches, over all calls.
        shards: what reads the row groups.
    """

    dataset: Dataset
    seed: int
    batchifier: Batchifier
    device: torch.device
    readers: int = 2
    shuffle_entries: int = SHUFFLE_ENTRIES
    prefetch_bytes: int = PREFETCH_BYTES
    waited: float = field(default=0.0, init=False)
    shards: ShardReader = field(init=False)

    def __post_init__(self) -> None:
        self.shards = ShardReader(self.dataset)

    def epochs(
        self,
        first: int,
        last: int,
        start: Cursor = Cursor(),  # noqa: B008 (immutable)
    ) -> Generator[Minibatch | None, None, None]:
        """The minibatches of some epochs, from a cursor on; None after each epoch's last.

        While one epoch ends and is judged, the next one's first block is read.

        Args:
            first: from 1.
            last: the last epoch.
            start: in the first epoch, `Minibatch.after` of the last minibatch that was used.

        Raises:
            InputError: a shard is missing or damaged.
        """
        buffer = _Prefetched(self.prefetch_bytes)
        producer = threading.Thread(target=buffer.fill, args=(self._produce(first, last, start),), daemon=True)
        producer.start()
        try:
            for _ in range(first, last + 1):
                while True:
                    asked = time.perf_counter()
                    minibatch = buffer.take()
                    self.waited += time.perf_counter() - asked
                    yield minibatch
                    if minibatch is None:
                        break
        finally:
            buffer.close()
            producer.join()

    def _produce(self, first: int, last: int, start: Cursor) -> Iterator[Minibatch | None]:
        with ThreadPoolExecutor(self.readers) as pool:
            for epoch in range(first, last + 1):
                blocks = shuffle_blocks(self.dataset.manifest, self.seed, epoch, self.shuffle_entries)
                for block in range(start.block, len(blocks)):
                    # In the order of the block, whichever reader is done first.
                    rows = SparseRows.concatenate(list(pool.map(self._read, blocks[block])))
                    shuffled = self._shuffled(rows, _random(self.seed, epoch, block + 1))
                    del rows  # the chunks hold it as long as they need it
                    yield from self._cut(shuffled, block, start.minibatch if block == start.block else 0)
                yield None
                start = Cursor()

    def _cut(self, chunks: Iterator[SparseRows], block: int, skipped: int) -> Iterator[Minibatch]:
        """The minibatches of a block, on the training device, without the first `skipped`."""
        minibatches = self.batchifier(chunks)
        following = next(minibatches, None)
        index = 0
        while (minibatch := following) is not None:
            following = next(minibatches, None)
            index += 1
            if index <= skipped:
                continue
            if self.device.type == "cuda":
                minibatch = minibatch.pin_memory().to(self.device, non_blocking=True)
            yield Minibatch(minibatch, Cursor(block + 1) if following is None else Cursor(block, index))

    def _read(self, place: tuple[int, int]) -> SparseRows:
        return fold_rows(self.shards.read(*place), (0,), self.dataset.manifest.num_columns)

    def _shuffled(self, rows: SparseRows, random: np.random.Generator) -> Iterator[SparseRows]:
        """The rows that have entries, permuted, in chunks: a minibatch that waits keeps no more than one alive."""
        lengths = rows.lengths().numpy()
        order = random.permutation(np.flatnonzero(lengths > 0))
        ends = np.cumsum(lengths[order], dtype=np.int64)
        cuts = np.searchsorted(ends, np.arange(_CHUNK_ENTRIES, rows.num_entries, _CHUNK_ENTRIES))
        for part in np.split(order, np.unique(cuts)):
            chunk = rows.select(torch.from_numpy(part))
            heavy = lengths[part].max(initial=0) > self.batchifier.max_entries
            yield _sampled(chunk, self.batchifier.max_entries, random) if heavy else chunk


def _sampled(rows: SparseRows, bound: int, random: np.random.Generator) -> SparseRows:
    """At most `bound` entries of each row, drawn with equal probability, in the row's own order."""
    # Rank the entries of each row in a random order, and keep those of the lowest ranks.
    offsets = rows.offsets.numpy()
    row = rows.row_indices().numpy()
    shuffled = np.lexsort((random.random(len(row), dtype=np.float32), row))
    keep = np.empty(len(row), dtype=bool)
    keep[shuffled] = np.arange(len(row)) - offsets[row] < bound
    kept = np.minimum(np.diff(offsets), bound)
    return SparseRows(
        torch.from_numpy(np.concatenate([[0], np.cumsum(kept)])),
        rows.columns[torch.from_numpy(keep)],
        rows.values[torch.from_numpy(keep)],
        rows.num_columns,
        rows.features,
    )


class _Prefetched:
    """A queue of minibatches that is bounded by bytes, between one producer and one consumer."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: queue.SimpleQueue[tuple[Minibatch | None, BaseException | None]] = queue.SimpleQueue()
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()

    def fill(self, minibatches: Iterator[Minibatch | None]) -> None:
        """Puts all of them, waiting where there is no room; stops when the consumer has closed."""
        try:
            for minibatch in minibatches:
                size = _bytes(minibatch)
                with self._changed:
                    while not self._closed and self._held and self._held + size > self._max_bytes:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._held += size
                self._items.put((minibatch, None))
        except BaseException as error:  # the consumer raises it, in its own thread
            self._items.put((None, error))

    def take(self) -> Minibatch | None:
        """The next item that was put."""
        minibatch, error = self._items.get()
        if error is not None:
            raise error
        with self._changed:
            self._held -= _bytes(minibatch)
            self._changed.notify()
        return minibatch

    def close(self) -> None:
        """Lets the producer end."""
        with self._changed:
            self._closed = True
            self._changed.notify()


def _bytes(minibatch: Minibatch | None) -> int:
    if minibatch is None:
        return 0
    blocks = [minibatch.rows, *([] if minibatch.rows.features is None else [minibatch.rows.features])]
    return sum(rows.offsets.nbytes + rows.columns.nbytes + rows.values.nbytes for rows in blocks)
