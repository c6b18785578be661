"""AssignFolds: blocks of ratings to blocks with a column fold. CutTime: the times at which shares of them begin."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.data.grouping import fold_block, partition
from nnsparse_stream.ratings.folds import Folds, TimeFolds, TimeShares, folds_from_json
from nnsparse_stream.ratings.reading import cut_block
from nnsparse_stream.ratings.time_counts import TimeCounter, TimeCounts, add_times, count_times
from nnsparse_stream.transforms.windows import refuse_windows

#: Counts of bundles are added up in so many groups, and then those of the groups, so that no group of them is large.
_GROUPS = 64
_KEYED_COUNTS = tuple[int, tuple[int, pa.RecordBatch]]


class AssignFolds(beam.PTransform):
    """Adds to blocks of ratings the column fold (uint8): its place in `nnsparse_stream.ratings.folds.FOLD_NAMES`.

    `prepare` doesn't need it: `SparsifyRatings` assigns the same folds when it has merged duplicates. Here each record
    gets a fold for itself. What follows is `SparsifyRatings(..., folds=None)`, or anything else that takes blocks.

    Args:
        folds: any of `ratings.folds`. The blocks need a column timestamp for those that go by time.
        parts: `LastFolds` and `RowFolds` group the ratings by their row, in so many parts; one holds in a worker's
            memory all ratings of its rows. Take one for every 500,000 ratings.

    Returns:
        A PCollection of blocks, the same for any split and order of the input, but for how they are cut.

    Raises:
        InputError: when it is applied: the folds need all ratings, or all of a row, and these are cut into windows.
    """

    def __init__(self, folds: Folds | TimeShares, parts: int = 16) -> None:
        super().__init__()
        self._folds, self._parts = folds, parts

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Applies the transform."""
        if isinstance(self._folds, TimeShares):
            refuse_windows(self, ratings)
            cut = beam.pvalue.AsSingleton(ratings | CutTime(self._folds))
            return ratings | "Assign" >> beam.Map(_fold_as_cut, cut).with_output_types(pa.RecordBatch)
        if self._folds.row_axis is None:
            return ratings | "Assign" >> beam.Map(fold_block, self._folds).with_output_types(pa.RecordBatch)
        refuse_windows(self, ratings)
        return (
            ratings
            | "Partition"
            >> beam.FlatMap(partition, self._folds.row_axis, self._parts).with_output_types(tuple[int, pa.RecordBatch])
            | "By part" >> beam.GroupByKey()
            | "Assign" >> beam.FlatMap(_fold_part, self._folds).with_output_types(pa.RecordBatch)
        )


class CutTime(beam.PTransform):
    """Finds the times at which shares of all ratings begin.

    Args:
        shares: of the folds; the blocks need a column timestamp.

    Returns:
        A PCollection of one dictionary, the "folds" of a manifest; it is made for `AsSingleton`.

    Raises:
        InputError: when it is applied: the ratings are cut into windows; in a worker: what `TimeShares.cut` raises.
    """

    def __init__(self, shares: TimeShares) -> None:
        super().__init__()
        self._shares = shares

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        refuse_windows(self, ratings)
        none = ratings.pipeline | "Once" >> beam.Impulse() | "None" >> beam.Map(_none).with_output_types(_KEYED_COUNTS)
        counts = ratings | "Count" >> beam.ParDo(_CountTimes()).with_output_types(_KEYED_COUNTS)
        return (
            (counts, none)
            | "Both" >> beam.Flatten()
            | "By group" >> beam.GroupByKey()
            | "Add" >> beam.Map(_add).with_output_types(_KEYED_COUNTS)
            | "All" >> beam.GroupByKey()
            | "Cut" >> beam.Map(_cut, self._shares)
        )


class _CountTimes(beam.DoFn):
    """Counts of the times of a bundle, keyed by what they are, so that a retry sends them to the same group."""

    def start_bundle(self) -> None:
        self._counter = TimeCounter()

    def process(self, ratings: pa.RecordBatch) -> None:
        self._counter.add(count_times(ratings["timestamp"].to_numpy()))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window, counts = GlobalWindow(), self._counter.take()
        key = zlib.crc32(counts[1]["bin"].to_numpy()) % _GROUPS
        yield WindowedValue((key, counts), window.max_timestamp(), [window])


def _none(_: bytes) -> tuple[int, TimeCounts]:
    """So that there are counts where there is no rating."""
    return 0, add_times([])


def _add(keyed: tuple[int, Iterable[TimeCounts]]) -> tuple[int, TimeCounts]:
    return 0, TimeCounter(keyed[1]).take()


def _cut(keyed: tuple[int, Iterable[TimeCounts]], shares: TimeShares) -> dict[str, Any]:
    return shares.cut(TimeCounter(keyed[1]).take()).to_json()


def time_folds(cut: dict[str, Any]) -> TimeFolds:
    """The folds that `CutTime` found."""
    folds = folds_from_json(cut)
    assert isinstance(folds, TimeFolds)
    return folds


def _fold_as_cut(ratings: pa.RecordBatch, cut: dict[str, Any]) -> pa.RecordBatch:
    return fold_block(ratings, time_folds(cut))


def _fold_part(part: tuple[int, Iterable[pa.RecordBatch]], folds: Folds) -> Iterator[pa.RecordBatch]:
    yield from cut_block(fold_block(pa.concat_batches(list(part[1])), folds))
