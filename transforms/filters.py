"""FilterRatings: the ratings of a range of time, or that are interactions, and how many were left out."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from nnsparse_stream.ratings.selection import Selection


class FilterRatings(beam.PTransform):
    """Lets those ratings pass that a selection chooses, each by itself.

    The other filters need counts, and are where these are: `BuildVocabulary(min_ratings=...)` and
    `SparsifyRatings(min_row_ratings=...)`.

    Args:
        selection: which; the blocks need a column timestamp where it has a bound of time.

    Returns:
        Two PCollections: `ratings`, blocks; and `filtered`, integers that sum to the number of ratings left out.
    """

    def __init__(self, selection: Selection) -> None:
        super().__init__()
        self._selection = selection

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform."""
        return ratings | "Filter" >> beam.ParDo(_Filter(self._selection)).with_output_types(
            pa.RecordBatch
        ).with_outputs("filtered", main="ratings")


class _Filter(beam.DoFn):
    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._counter = Metrics.counter("ratings", "filtered")

    def process(self, ratings: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        kept = self._selection.filter(ratings)
        filtered = len(ratings) - len(kept)
        if filtered:
            self._counter.inc(filtered)
            yield beam.pvalue.TaggedOutput("filtered", filtered)
        if len(kept):
            yield kept
