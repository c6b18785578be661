"""BuildVocabulary: the distinct column ids of blocks of ratings, counted, ordered, written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream import storage
from nnsparse_stream.dataset import write_vocabulary
from nnsparse_stream.grouping import partition
from nnsparse_stream.vocabulary import Vocabulary, count_ids, keep_frequent, merge_counts, order_counts

_PARTS = 16
#: Partial counts are merged when they have this many rows.
_PENDING_ROWS = 1 << 20


class BuildVocabulary(beam.PTransform):
    """Counts the distinct ids of one column of blocks of ratings, and writes the vocabulary.

    Args:
        column: "item" or "user".
        id_type: "int64" or "string"; needed where there is no rating at all.
        url: the data set's directory; the vocabulary goes to `columns/`.
        min_ratings: ids with fewer records are left out.

    Returns:
        A PCollection of one dictionary: `url`, `file` (the manifest's entry), `ratings` (counted, those of ids that are
        left out too). It is made for `AsSingleton`; `load_vocabulary` reads what it names.
    """

    def __init__(self, column: str, id_type: str, url: str, min_ratings: int = 1) -> None:
        super().__init__()
        self._column, self._id_type, self._url, self._min_ratings = column, id_type, url, min_ratings

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        counts = (
            ratings
            | "Count" >> beam.ParDo(_CountIds(self._column)).with_output_types(tuple[int, pa.RecordBatch])
            | "By part" >> beam.GroupByKey()
            | "Merge" >> beam.Map(_merge_part, self._min_ratings).with_output_types(tuple[pa.RecordBatch, int])
        )
        return (
            ratings.pipeline
            | "Once" >> beam.Impulse()
            | "Write" >> beam.Map(_write, self._url, self._id_type, beam.pvalue.AsIter(counts))
        )


class _CountIds(beam.DoFn):
    def __init__(self, column: str) -> None:
        self._column = column

    def start_bundle(self) -> None:
        self._pending: list[pa.RecordBatch] = []
        self._rows = 0

    def process(self, ratings: pa.RecordBatch) -> None:
        counts = count_ids(ratings[self._column])
        self._pending.append(counts)
        self._rows += len(counts)
        if self._rows >= _PENDING_ROWS:
            self._pending = [merge_counts(self._pending)]
            # Doubling where the ids are all distinct keeps merging linear.
            self._rows = len(self._pending[0]) // 2

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._pending:
            window = GlobalWindow()
            for part in partition(merge_counts(self._pending), "id", _PARTS):
                yield WindowedValue(part, window.max_timestamp(), [window])


def _merge_part(part: tuple[int, Iterable[pa.RecordBatch]], min_ratings: int) -> tuple[pa.RecordBatch, int]:
    """The ids of one part that have enough ratings, with their counts; and the ratings of all ids of it."""
    merged = merge_counts(part[1])
    return keep_frequent(merged, min_ratings), pc.sum(merged["count"]).as_py()


def _write(_: bytes, url: str, id_type: str, parts: Iterable[tuple[pa.RecordBatch, int]]) -> dict[str, Any]:
    kind = pa.int64() if id_type == "int64" else pa.string()
    empty = count_ids(pa.array([], type=kind))
    merged = [(empty, 0), *parts]
    vocabulary = order_counts(merge_counts(counts for counts, _ in merged))
    return {
        "url": url,
        "file": dataclasses.asdict(write_vocabulary(url, vocabulary)),
        "ratings": sum(ratings for _, ratings in merged),
    }


def load_vocabulary(built: dict[str, Any]) -> Vocabulary:
    """Reads the vocabulary that `BuildVocabulary` wrote: once a process, however many bundles ask for it."""
    return _load(storage.join(built["url"], built["file"]["path"]), built["file"]["sha256"])


@functools.lru_cache(maxsize=1)
def _load(url: str, sha256: str) -> Vocabulary:
    return Vocabulary.read([url])
