"""BuildVocabulary: the distinct column ids of blocks of ratings, counted, ordered, written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.data.vocabulary_files import (
    IdCounts,
    Layout,
    cut_part,
    describe_built,
    empty_counts,
    load_base,
    merge_part,
    plan_layout,
    write_part,
)
from nnsparse_stream.ratings.reading import cut_block
from nnsparse_stream.transforms.windows import refuse_windows

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
        are left out too). It is made for `AsSingleton`; `nnsparse_stream.data.vocabulary_files.load_vocabulary` opens
        what it names.

    Raises:
        InputError: when it is applied: the ratings are cut into windows.
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
        refuse_windows(self, ratings)
        empty = empty_counts(self._id_type)
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
        self._counts = IdCounts(self._partitions)

    def process(self, ratings: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        return _in_blocks(self._counts.add(ratings[self._column]))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for keyed in _in_blocks(self._counts.finish()):
            yield WindowedValue(keyed, window.max_timestamp(), [window])


def _in_blocks(counts: Iterable[tuple[int, pa.RecordBatch]]) -> Iterator[tuple[int, pa.RecordBatch]]:
    for part, block in counts:
        for piece in cut_block(block):
            yield part, piece


class _MergePart(beam.DoFn):
    """The ids of one part that have enough ratings, with their counts.

    Beside them: the ratings of all its ids; and (number, sample) of those ids that an earlier vocabulary has not.
    """

    def __init__(self, min_ratings: int, base: dict[str, Any] | None) -> None:
        self._min_ratings, self._base = min_ratings, base

    def process(
        self, part: tuple[int, Iterable[pa.RecordBatch]]
    ) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        merged = merge_part(part[1], self._min_ratings, load_base(self._base))
        yield merged.counts
        yield beam.pvalue.TaggedOutput("counted", merged.ratings)
        yield beam.pvalue.TaggedOutput("samples", (merged.new, merged.sample))


class _Layout(beam.DoFn):
    """The layout of the parts that are written. Beside it: every part with no counts, so that all are written."""

    def __init__(self, empty: pa.RecordBatch, base: dict[str, Any] | None) -> None:
        self._empty, self._base = empty, base

    def process(
        self, _: bytes, samples: Iterable[tuple[int, pa.RecordBatch]]
    ) -> Iterator[Layout | beam.pvalue.TaggedOutput]:
        layout = plan_layout(samples, self._empty, load_base(self._base))
        yield layout
        for part in range(layout[0]):
            yield beam.pvalue.TaggedOutput("parts", (part, self._empty))


class _Cut(beam.DoFn):
    """Counts by part of the vocabulary. Beside them: (part, number of ids)."""

    def __init__(self, base: dict[str, Any] | None) -> None:
        self._base = base

    def process(
        self, counts: pa.RecordBatch, layout: Layout
    ) -> Iterator[tuple[int, pa.RecordBatch] | beam.pvalue.TaggedOutput]:
        for part, block in cut_part(counts, layout, load_base(self._base)):
            yield beam.pvalue.TaggedOutput("sizes", (part, len(block)))
            for piece in cut_block(block):
                yield part, piece


def _write_part(
    keyed: tuple[int, Iterable[pa.RecordBatch]],
    url: str,
    base: dict[str, Any] | None,
    layout: Layout,
    sizes: list[tuple[int, int]],
) -> dict[str, Any]:
    part, counts = keyed
    return write_part(url, part, counts, layout, sizes, load_base(base))


def _built(_: bytes, url: str, parts: Iterable[dict[str, Any]], counted: Iterable[int]) -> dict[str, Any]:
    return describe_built(url, parts, sum(counted))
