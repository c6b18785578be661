"""ScoreRatings: top-K lists of rows, or predictions at given pairs, to Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics

from nnsparse_stream.data.dataset import Dataset, shard_schema
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.storage import files as storage
from nnsparse_stream.transforms.model_cache import CheckpointHandle
from nnsparse_stream.transforms.windows import refuse_windows

_FIELDS = (("score", pa.float32()), ("rank", pa.int32()))


class KnownColumns(beam.PTransform):
    """Keeps the ratings whose column is in the model's vocabulary; the others cannot be its input.

    Args:
        checkpoint: URL of a checkpoint's directory.
        axis: "user" or "item", the axis of the model's rows.

    Returns:
        Three PCollections: `ratings`, blocks; `unknown`, how many ratings were left out, one number a block; and
        `rows`, blocks with the one column row, the rows that lost a rating: one that lost all is still to be scored.
    """

    def __init__(self, checkpoint: str, axis: str) -> None:
        super().__init__()
        self._filter = _KnownColumns(CheckpointHandle(checkpoint), axis)

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform."""
        return ratings | beam.ParDo(self._filter).with_output_types(pa.RecordBatch).with_outputs(
            "unknown", "rows", main="ratings"
        )


class _KnownColumns(beam.DoFn):
    def __init__(self, checkpoint: CheckpointHandle, axis: str) -> None:
        self._checkpoint, self._axis = checkpoint, axis
        self._counter = Metrics.counter("ratings", "unknown_column")

    def process(self, ratings: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        column = ratings["item" if self._axis == "user" else "user"]
        known = self._checkpoint.get().vocabulary.encode(column) >= 0
        unknown = int(len(known) - known.sum())
        self._counter.inc(unknown)
        yield ratings.filter(pa.array(known)) if unknown else ratings
        yield beam.pvalue.TaggedOutput("unknown", unknown)
        if unknown:
            rows = ratings[self._axis].filter(pa.array(~known)).unique()
            yield beam.pvalue.TaggedOutput("rows", pa.record_batch([rows], names=["row"]))


class KeyPairs(beam.PTransform):
    """Blocks of pairs, keyed by the shard of their row, as `ScoreRatings` takes them.

    Args:
        axis: "user" or "item", the axis of the rows.
        num_shards: of the rows that they are to be joined with.
    """

    def __init__(self, axis: str, num_shards: int) -> None:
        super().__init__()
        self._axis, self._num_shards = axis, num_shards

    def expand(self, pairs: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        """Applies the transform."""
        return pairs | beam.FlatMap(_key_pairs, self._axis, self._num_shards).with_output_types(
            tuple[int, pa.RecordBatch]
        )


def _key_pairs(block: pa.RecordBatch, axis: str, num_shards: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    yield from partition(pair_block(block, axis), "row", num_shards)


def pair_block(block: pa.RecordBatch, axis: str) -> pa.RecordBatch:
    """Columns user and item of a block as row and column."""
    return pa.record_batch([block[axis], block["item" if axis == "user" else "user"]], names=["row", "column"])


class ScoreRatings(beam.PTransform):
    """Scores shard by shard, and writes `part-*.parquet` under deterministic names.

    Takes a PCollection of (shard, block): blocks of rows as a shard holds them, blocks of rows that may have no rating
    (the one column row), and blocks of pairs (columns row and column), all of the same shard's rows. Where `data` is
    given, the rows are read from that data set instead.

    Args:
        checkpoint: URL of a checkpoint's directory.
        output: URL of the directory that receives the files.
        num_shards: number of shards.
        top_k: how many columns a row; None to predict the pairs instead.
        folds: the folds of a row's ratings that the model sees.
        data: URL of the data set that holds the rows.

    Returns:
        A PCollection of one dictionary a shard: `path` (relative to the output), `rows` (of the file), `bytes`.

    Raises:
        InputError: when it is applied: the blocks are cut into windows.
    """

    def __init__(
        self,
        checkpoint: str,
        output: str,
        num_shards: int,
        *,
        top_k: int | None,
        folds: Sequence[int],
        data: str | None = None,
    ) -> None:
        super().__init__()
        self._score = _ScoreShard(CheckpointHandle(checkpoint), output, num_shards, top_k, tuple(folds), data)

    def expand(self, blocks: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        refuse_windows(self, blocks)
        return blocks | "By shard" >> beam.GroupByKey() | "Score" >> beam.ParDo(self._score)


class _ScoreShard(beam.DoFn):
    def __init__(
        self,
        checkpoint: CheckpointHandle,
        output: str,
        num_shards: int,
        top_k: int | None,
        folds: tuple[int, ...],
        data: str | None,
    ) -> None:
        self._checkpoint, self._output, self._num_shards = checkpoint, output, num_shards
        self._top_k, self._folds, self._data = top_k, folds, data

    def process(self, keyed: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.scoring.tables import pair_tables, top_k_tables

        shard, blocks = keyed
        held = list(blocks)
        checkpoint = self._checkpoint.get()
        rows: Iterable[pa.RecordBatch] = [block for block in held if "values" in block.schema.names]
        if self._data is not None:
            rows = Dataset(self._data).shard_batches(shard)
        if self._top_k is not None:
            listed = [block["row"] for block in held if block.schema.names == ["row"]]
            if listed:
                rows = [*rows, _rows_without_ratings(rows, listed)]
            tables = top_k_tables(checkpoint, rows, self._top_k, self._folds)
        else:
            pairs = [block for block in held if "column" in block.schema.names]
            if not pairs:
                return
            tables = pair_tables(checkpoint, rows, pa.Table.from_batches(pairs), self._folds)
        state = checkpoint.state
        schema = score_schema(state["row_id_type"], state["column_id_type"], self._top_k is not None)
        yield write_scores(self._output, shard, self._num_shards, tables, schema)


def write_scores(
    output: str, shard: int, num_shards: int, tables: Iterable[pa.Table], schema: pa.Schema
) -> dict[str, Any]:
    """Writes a shard's scores, whole, and returns `path` (relative to the output), `rows` and `bytes` of the file."""
    sink = pa.BufferOutputStream()
    count = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for table in tables:
            count += len(table)
            writer.write_table(table.cast(schema))
    name = f"part-{shard:05d}-of-{num_shards:05d}.parquet"
    data = bytes(sink.getvalue())
    storage.write_file(storage.join(output, name), data)
    return {"path": name, "rows": count, "bytes": len(data)}


def _rows_without_ratings(rows: Iterable[pa.RecordBatch], listed: list[pa.Array]) -> pa.RecordBatch:
    """Those of the listed rows that no block of rows holds, as rows without entries."""
    held = pa.chunked_array([block["row"] for block in rows], type=listed[0].type).combine_chunks()
    ids = pa.chunked_array(listed).combine_chunks().unique()
    ids = ids.filter(pc.invert(pc.is_in(ids, value_set=held)))
    ids = ids.take(pc.sort_indices(ids))
    schema = shard_schema(ids.type)
    offsets = pa.array(np.zeros(len(ids) + 1, dtype=np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array([], type=field.type.value_type), type=field.type)
        for field in list(schema)[1:]
    ]
    return pa.record_batch([ids, *lists], schema=schema)


def score_schema(row_type: str, column_type: str, ranked: bool) -> pa.Schema:
    """The schema of scores of ids of these types, "int64" or "string"; with `rank` where they are ranked."""
    ids = [("row_id", pa.type_for_alias(row_type)), ("column_id", pa.type_for_alias(column_type))]
    return pa.schema([*ids, *_FIELDS[: 2 if ranked else 1]])
