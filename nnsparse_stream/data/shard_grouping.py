"""One shard's ratings to its rows, in bounded memory however many ratings and duplicates come to the shard.

A shard of too many ratings is cut in parts, which wait in a temporary file. A part has a share of the rows, by their
hash: rows stay whole, as some folds and filters need them. A part that is still too large, for a row of it is heavy, is
cut once more, by columns: the ratings of a pair stay together, and only what merging leaves of them comes together for
the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.data.grouping import cut, filter_rows, group_rows, merge_pairs
from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.ids.vocabulary import Vocabulary, count_ids, keep_frequent, merge_counts
from nnsparse_stream.ratings.folds import Folds
from nnsparse_stream.storage.block_store import BlockStore

#: Bits that number a part: 256 parts hold what is far beyond any shard, and their pieces are not yet tiny.
_PART_BITS = 8
#: Ratings that are cut at once.
_CUT_BYTES = 16 << 20


@dataclass(frozen=True)
class ShardGrouping:
    """How the ratings of a shard become rows; see `nnsparse_stream.data.grouping.group_rows` and `filter_rows`.

    Attributes:
        axis: "user" or "item", the axis of the rows.
        vocabulary: of the column axis.
        duplicates: one of `nnsparse_stream.data.grouping.DUPLICATES`.
        folds: None where the ratings have a column fold.
        min_row_ratings: rows with fewer ratings, duplicates included, are left out.
        most_ratings: a shard with more is grouped in parts. The rows are the same.
    """

    axis: str
    vocabulary: Vocabulary
    duplicates: str
    folds: Folds | None
    min_row_ratings: int
    most_ratings: int

    def group(self, blocks: Iterable[pa.RecordBatch]) -> tuple[pa.RecordBatch, int, int]:
        """Makes one shard.

        Args:
            blocks: encoded blocks that together hold every rating of their rows; at least one, maybe empty. They are
                gone through once; those held have `most_ratings`, or one block more.

        Returns:
            The rows, as `group_rows` gives them; how many ratings were merged away; and how many were left out.

        Raises:
            DuplicateRatingError: a pair occurs more than once and the policy is "error"; it names one such pair.
            InputError: the temporary file cannot be written.
        """
        held: list[pa.RecordBatch] = []
        ratings = 0
        following = iter(blocks)
        for block in following:
            held.append(block)
            ratings += len(block)
            if ratings > self.most_ratings:
                every, held = chain(held, following), []  # a chain lets go of what it is through with
                return self._in_parts(every)
        return self._at_once(held)

    def _at_once(self, blocks: list[pa.RecordBatch]) -> tuple[pa.RecordBatch, int, int]:
        block, filtered = filter_rows(blocks, self.min_row_ratings)
        blocks.clear()  # `block` is a copy of them
        return *group_rows([block], self.axis, self.vocabulary, self.duplicates, self.folds), filtered

    def _in_parts(self, blocks: Iterable[pa.RecordBatch]) -> tuple[pa.RecordBatch, int, int]:
        with closing(BlockStore(memory_bytes=0)) as store:
            grouped = []
            for part in _spread(blocks, _part_of_rows, store):
                small = part.ratings <= self.most_ratings
                grouped.append(self._at_once(list(part.blocks())) if small else self._by_columns(part, store))
        shares, merged, filtered = zip(*grouped, strict=True)
        rows = pa.concat_batches(shares)
        del grouped, shares
        return rows.take(pc.sort_indices(rows["row"])), sum(merged), sum(filtered)

    def _by_columns(self, part: _Part, store: BlockStore) -> tuple[pa.RecordBatch, int, int]:
        frequent = None
        if self.min_row_ratings > 1:
            counts = merge_counts(count_ids(block["row"]) for block in part.blocks())
            frequent = keep_frequent(counts, self.min_row_ratings)["id"]
        pairs, merged, filtered = [], 0, 0
        for some_columns in _spread(part.blocks(), _part_of_columns, store):
            block, _ = filter_rows(list(some_columns.blocks()))
            if frequent is not None:
                block = block.filter(pc.is_in(block["row"], frequent))
            filtered += some_columns.ratings - len(block)
            block, duplicates = merge_pairs(block, self.axis, self.vocabulary, self.duplicates)
            merged += duplicates
            pairs.append(block)
        block = pa.concat_batches(pairs)
        pairs.clear()
        # Nothing is left to merge: an entry that was counted must not be counted again.
        rows, _ = group_rows([block], self.axis, self.vocabulary, "error", self.folds)
        return rows, merged, filtered


@dataclass
class _Part:
    """Ratings that wait in a store."""

    store: BlockStore
    tickets: list[int] = field(default_factory=list)
    ratings: int = 0

    def put(self, block: pa.RecordBatch) -> None:
        self.tickets.append(self.store.put(block))
        self.ratings += len(block)

    def blocks(self) -> Iterator[pa.RecordBatch]:
        return map(self.store.get, self.tickets)


def _spread(
    blocks: Iterable[pa.RecordBatch], part_of: Callable[[pa.RecordBatch], np.ndarray], store: BlockStore
) -> list[_Part]:
    """Cuts blocks in parts, those without a rating left out; a part's ratings keep their order."""
    parts = [_Part(store) for _ in range(1 << _PART_BITS)]
    for block in _joined(blocks):
        for part, piece in cut(block, part_of(block)):
            parts[part].put(piece)
    return [part for part in parts if part.ratings]


def _joined(blocks: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Joins blocks to larger ones, so that their pieces do not become tiny."""
    pending: list[pa.RecordBatch] = []
    size = 0
    for block in blocks:
        pending.append(block)
        size += block.nbytes
        if size >= _CUT_BYTES:
            yield pa.concat_batches(pending)
            pending, size = [], 0
    if pending:
        yield pa.concat_batches(pending)


def _part_of_rows(block: pa.RecordBatch) -> np.ndarray:
    """The highest bits of the rows' hashes, uint8 (n,); the remainders chose the shard, and are alike."""
    return (hash_ids(block["row"]) >> np.uint64(64 - _PART_BITS)).astype(np.uint8)


def _part_of_columns(block: pa.RecordBatch) -> np.ndarray:
    """The lowest bits of the columns, uint8 (n,); columns go by frequency, so each part has some of the frequent."""
    return block["column"].to_numpy().astype(np.uint8)
