"""BuildVocabulary: the distinct column ids of blocks of ratings, counted, ordered, written."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.data.dataset import Manifest, write_columns
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.ids.mapped_lookup import open_vocabulary
from nnsparse_stream.ids.vocabulary import (
    Vocabulary,
    columns_table,
    count_ids,
    keep_frequent,
    merge_counts,
    sort_counts,
)
from nnsparse_stream.ids.vocabulary_parts import (
    count_known,
    cut_counts,
    cut_known,
    cut_points,
    part_count,
    sample_counts,
)
from nnsparse_stream.ratings.reading import cut_block
from nnsparse_stream.storage import files as storage
from nnsparse_stream.transforms import in_process

#: Ids that are counted at once.
_COUNTED_ROWS = 1 << 20
#: Partial counts are merged when they have this many rows.
_PENDING_ROWS = 1 << 20
_KEYED_COUNTS = tuple[int, pa.RecordBatch]


class BuildVocabulary(beam.PTransform):
    """Counts the distinct ids of one column of blocks of ratings, and writes the vocabulary.

    The order is by count, the largest first, then by id. No worker holds all ids, unless they are as few as one part
    holds (`ids.vocabulary_parts.PART_IDS`): counts are merged by a hash of the id, then sorted by ranges of
    the order, which a sample of the ids cuts; a part's indices begin where the parts before it end.

    Args:
        column: "item" or "user".
        id_type: "int64" or "string"; needed where there is no rating at all.
        url: the data set's directory; the vocabulary goes to `columns/`.
        min_ratings: ids with fewer records are left out; not with `base`, whose ids all stay.
        base: an earlier vocabulary, as this transform returns one: its ids keep their indices, new ones come after.
        partitions: how many ways the counts are merged. A worker merges one at a time.

    Returns:
        A PCollection of one dictionary: `url`, `files` (the manifest's entries), `ratings` (counted, those of ids that
        are left out too). It is made for `AsSingleton`; `load_vocabulary` reads what it names.
    """

    def __init__(
        self,
        column: str,
        id_type: str,
        url: str,
        *,
        min_ratings: int = 1,
        base: dict[str, Any] | None = None,
        partitions: int = 16,
    ) -> None:
        super().__init__()
        self._column, self._id_type, self._url = column, id_type, url
        self._min_ratings, self._base, self._partitions = min_ratings, base, partitions

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        empty = count_ids(pa.array([], type=pa.int64() if self._id_type == "int64" else pa.string()))
        pipeline = ratings.pipeline
        merged = (
            ratings
            | "Count" >> beam.ParDo(_CountIds(self._column, self._partitions)).with_output_types(_KEYED_COUNTS)
            | "By part" >> beam.GroupByKey()
            | "Merge"
            >> beam.ParDo(_MergePart(self._min_ratings, self._base))
            .with_output_types(pa.RecordBatch, counted=int, samples=_KEYED_COUNTS)
            .with_outputs("counted", "samples", main="counts")
        )
        planned = (
            pipeline
            # An impulse for each that is needed once: what it starts is fused to one stage, and these wait for others.
            | "Once" >> beam.Impulse()
            | "Layout"
            >> beam.ParDo(_Layout(empty, self._base), beam.pvalue.AsIter(merged.samples))
            .with_output_types(_KEYED_COUNTS, parts=_KEYED_COUNTS)
            .with_outputs("parts", main="layout")
        )
        layout = beam.pvalue.AsSingleton(planned.layout)
        ranges = merged.counts | "Cut" >> beam.ParDo(_Cut(self._base), layout).with_output_types(
            _KEYED_COUNTS
        ).with_outputs("sizes", main="counts")
        sizes = beam.pvalue.AsList(ranges.sizes)
        files = (
            (ranges.counts, planned.parts)
            | "Both" >> beam.Flatten()
            | "By range" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write_part, self._url, self._base, layout, sizes)
        )
        return (
            pipeline
            | "Once at the end" >> beam.Impulse()
            | "Built" >> beam.Map(_built, self._url, beam.pvalue.AsIter(files), beam.pvalue.AsIter(merged.counted))
        )


class _CountIds(beam.DoFn):
    def __init__(self, column: str, partitions: int) -> None:
        self._column, self._partitions = column, partitions

    def start_bundle(self) -> None:
        self._ahead = in_process.ahead()
        self._ids: list[pa.Array] = []
        self._counts: list[pa.RecordBatch] = []
        self._rows = 0

    def process(self, ratings: pa.RecordBatch) -> None:
        self._ids.append(ratings[self._column])
        if sum(map(len, self._ids)) >= _COUNTED_ROWS:
            for counts in self._ahead.start(_count(self._ids)):
                self._add(counts)
            self._ids = []

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for counts in itertools.chain(self._ahead.finish(), _count(self._ids)):
            self._add(counts)
        if self._counts:
            window = GlobalWindow()
            for part, counts in partition(merge_counts(self._counts), "id", self._partitions):
                for block in cut_block(counts):
                    yield WindowedValue((part, block), window.max_timestamp(), [window])

    def _add(self, counts: pa.RecordBatch) -> None:
        self._counts.append(counts)
        self._rows += len(counts)
        if self._rows >= _PENDING_ROWS:
            self._counts = [merge_counts(self._counts)]
            # Doubling where the ids are all distinct keeps merging linear.
            self._rows = len(self._counts[0]) // 2


def _count(ids: list[pa.Array]) -> Iterator[pa.RecordBatch]:
    if ids:
        yield count_ids(pa.chunked_array(ids))


class _MergePart(beam.DoFn):
    """The ids of one part that have enough ratings, with their counts.

    Beside them: the ratings of all its ids; and (number, sample) of those ids that an earlier vocabulary has not.
    """

    def __init__(self, min_ratings: int, base: dict[str, Any] | None) -> None:
        self._min_ratings, self._base = min_ratings, base

    def process(
        self, part: tuple[int, Iterable[pa.RecordBatch]]
    ) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        merged = merge_counts(part[1])
        kept = keep_frequent(merged, self._min_ratings)
        yield kept
        yield beam.pvalue.TaggedOutput("counted", sum(merged["count"].to_numpy().tolist()))
        new = cut_known(kept, load_vocabulary(self._base))[1] if self._base else kept
        yield beam.pvalue.TaggedOutput("samples", (len(new), sample_counts(new)))


class _Layout(beam.DoFn):
    """The number of parts, and the points at which the order of the new ids is cut.

    Beside it: every part with no counts, so that one without an id is written too.
    """

    def __init__(self, empty: pa.RecordBatch, base: dict[str, Any] | None) -> None:
        self._empty, self._base = empty, base

    def process(
        self, _: bytes, samples: Iterable[tuple[int, pa.RecordBatch]]
    ) -> Iterator[tuple[int, pa.RecordBatch] | beam.pvalue.TaggedOutput]:
        found = list(samples)
        new, known = sum(rows for rows, _ in found), len(load_vocabulary(self._base)) if self._base else 0
        points = cut_points([self._empty, *(sample for _, sample in found)], new, known)
        parts = part_count(known) + (len(points) + 1 if new or not known else 0)
        yield parts, points
        for part in range(parts):
            yield beam.pvalue.TaggedOutput("parts", (part, self._empty))


class _Cut(beam.DoFn):
    """Counts by part of the vocabulary: first the parts of the earlier one, then those of the order of new ids."""

    def __init__(self, base: dict[str, Any] | None) -> None:
        self._base = base

    def process(
        self, counts: pa.RecordBatch, layout: tuple[int, pa.RecordBatch]
    ) -> Iterator[tuple[int, pa.RecordBatch] | beam.pvalue.TaggedOutput]:
        known: list[tuple[int, pa.RecordBatch]] = []
        before = 0
        if self._base:
            base = load_vocabulary(self._base)
            known, counts = cut_known(counts, base)
            before = part_count(len(base))
        new = [(before + part, block) for part, block in cut_counts(counts, layout[1])]
        for part, block in [*known, *new]:
            yield beam.pvalue.TaggedOutput("sizes", (part, len(block)))
            for piece in cut_block(block):
                yield part, piece


def _write_part(
    keyed: tuple[int, Iterable[pa.RecordBatch]],
    url: str,
    base: dict[str, Any] | None,
    layout: tuple[int, pa.RecordBatch],
    sizes: list[tuple[int, int]],
) -> dict[str, Any]:
    part, counts = keyed
    earlier = load_vocabulary(base) if base else None
    known = part_count(len(earlier)) if earlier else 0
    if earlier and part < known:
        ordered, first = count_known(counts, earlier, part)
    else:
        ordered = sort_counts(pa.concat_batches(list(counts)))
        first = (len(earlier) if earlier else 0) + sum(size for of, size in sizes if known <= of < part)
    file = write_columns(url, part, layout[0], columns_table(ordered["id"], ordered["count"], first))
    return {"part": part, "file": dataclasses.asdict(file)}


def _built(_: bytes, url: str, parts: Iterable[dict[str, Any]], counted: Iterable[int]) -> dict[str, Any]:
    ordered = sorted(parts, key=lambda written: written["part"])
    return {
        "url": url,
        "files": [written["file"] for written in ordered],
        "ratings": sum(counted),
    }


def built_vocabulary(url: str, manifest: Manifest) -> dict[str, Any]:
    """The vocabulary of a data set at a URL, as `BuildVocabulary` returned it."""
    files = [dataclasses.asdict(file) for file in manifest.columns]
    return {"url": url, "files": files, "ratings": manifest.records["read"] - manifest.records["bad"]}


def load_vocabulary(built: dict[str, Any]) -> Vocabulary:
    """Opens the vocabulary that `BuildVocabulary` wrote: once a process, however many bundles ask for it.

    One of many ids lies in a file that the processes of the machine share; see `nnsparse_stream.ids.mapped_lookup`.
    """
    files = built["files"]
    urls = tuple(storage.join(built["url"], file["path"]) for file in files)
    # Bundles of one process run in threads.
    with _loading:
        return _load(urls, tuple(file["sha256"] for file in files), sum(file["rows"] for file in files))


_loading = threading.Lock()


# Two: the one that is made, and the one that it goes on from.
@functools.lru_cache(maxsize=2)
def _load(urls: tuple[str, ...], sha256: tuple[str, ...], num_ids: int) -> Vocabulary:
    return open_vocabulary(urls, sha256, num_ids)
