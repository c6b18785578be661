"""An endless supply of minibatches for training, of rows of a data set on storage or of those that memory keeps."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import torch

from nnsparse_stream.data.dataset import ROW_GROUP_ENTRIES, Dataset
from nnsparse_stream.data.shard_reader import ShardReader
from nnsparse_stream.data.threads import usable_cores
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.device_feed import Feed, Sent, feed_to
from nnsparse_stream.feeding.fold_store import DeviceStore, HostStore, Kept, Store
from nnsparse_stream.feeding.order import SHUFFLE_ENTRIES, Chosen, Cursor, minibatches, shuffle_blocks
from nnsparse_stream.feeding.shares import Piece, Share, rows_of, shares
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.storage import files as storage

#: Bytes of minibatches that wait to be trained on at most.
PREFETCH_BYTES = 64 << 20
# Small minibatches are put together by a thread until they have so many entries.
_TASK_ENTRIES = 1 << 18
# More than these would take memory, and no minibatch sooner.
_MOST_READERS = 16
_STORES: dict[str, type[Store]] = {"device": DeviceStore, "host": HostStore}


class Minibatch(NamedTuple):
    """Rows to train on, on the training device, and the position after them."""

    rows: SparseRows
    after: Cursor


class _Block(NamedTuple):
    """Row groups to be shuffled together, which are being read."""

    epoch: int
    number: int
    is_last: bool
    entries: int
    store: Store
    parts: list[Future[Kept]]


@dataclass
class TrainingStream:
    """Minibatches of a data set's training fold, made ahead of their use by background threads in bounded memory.

    The order is a pure function of (manifest, share, seed, epoch, worker): the same for any number of readers, for any
    cache, and from any cursor on. Row groups are permuted, as many as hold `shuffle_entries` are read, their rows
    permuted together and cut by the bounds of the batchifier; a minibatch never crosses blocks. Rows without a training
    entry are left out: there is nothing to learn from them. Of a row with more entries than the batchifier's bound, as
    many as the bound are drawn anew each epoch. A row group of which the share has some rows is read whole.

    Each reader reads a row group at a time, and as many threads put minibatches together, of the block that is trained
    on. One thread knows the order and gives them their work; it goes through rows, and through entries only to draw a
    number for each where a row is sampled.

    Memory: the block that is trained on, and of the next ones `shuffle_entries`, or two row groups for each reader if
    that is more; `prefetch_bytes` of minibatches; the row group that each reader decodes; the footers of the shards
    that are open. With a cache, the share of the training fold instead of the blocks.

    Attributes:
        dataset: the data set.
        seed: of the run.
        batchifier: bounds minibatches by rows and by entries (8 bytes each).
        device: where minibatches are put.
        cache: where the training fold stays once it has been read, and is not read again: one of `fold_cache.PLACES`.
        readers: threads that read row groups, and as many put minibatches together; by default as many as there are
            cores, up to 16.
        shuffle_entries: bounds a block.
        prefetch_bytes: bounds what waits to be used; a minibatch waits even if it is larger.
        share: what to train on, one of `shares`; all rows where None.
        worker: whose share it is, from 0; each draws other numbers.
        entries: training entries of the share, for which a cache has room; those of the training fold where None.
        waited: seconds that `epochs` has waited for minibatches, over all calls.
        shards: what reads the row groups.
    """

    dataset: Dataset
    seed: int
    batchifier: Batchifier
    device: torch.device
    cache: str = "none"
    readers: int = field(default_factory=lambda: min(usable_cores(), _MOST_READERS))
    shuffle_entries: int = SHUFFLE_ENTRIES
    prefetch_bytes: int = PREFETCH_BYTES
    share: Share | None = None
    worker: int = 0
    entries: int | None = None
    waited: float = field(default=0.0, init=False)
    shards: ShardReader = field(init=False)
    _feed: Feed = field(init=False)
    _store: Store | None = field(init=False)
    _pieces: Share = field(init=False)
    # What the store has of each piece; written by the thread that knows the order.
    _kept: dict[Piece, Future[Kept]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.shards = ShardReader(self.dataset)
        # Two are copied from, and others are written to.
        self._feed = feed_to(self.device, self.readers + 2)
        manifest, kind = self.dataset.manifest, _STORES.get(self.cache)
        entries = manifest.fold_entries["train"] if self.entries is None else self.entries
        self._store = kind(entries, manifest.num_columns, self._feed) if kind else None
        self._pieces = shares(manifest, 1)[0] if self.share is None else self.share

    def epochs(
        self,
        first: int,
        last: int,
        start: Cursor = Cursor(),  # noqa: B008 (immutable)
    ) -> Generator[Minibatch | None, None, None]:
        """The minibatches of some epochs, from a cursor on; None after each epoch's last.

        While one epoch ends and is judged, the next one's first blocks are read.

        Args:
            first: from 1.
            last: the last epoch.
            start: in the first epoch, `Minibatch.after` of the last minibatch that was used.

        Raises:
            InputError: a shard is missing or damaged.
        """
        ahead = _Ahead(self.prefetch_bytes)
        producer = threading.Thread(target=ahead.fill, args=(self._tasks(first, last, start),), daemon=True)
        producer.start()
        try:
            for _ in range(first, last + 1):
                while True:
                    asked = time.perf_counter()
                    item = ahead.take()
                    minibatch = item and Minibatch(self._feed.receive(item.sent), item.after)
                    self.waited += time.perf_counter() - asked
                    yield minibatch
                    if minibatch is None:
                        break
        finally:
            ahead.close()
            producer.join()

    def _tasks(self, first: int, last: int, start: Cursor) -> Generator[_Task, None, None]:
        """What makes the minibatches, task by task, in order."""
        reading, making = (ThreadPoolExecutor(self.readers) for _ in range(2))
        try:
            for block in self._blocks(reading, first, last, start):
                cursor = start if (block.epoch, block.number) == (first, start.block) else Cursor(block.number)
                yield from self._of_block(making, block, cursor)
                if block.is_last:
                    yield _Task(0, None)
        finally:
            reading.shutdown(cancel_futures=True)
            making.shutdown()  # what was begun is taken, also where reading has failed
            kept = {piece: part for piece, part in self._kept.items() if not part.cancelled() and not part.exception()}
            self._kept = kept

    def _blocks(self, pool: ThreadPoolExecutor, first: int, last: int, start: Cursor) -> Iterator[_Block]:
        """The shuffle blocks in order, while the next ones are read."""
        manifest = self.dataset.manifest
        bound = self.shuffle_entries + max(self.shuffle_entries, 2 * self.readers * ROW_GROUP_ENTRIES)
        begun: deque[_Block] = deque()
        held = 0
        for epoch in range(first, last + 1):
            blocks = shuffle_blocks(manifest, self._pieces, self.seed, epoch, self.worker, self.shuffle_entries)
            begin = start.block if epoch == first else 0
            # Also where a cursor stands behind the last block of its epoch, the epoch ends.
            for index in range(begin, max(len(blocks), begin + 1)):
                pieces = blocks[index] if index < len(blocks) else []
                entries = sum(manifest.shards[piece.shard].row_groups[piece.group][1] for piece in pieces)
                while begun and held + entries > bound:
                    yield begun[0]
                    held -= begun.popleft().entries
                store = self._store or HostStore(entries, manifest.num_columns, self._feed)
                parts = [self._part(pool, piece, store) for piece in pieces]
                begun.append(_Block(epoch, index, index >= len(blocks) - 1, entries, store, parts))
                held += entries
        while begun:
            yield begun[0]
            begun.popleft()

    def _part(self, pool: ThreadPoolExecutor, piece: Piece, store: Store) -> Future[Kept]:
        if store is not self._store:
            return pool.submit(self._keep, piece, store)
        if piece not in self._kept:
            self._kept[piece] = pool.submit(self._keep, piece, store)
        return self._kept[piece]

    def _keep(self, piece: Piece, store: Store) -> Kept:
        """Reads a row group, and keeps the training entries of the piece's rows."""
        batch = self.shards.read(piece.shard, piece.group)
        rows = rows_of(piece, len(batch))
        if rows is not None:
            batch = batch.take(pa.array(rows))
        try:
            return store.keep(batch)
        except ValueError as error:
            path = storage.join(self.dataset.url, self.dataset.shards[piece.shard].path)
            raise InputError(f"{path}, row group {piece.group}: {error}: replaced; prepare again") from error

    def _of_block(self, pool: ThreadPoolExecutor, block: _Block, start: Cursor) -> Iterator[_Task]:
        """The minibatches of a block, from a cursor on."""
        if not block.parts:
            return
        rows = Kept.concatenate([part.result() for part in block.parts])
        chosen: list[Chosen] = []
        size = entries = 0
        for one in minibatches(rows.lengths, self.batchifier, self.seed, block.epoch, start, self.worker):
            chosen.append(one)
            size += rows.bytes_of(one.rows, one.entries)
            entries += one.entries
            if entries >= _TASK_ENTRIES:
                yield _Task(size, partial(pool.submit, self._make, block.store, rows, chosen))
                chosen, size, entries = [], 0, 0
        if chosen:
            yield _Task(size, partial(pool.submit, self._make, block.store, rows, chosen))

    def _make(self, store: Store, rows: Kept, chosen: list[Chosen]) -> list[_Waiting]:
        made = []
        for one in chosen:
            pieces = rows.select(one.rows)
            lengths = pieces.lengths
            if one.draws is not None:
                pieces = pieces.sampled(one.draws, one.entries)
                lengths = pieces.lengths[:1] * one.entries
            made.append(_Waiting(store.send(pieces, lengths), one.after))
        return made


class _Waiting(NamedTuple):
    """A minibatch that is on its way to the training device, and the position after it."""

    sent: Sent[SparseRows]
    after: Cursor


class _Task(NamedTuple):
    """So many bytes of minibatches, and what has them made; None at the end of an epoch."""

    size: int
    begin: Callable[[], Future[list[_Waiting]]] | None


class _Ahead:
    """Minibatches that are being made, in order and bounded by bytes, between one producer and one consumer."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begun: queue.SimpleQueue[tuple[int, Future[list[_Waiting]] | None]] = queue.SimpleQueue()
        self._oldest: deque[_Waiting] = deque()
        self._oldest_bytes = self._held = 0
        self._closed = False
        self._changed = threading.Condition()

    def fill(self, tasks: Generator[_Task, None, None]) -> None:
        """Begins all of them, waiting where there is no room; stops when the consumer has closed."""
        try:
            with contextlib.closing(tasks):
                for size, begin in tasks:
                    with self._changed:
                        while not self._closed and self._held and self._held + size > self._max_bytes:
                            self._changed.wait()
                        if self._closed:
                            return
                        self._held += size
                    self._begun.put((size, begin and begin()))
        except BaseException as error:  # the consumer raises it, in its own thread
            failed: Future[list[_Waiting]] = Future()
            failed.set_exception(error)
            self._begun.put((0, failed))

    def take(self) -> _Waiting | None:
        """The next minibatch; None at the end of an epoch."""
        if not self._oldest:
            self._oldest_bytes, begun = self._begun.get()
            if begun is None:
                return None
            self._oldest.extend(begun.result())
        minibatch = self._oldest.popleft()
        if not self._oldest:
            with self._changed:
                self._held -= self._oldest_bytes
                self._changed.notify()
        return minibatch

    def close(self) -> None:
        """Lets the producer end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
