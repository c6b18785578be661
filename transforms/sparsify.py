"""SparsifyRatings: blocks of ratings to shards of sparse rows."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.data.grouping import encode_block, partition
from nnsparse_stream.data.shard_grouping import ShardGrouping
from nnsparse_stream.data.shard_steps import (
    PARTITIONED_BYTES,
    RATINGS_AT_ONCE,
    group_shard,
    shard_count,
)
from nnsparse_stream.data.vocabulary_files import load_vocabulary
from nnsparse_stream.ratings.folds import Folds, HashFolds
from nnsparse_stream.ratings.reading import cut_block
from nnsparse_stream.transforms.folds import time_folds
from nnsparse_stream.transforms.windows import refuse_windows

#: From so many ratings on they are partitioned twice: with 2,000 shards, a piece of once has 10 kB.
_TWICE_FROM = 1_000_000_000
_RATINGS_PER_KEY = 1_000_000


class SparsifyRatings(beam.PTransform):
    """Groups ratings to sparse rows, a shard at a time: shard = hash of the row id % shards.

    The shards do not depend on how the ratings were split into blocks, or on their order.

    Args:
        axis: "user" or "item", the axis of the rows.
        vocabulary: what `BuildVocabulary` returned for the other axis.
        empty: a block of ratings without rows, for its schema (`InputPlan.empty_block`).
        duplicates: one of `nnsparse_stream.data.grouping.DUPLICATES`; see `group_rows` there.
        folds: how to fold, or what `CutTime` returned; None where the blocks have a column fold (`AssignFolds` adds
            one).
        num_shards: by default, as many as hold `nnsparse_stream.data.shard_steps.RATINGS_PER_SHARD` ratings each.
        min_row_ratings: rows with fewer records, duplicates included, are left out.
        expected_ratings: about how many ratings come. From `_TWICE_FROM` on they are partitioned twice, first to groups
            of shards, so that what is sent does not become tiny; the shards are the same.
        known_columns_only: whether ratings of columns that are not in the vocabulary are left out; else they fail the
            run. They count as ratings of their row all the same.
        describe_pair: says where a user's and an item's duplicate ratings are, for the error's message.

    Returns:
        A PCollection of the fields of a `nnsparse_stream.data.shard_steps.GroupedShard`, one element a shard.

    Raises:
        InputError: in a worker, where a pair is rated more than once and the policy is "error"; or when it is applied,
            where the ratings are cut into windows.
        ValueError: the folds go by the rows of the other axis.
    """

    def __init__(
        self,
        axis: str,
        vocabulary: beam.PCollection[dict[str, Any]],
        empty: pa.RecordBatch,
        *,
        duplicates: str = "error",
        folds: Folds | beam.PCollection[dict[str, Any]] | None = HashFolds(),  # noqa: B008 (immutable)
        num_shards: int | None = None,
        min_row_ratings: int = 1,
        known_columns_only: bool = False,
        expected_ratings: int = 0,
        describe_pair: Callable[[Any, Any], str] | None = None,
    ) -> None:
        super().__init__()
        self._cut = folds if isinstance(folds, beam.PCollection) else None
        folds = None if isinstance(folds, beam.PCollection) else folds
        if folds and folds.row_axis not in (None, axis):
            raise ValueError(f"{folds} need the rows of the other axis, and the rows are of the axis {axis!r}")
        self._axis = axis
        self._vocabulary = vocabulary
        self._empty = empty
        self._duplicates = duplicates
        self._folds = folds
        self._num_shards = num_shards
        self._min_row_ratings = min_row_ratings
        self._known_columns_only = known_columns_only
        self._twice = expected_ratings >= _TWICE_FROM
        self._describe_pair = describe_pair

    def expand(
        self, ratings: beam.PCollection[pa.RecordBatch]
    ) -> beam.PCollection[tuple[int, int, pa.RecordBatch, int, int]]:
        """Applies the transform."""
        refuse_windows(self, ratings)
        vocabulary = beam.pvalue.AsSingleton(self._vocabulary)
        keyed = ratings | "Partition" >> beam.ParDo(
            _Partition(self._axis, self._num_shards, self._known_columns_only, self._twice), vocabulary
        ).with_output_types(tuple[int, pa.RecordBatch])
        if self._twice:
            keyed = (
                keyed
                | "By group of shards" >> beam.GroupByKey()
                | "Partition again"
                >> beam.FlatMap(_partition_again, self._num_shards, vocabulary).with_output_types(
                    tuple[int, pa.RecordBatch]
                )
            )
        # Every shard has a key, so that one without a row is written too.
        empty = (
            ratings.pipeline
            | "Once" >> beam.Impulse()
            | "Empty shards"
            >> beam.FlatMap(_empty_shards, self._axis, self._empty, self._num_shards, vocabulary).with_output_types(
                tuple[int, pa.RecordBatch]
            )
        )
        group = _GroupRows(
            self._axis, self._duplicates, self._folds, self._num_shards, self._min_row_ratings, self._describe_pair
        )
        return (
            (keyed, empty)
            | "Both" >> beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Group"
            >> beam.ParDo(
                group, vocabulary, None if self._cut is None else beam.pvalue.AsSingleton(self._cut)
            ).with_output_types(tuple[int, int, pa.RecordBatch, int, int])
        )


class _Partition(beam.DoFn):
    """Encodes and partitions several blocks at once, so that the pieces do not become tiny where shards are many."""

    def __init__(self, axis: str, num_shards: int | None, known_columns_only: bool, twice: bool) -> None:
        self._axis, self._num_shards, self._known_columns_only = axis, num_shards, known_columns_only
        self._twice = twice
        self._block_bytes = Metrics.distribution("ratings", "shuffled_block_bytes")

    def start_bundle(self) -> None:
        self._pending: list[pa.RecordBatch] = []
        self._bytes = 0
        self._built: dict[str, Any] = {}

    def process(self, ratings: pa.RecordBatch, vocabulary: dict[str, Any]) -> Iterator[tuple[int, pa.RecordBatch]]:
        self._built = vocabulary
        self._pending.append(ratings)
        self._bytes += ratings.nbytes
        if self._bytes >= PARTITIONED_BYTES:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for keyed in self._flush() if self._pending else ():
            yield WindowedValue(keyed, window.max_timestamp(), [window])

    def _flush(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        shards = shard_count(self._built["ratings"], self._num_shards)
        block = pa.concat_batches(self._pending)
        self._pending, self._bytes = [], 0
        block = encode_block(block, self._axis, load_vocabulary(self._built), self._known_columns_only)
        together, keys = _groups(self._built["ratings"], shards) if self._twice else (1, 1)
        # By what it holds, so that a retry sends it to the same key.
        key = zlib.crc32(block["column"].to_numpy()) % keys
        for part, piece in partition(block, "row", shards, together):
            for slice_ in cut_block(piece):
                self._block_bytes.update(slice_.nbytes)
                yield part * keys + key, slice_


def _groups(ratings: int, shards: int) -> tuple[int, int]:
    """How many shards make a group, and under how many keys the ratings of a group are sent: each has some 16 MB."""
    together = math.isqrt(shards - 1) + 1
    return together, max(1, ratings * together // shards // _RATINGS_PER_KEY)


def _partition_again(
    keyed: tuple[int, Iterable[pa.RecordBatch]], num_shards: int | None, vocabulary: dict[str, Any]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    block = pa.concat_batches(list(keyed[1]))
    for shard, piece in partition(block, "row", shard_count(vocabulary["ratings"], num_shards)):
        for slice_ in cut_block(piece):
            yield shard, slice_


def _empty_shards(
    _: bytes, axis: str, empty: pa.RecordBatch, num_shards: int | None, vocabulary: dict[str, Any]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    block = encode_block(empty, axis, load_vocabulary(vocabulary))
    for shard in range(shard_count(vocabulary["ratings"], num_shards)):
        yield shard, block


class _GroupRows(beam.DoFn):
    def __init__(
        self,
        axis: str,
        duplicates: str,
        folds: Folds | None,
        num_shards: int | None,
        min_row_ratings: int,
        describe_pair: Callable[[Any, Any], str] | None,
    ) -> None:
        self._axis, self._duplicates, self._folds = axis, duplicates, folds
        self._num_shards, self._min_row_ratings, self._describe_pair = num_shards, min_row_ratings, describe_pair
        self._filtered_counter = Metrics.counter("ratings", "filtered")
        self._merged_counter = Metrics.counter("ratings", "duplicates")

    def process(
        self, keyed: tuple[int, Iterable[pa.RecordBatch]], vocabulary: dict[str, Any], cut: dict[str, Any] | None
    ) -> Iterator[tuple[int, int, pa.RecordBatch, int, int]]:
        shard, blocks = keyed
        shards = shard_count(vocabulary["ratings"], self._num_shards)
        grouping = ShardGrouping(
            self._axis,
            load_vocabulary(vocabulary),
            self._duplicates,
            time_folds(cut) if cut else self._folds,
            self._min_row_ratings,
            RATINGS_AT_ONCE,
        )
        grouped = group_shard(shard, shards, blocks, grouping, self._describe_pair)
        self._filtered_counter.inc(grouped.filtered)
        self._merged_counter.inc(grouped.merged)
        yield tuple(grouped)
