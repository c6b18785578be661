"""PrepareShards: blocks of ratings to the vocabulary and the shards of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.ratings.folds import Folds, TimeShares
from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.transforms.filters import FilterRatings
from nnsparse_stream.transforms.folds import CutTime
from nnsparse_stream.transforms.shards import WriteShards
from nnsparse_stream.transforms.sparsify import SparsifyRatings
from nnsparse_stream.transforms.vocabulary import BuildVocabulary
from nnsparse_stream.transforms.windows import refuse_windows


class PreparedShards(NamedTuple):
    """What `PrepareShards` counted and wrote; `nnsparse_stream.data.assembly.assemble_manifest` takes all of it."""

    #: Integers that sum to the number of ratings that `FilterRatings` left out.
    filtered: beam.PCollection[int]
    #: Where the folds have shares of time: one dictionary, see `CutTime`.
    cut: beam.PCollection[dict[str, Any]] | None
    #: One dictionary, see `BuildVocabulary`.
    vocabulary: beam.PCollection[dict[str, Any]]
    #: One dictionary a shard, see `WriteShards`.
    shards: beam.PCollection[dict[str, Any]]


class PrepareShards(beam.PTransform):
    """Writes all of a data set but its manifest: the four transforms between ratings and shards, as `prepare` has them.

    Args:
        url: the data set's directory.
        axis: "user" or "item", the axis of the rows.
        empty: a block of ratings without rows, for its schema (`InputPlan.empty_block`).
        selection: which ratings stay; see `FilterRatings`.
        folds: as `SparsifyRatings` takes them, or `TimeShares`, for which `CutTime` finds the cut.
        duplicates, num_shards, expected_ratings, describe_pair: see `SparsifyRatings`.
        min_row_ratings, min_column_ratings: rows and columns with fewer ratings are left out.
        base, partitions: see `BuildVocabulary`.

    Returns:
        `PreparedShards`.

    Raises:
        InputError: in a worker: what `SparsifyRatings` raises; when it is applied: the ratings are cut into windows.
        ValueError: the folds go by the rows of the other axis.
    """

    def __init__(
        self,
        url: str,
        axis: str,
        empty: pa.RecordBatch,
        *,
        selection: Selection,
        duplicates: str,
        folds: Folds | TimeShares | None,
        num_shards: int | None,
        min_row_ratings: int,
        min_column_ratings: int,
        expected_ratings: int = 0,
        base: dict[str, Any] | None = None,
        partitions: int = 16,
        describe_pair: Callable[[Any, Any], str] | None = None,
    ) -> None:
        super().__init__()
        self._url, self._axis, self._empty, self._selection = url, axis, empty, selection
        self._duplicates, self._folds, self._num_shards = duplicates, folds, num_shards
        self._min_row_ratings, self._min_column_ratings = min_row_ratings, min_column_ratings
        self._expected_ratings = expected_ratings
        self._base, self._partitions, self._describe_pair = base, partitions, describe_pair

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> PreparedShards:
        """Applies the transform."""
        refuse_windows(self, ratings)
        column = "item" if self._axis == "user" else "user"
        kept = ratings | "FilterRatings" >> FilterRatings(self._selection)
        folds, cut = self._folds, None
        if isinstance(folds, TimeShares):
            folds = cut = kept.ratings | "CutTime" >> CutTime(folds)
        vocabulary = kept.ratings | "BuildVocabulary" >> BuildVocabulary(
            column,
            str(self._empty.schema.field(column).type),
            self._url,
            min_ratings=self._min_column_ratings,
            base=self._base,
            partitions=self._partitions,
        )
        shards = (
            kept.ratings
            | "SparsifyRatings"
            >> SparsifyRatings(
                self._axis,
                vocabulary,
                self._empty,
                duplicates=self._duplicates,
                folds=folds,
                num_shards=self._num_shards,
                min_row_ratings=self._min_row_ratings,
                known_columns_only=self._min_column_ratings > 1,
                expected_ratings=self._expected_ratings,
                describe_pair=self._describe_pair,
            )
            | "WriteShards" >> WriteShards(self._url)
        )
        return PreparedShards(kept.filtered, cut, vocabulary, shards)
