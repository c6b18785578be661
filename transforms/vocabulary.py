"""BuildVocabulary: the distinct column ids of blocks of ratings, counted, ordered, written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream import storage
from nnsparse_stream.dataset import write_vocabulary
from nnsparse_stream.grouping import partition
from nnsparse_stream.vocabulary import Vocabulary, count_ids, merge_counts, order_counts

_PARTS = 16
#: Partial counts are merged when they have this many rows.
_PENDING_ROWS = 1 << 20


class BuildVocabulary(beam.PTransform):
    """Counts the distinct ids of one column of blocks of ratings, and writes the vocabulary.

    Args:
        column: "item" or "user".
        id_type: "int64" or "string"; needed where there is no rating at all.
        url: the data set's directory; the vocabulary goes to `columns/`.

    Returns:
        A PCollection of one dictionary: `url`, `file` (the manifest's entry), `ratings` (the sum of the counts). It is
        made for `AsSingleton`; `load_vocabulary` reads what it names.
    """

    def __init__(self, column: str, id_type: str, url: str) -> None:
        super().__init__()
        self._column, self._id_type, self._url = column, id_type, url

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        counts = (
            ratings
            | "Count" >> beam.ParDo(_CountIds(self._column)).with_output_types(tuple[int, pa.RecordBatch])
            | "By part" >> beam.GroupByKey()
            | "Merge" >> beam.MapTuple(_merge_part).with_output_types(pa.RecordBatch)
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


def _merge_part(part: int, counts: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    return merge_counts(counts)


def _write(_: bytes, url: str, id_type: str, counts: Iterable[pa.RecordBatch]) -> dict[str, Any]:
    kind = pa.int64() if id_type == "int64" else pa.string()
    empty = count_ids(pa.array([], type=kind))
    vocabulary = order_counts(merge_counts([empty, *counts]))
    return {
        "url": url,
        "file": dataclasses.asdict(write_vocabulary(url, vocabulary)),
        "ratings": int(vocabulary.counts.sum()),
    }


def load_vocabulary(built: dict[str, Any]) -> Vocabulary:
    """Reads the vocabulary that `BuildVocabulary` wrote: once a process, however many bundles ask for it."""
    return _load(storage.join(built["url"], built["file"]["path"]), built["file"]["sha256"])


@functools.lru_cache(maxsize=1)
def _load(url: str, sha256: str) -> Vocabulary:
    return Vocabulary.read([url], checksums=[sha256])
