"""FilterByTime: the ratings of a range of time, and how many were not in it."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from nnsparse_stream.ratings.times import TimeRange


class FilterByTime(beam.PTransform):
    """Lets ratings of a range of time pass.

    The other filters need counts, and are where these are: `BuildVocabulary(min_ratings=...)` and
    `SparsifyRatings(min_row_ratings=...)`.

    Args:
        times: the range; the blocks need a column timestamp unless it is without bounds.

    Returns:
        Two PCollections: `ratings`, blocks; and `filtered`, integers that sum to the number of ratings left out.
    """

    def __init__(self, times: TimeRange) -> None:
        super().__init__()
        self._times = times

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform."""
        return ratings | "Filter" >> beam.ParDo(_FilterByTime(self._times)).with_output_types(
            pa.RecordBatch
        ).with_outputs("filtered", main="ratings")


class _FilterByTime(beam.DoFn):
    def __init__(self, times: TimeRange) -> None:
        self._times = times
        self._counter = Metrics.counter("ratings", "filtered")

    def process(self, ratings: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        kept = self._times.filter(ratings)
        filtered = len(ratings) - len(kept)
        if filtered:
            self._counter.inc(filtered)
            yield beam.pvalue.TaggedOutput("filtered", filtered)
        if len(kept):
            yield kept
