"""ReadIds: files of ids to blocks of them; and what of them the lists of `ScoreRatings` and `RankBlend` take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from nnsparse_stream.data.grouping import partition
from nnsparse_stream.ratings.id_files import IdFile, read_ids
from nnsparse_stream.transforms.model_cache import VocabularyHandle


class ReadIds(beam.PTransform):
    """The ids that files name: the root of a pipeline, or of a branch of one.

    Args:
        files: from `nnsparse_stream.ratings.id_files.plan_ids`.

    Returns:
        A PCollection of blocks with the one column id.
    """

    def __init__(self, files: Sequence[IdFile]) -> None:
        super().__init__()
        self._files = list(files)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        """Applies the transform to the pipeline."""
        return (
            begin
            | "Once" >> beam.Impulse()
            | "Files" >> beam.FlatMap(_numbers, len(self._files)).with_output_types(tuple[int, int])
            # A key for each, so that the runner spreads them over its workers.
            | "Spread" >> beam.GroupByKey()
            | "Read" >> beam.FlatMap(_read, self._files).with_output_types(pa.RecordBatch)
        )


def _numbers(_: bytes, count: int) -> Iterator[tuple[int, int]]:
    return ((number, number) for number in range(count))


def _read(numbered: tuple[int, Iterable[int]], files: list[IdFile]) -> Iterator[pa.RecordBatch]:
    for ids in read_ids(files[numbered[0]]):
        yield pa.record_batch([ids], names=["id"])


class KeySelected(beam.PTransform):
    """Blocks of ids of rows, keyed by shard: as `ScoreRatings` and `RankBlend` take the rows that are to be listed.

    Args:
        num_shards: of the rows.
    """

    def __init__(self, num_shards: int) -> None:
        super().__init__()
        self._num_shards = num_shards

    def expand(self, ids: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        """Applies the transform."""
        return ids | beam.FlatMap(_key_selected, self._num_shards).with_output_types(tuple[int, pa.RecordBatch])


def _key_selected(block: pa.RecordBatch, num_shards: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    yield from partition(block.rename_columns(["selected"]), "selected", num_shards)


class Candidates(beam.PTransform):
    """Blocks of ids of columns, as `ScoreRatings` and `RankBlend` take the columns that may be listed.

    Args:
        checkpoint: URL of the checkpoint whose vocabulary counts.

    Returns:
        Two PCollections: `columns`, blocks with the one column column, the places of ids in the vocabulary; and
        `counts`, of each block how many ids it had, and how many of these the vocabulary does not hold.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self._encode = _Encode(VocabularyHandle(checkpoint))

    def expand(self, ids: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform."""
        return ids | beam.ParDo(self._encode).with_output_types(pa.RecordBatch).with_outputs("counts", main="columns")


class _Encode(beam.DoFn):
    def __init__(self, vocabulary: VocabularyHandle) -> None:
        self._vocabulary = vocabulary

    def process(self, block: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        columns = self._vocabulary.get().encode(block["id"])
        known = np.unique(columns[columns >= 0])
        yield pa.record_batch([pa.array(known)], names=["column"])
        yield beam.pvalue.TaggedOutput("counts", (len(columns), int((columns < 0).sum())))


def candidate_columns(blocks: list[pa.RecordBatch] | None) -> list[np.ndarray] | None:
    """The places that blocks of `Candidates` name; None where there are no blocks since all columns are candidates."""
    return None if blocks is None else [block["column"].to_numpy() for block in blocks]
