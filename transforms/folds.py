"""AssignFolds: blocks of ratings to blocks with a column fold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.grouping import fold_block, partition
from nnsparse_stream.ratings.folds import Folds
from nnsparse_stream.ratings.reading import cut_block
from nnsparse_stream.transforms.windows import refuse_windows


class AssignFolds(beam.PTransform):
    """Adds to blocks of ratings the column fold (uint8): 0 train, 1 validation, 2 test.

    `prepare` doesn't need it: `SparsifyRatings` assigns the same folds when it has merged duplicates. Here each record
    gets a fold for itself. What follows is `SparsifyRatings(..., folds=None)`, or anything else that takes blocks.

    Args:
        folds: `HashFolds`, `TimeFolds` or `LastFolds` of `ratings.folds`. The blocks need a column timestamp
            for all but the first.
        parts: `LastFolds` groups the ratings by their row, in so many parts; one holds in a worker's memory all ratings
            of its rows. Take one for every 500,000 ratings.

    Returns:
        A PCollection of blocks, the same for any split and order of the input, but for how they are cut.

    Raises:
        InputError: when it is applied: the folds need all ratings of a row, and these are cut into windows.
    """

    def __init__(self, folds: Folds, parts: int = 16) -> None:
        super().__init__()
        self._folds, self._parts = folds, parts

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        """Applies the transform."""
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


def _fold_part(part: tuple[int, Iterable[pa.RecordBatch]], folds: Folds) -> Iterator[pa.RecordBatch]:
    yield from cut_block(fold_block(pa.concat_batches(list(part[1])), folds))
