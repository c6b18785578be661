"""SparsifyRatings: blocks of ratings to shards of sparse rows."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.data.grouping import DuplicateRatingError, encode_block, partition
from nnsparse_stream.data.shard_grouping import ShardGrouping
from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.folds import Folds, HashFolds
from nnsparse_stream.ratings.reading import cut_block
from nnsparse_stream.transforms import in_process
from nnsparse_stream.transforms.vocabulary import load_vocabulary

#: Ratings of one shard, by default. At 16 to 24 bytes a rating, what is grouped under one key stays near 10 MB, which
#: every engine sorts in memory.
RATINGS_PER_SHARD = 500_000
#: Ratings that are grouped at once, at some 100 bytes each with what sorting takes. A shard has more where a row is
#: heavy or few shards were asked for; it is grouped in parts.
_RATINGS_AT_ONCE = 1 << 21
#: Ratings that are partitioned at once.
_PENDING_BYTES = 24 << 20
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
        duplicates: "error", "first", "last" or "mean"; see `nnsparse_stream.data.grouping.group_rows`.
        folds: how to fold, or None where the blocks have a column fold (`AssignFolds` adds one).
        num_shards: by default, as many as hold `RATINGS_PER_SHARD` ratings each.
        min_row_ratings: rows with fewer records, duplicates included, are left out.
        expected_ratings: about how many ratings come. From `_TWICE_FROM` on they are partitioned twice, first to groups
            of shards, so that what is sent does not become tiny; the shards are the same.
        known_columns_only: whether ratings of columns that are not in the vocabulary are left out; else they fail the
            run. They count as ratings of their row all the same.
        describe_pair: says where a user's and an item's duplicate ratings are, for the error's message.

    Returns:
        A PCollection of (shard, number of shards, rows, ratings merged away, ratings left out), one element a shard.

    Raises:
        InputError: in a worker, where a pair is rated more than once and the policy is "error".
        ValueError: the folds go by the rows of the other axis.
    """

    def __init__(
        self,
        axis: str,
        vocabulary: beam.PCollection[dict[str, Any]],
        empty: pa.RecordBatch,
        *,
        duplicates: str = "error",
        folds: Folds | None = HashFolds(),  # noqa: B008 (immutable)
        num_shards: int | None = None,
        min_row_ratings: int = 1,
        known_columns_only: bool = False,
        expected_ratings: int = 0,
        describe_pair: Callable[[Any, Any], str] | None = None,
    ) -> None:
        super().__init__()
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
            | "Group" >> beam.ParDo(group, vocabulary).with_output_types(tuple[int, int, pa.RecordBatch, int, int])
        )


def shard_count(ratings: int, wanted: int | None) -> int:
    """The number of shards: the one wanted, or one for every `RATINGS_PER_SHARD` ratings."""
    return wanted or max(1, -(-ratings // RATINGS_PER_SHARD))


class _Partition(beam.DoFn):
    """Encodes and partitions several blocks at once, so that the pieces do not become tiny where shards are many."""

    def __init__(self, axis: str, num_shards: int | None, known_columns_only: bool, twice: bool) -> None:
        self._axis, self._num_shards, self._known_columns_only = axis, num_shards, known_columns_only
        self._twice = twice
        self._block_bytes = Metrics.distribution("ratings", "shuffled_block_bytes")

    def start_bundle(self) -> None:
        self._ahead = in_process.ahead()
        self._pending: list[pa.RecordBatch] = []
        self._bytes = 0
        self._built: dict[str, Any] = {}

    def process(self, ratings: pa.RecordBatch, vocabulary: dict[str, Any]) -> Iterator[tuple[int, pa.RecordBatch]]:
        self._built = vocabulary
        self._pending.append(ratings)
        self._bytes += ratings.nbytes
        if self._bytes >= _PENDING_BYTES:
            yield from self._measured(self._flush())

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        rest = self._flush() if self._pending else ()
        for keyed in itertools.chain(self._measured(rest), self._measured(self._ahead.finish())):
            yield WindowedValue(keyed, window.max_timestamp(), [window])

    def _flush(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        pieces = self._pieces(self._pending, self._built)
        self._pending, self._bytes = [], 0
        return self._ahead.start(pieces)

    def _pieces(self, blocks: list[pa.RecordBatch], built: dict[str, Any]) -> Iterator[tuple[int, pa.RecordBatch]]:
        vocabulary = load_vocabulary(built)
        shards = shard_count(built["ratings"], self._num_shards)
        encoded = (encode_block(block, self._axis, vocabulary, self._known_columns_only) for block in blocks)
        block = pa.concat_batches(list(encoded))
        blocks.clear()  # the pieces may be taken slowly
        together, keys = _groups(built["ratings"], shards) if self._twice else (1, 1)
        # By what it holds, so that a retry sends it to the same key.
        key = zlib.crc32(block["column"].to_numpy()) % keys
        pieces = partition(block, "row", shards, together)
        del block
        for part, piece in pieces:
            for slice_ in cut_block(piece):
                yield part * keys + key, slice_

    def _measured(self, pieces: Iterable[tuple[int, pa.RecordBatch]]) -> Iterator[tuple[int, pa.RecordBatch]]:
        for shard, piece in pieces:
            self._block_bytes.update(piece.nbytes)
            yield shard, piece


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

    def start_bundle(self) -> None:
        self._ahead = in_process.ahead()

    def process(
        self, keyed: tuple[int, Iterable[pa.RecordBatch]], vocabulary: dict[str, Any]
    ) -> Iterator[tuple[int, int, pa.RecordBatch, int, int]]:
        return self._counted(self._ahead.start(self._group(keyed, vocabulary)))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for shard in self._counted(self._ahead.finish()):
            yield WindowedValue(shard, window.max_timestamp(), [window])

    def _group(
        self, keyed: tuple[int, Iterable[pa.RecordBatch]], vocabulary: dict[str, Any]
    ) -> Iterator[tuple[int, int, pa.RecordBatch, int, int]]:
        shard, blocks = keyed
        grouping = ShardGrouping(
            self._axis,
            load_vocabulary(vocabulary),
            self._duplicates,
            self._folds,
            self._min_row_ratings,
            _RATINGS_AT_ONCE,
        )
        try:
            rows, merged, filtered = grouping.group(blocks)
        except DuplicateRatingError as error:
            where = f": {self._describe_pair(error.user, error.item)}" if self._describe_pair else ""
            raise InputError(f"{error}{where}; pass `duplicates` first, last or mean, or remove one") from error
        yield shard, shard_count(vocabulary["ratings"], self._num_shards), rows, merged, filtered

    def _counted(
        self, shards: Iterable[tuple[int, int, pa.RecordBatch, int, int]]
    ) -> Iterator[tuple[int, int, pa.RecordBatch, int, int]]:
        for shard in shards:
            *_, merged, filtered = shard
            self._filtered_counter.inc(filtered)
            self._merged_counter.inc(merged)
            yield shard
