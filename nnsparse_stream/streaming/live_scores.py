"""Scores of rows that are known now: blocks of rows and a model to tables, the same as a batch of them gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.data.dataset import shard_schema
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.scoring.files import score_schema
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.scoring.tables import pair_table, top_k_tables
from nnsparse_stream.streaming.events import known_schema
from nnsparse_stream.streaming.live_model import Current
from nnsparse_stream.streaming.shard_state import Flush

# A pair is predicted from the row's other entries, so each pair has a copy of the row: of so many entries at once.
_PAIR_ENTRIES = 1 << 20


class Scored(NamedTuple):
    """The scores of one block of rows.

    Attributes:
        table: `scored_schema`, or of a flush `live_schema`: by row, then rank; of pairs by row, then column.
        unknown: known entries of its rows whose columns the model does not know: they are no input of it.
    """

    table: pa.Table
    unknown: int


def scored_schema(row_type: str, column_type: str, ranked: bool) -> pa.Schema:
    """The schema of the scores of rows.

    Args:
        row_type: of ids, "int64" or "string".
        column_type: the same.
        ranked: whether they are lists, which have `rank`; pairs have `rating`, that of the event.

    Returns:
        row_id, column_id, score (float32), rank (int32) or rating (float32), model_step (int64), model (string, its
        fingerprint).
    """
    own = [] if ranked else [pa.field("rating", pa.float32())]
    of_model = [pa.field("model_step", pa.int64()), pa.field("model", pa.string())]
    return pa.schema([*score_schema(row_type, column_type, ranked), *own, *of_model])


def live_schema(row_type: str, column_type: str, ranked: bool) -> pa.Schema:
    """The schema of the scores of a flush: `scored_schema`, and revision (int64), that of the flush."""
    return scored_schema(row_type, column_type, ranked).append(pa.field("revision", pa.int64()))


def score_rows(
    blocks: Sequence[pa.RecordBatch],
    current: Current,
    top_k: int,
    rules: ListRules = ListRules(),  # noqa: B008 (immutable)
) -> list[Scored]:
    """The lists of the rows of some blocks, by one ranking of all of them.

    Args:
        blocks: `events.known_schema`, of the model's types of ids; a row may be in several, and is scored in each.
        current: the model.
        top_k: columns a row.
        rules: what lists hold; reasons are not among it.

    Returns:
        One for each block.

    Raises:
        InputError: a block is of another schema, lacks a value, or names a column of a row twice.
    """
    known = _Known.of(blocks, current)
    found = pa.concat_tables(
        [
            pa.schema([("row_id", pa.int64()), *list(known.schema(ranked=True))[1:4]]).empty_table(),
            *top_k_tables(current.checkpoint, [known.batch()], top_k, (0,), rules),
        ]
    )
    place = found["row_id"].to_numpy()
    table = known.named(found, place, current, ranked=True)
    return known.cut(table, place)


def score_flushes(
    flushes: Sequence[Flush],
    current: Current,
    top_k: int | None,
    rules: ListRules = ListRules(),  # noqa: B008 (immutable)
) -> list[Scored]:
    """The scores of some flushes, by one ranking of all their rows.

    Args:
        flushes: of a data set whose types of ids are the model's.
        current: the model.
        top_k: columns a row; None to predict, instead of lists, the rating of each of the flushes' pairs from the
            other known ratings of its row.
        rules: what lists hold; reasons are not among it.

    Returns:
        One for each flush, its table of `live_schema`.

    Raises:
        InputError: what `score_rows` raises.
    """
    blocks = [flush.rows for flush in flushes]
    if top_k is None:
        scored = _score_pairs(blocks, [flush.pairs for flush in flushes], current)
    else:
        scored = score_rows(blocks, current, top_k, rules)
    return [
        one._replace(table=one.table.append_column("revision", _repeated(flush.revision, pa.int64(), len(one.table))))
        for flush, one in zip(flushes, scored, strict=True)
    ]


def _score_pairs(blocks: Sequence[pa.RecordBatch], events: Sequence[pa.RecordBatch], current: Current) -> list[Scored]:
    """Predicted ratings at pairs, each from its row's other known ratings.

    A row that is not among its block's is predicted as one without ratings, and a column that the model does not know
    as the row's mean.

    Args:
        blocks: as in `score_rows`.
        events: the pairs of each block's rows, `events.event_schema`.
        current: the model.
    """
    if not blocks:
        return []
    known = _Known.of(blocks, current)
    # The last row has no entries: it stands for those that are in no block.
    found_at = [pc.index_in(pairs["row"], value_set=block["row"]) for pairs, block in zip(events, blocks, strict=True)]
    places = [
        pc.add(place.cast(pa.int64()), first).fill_null(len(known.ids))
        for place, first in zip(found_at, known.first[:-1].tolist(), strict=True)
    ]
    rows = pa.chunked_array(places, pa.int64()).to_numpy()
    pairs = pa.Table.from_batches(events)
    column = current.checkpoint.vocabulary.encode(pairs["column"].combine_chunks())
    numbered = pa.table({"row": np.arange(len(pairs)), "column": pairs["column"]})
    # Sorted by the number of the pair, which is how they came.
    found = pair_table(current.checkpoint, known.without(rows, column), numbered, (0,))
    found = found.select(["row_id", "column_id", "score"]).append_column("rating", pairs["value"])
    found = found.set_column(0, "row_id", pairs["row"])
    found = _with_model(found, current).cast(known.schema(ranked=False))
    ends = np.cumsum([0, *(len(part) for part in events)]).tolist()
    return [
        Scored(found.slice(start, stop - start), unknown)
        for start, stop, unknown in zip(ends[:-1], ends[1:], known.unknown, strict=True)
    ]


class _Known(NamedTuple):
    """The rows of n blocks as a model takes them; each is named by its place among all.

    Attributes:
        ids: of the rows, (rows,).
        first: int64 (n + 1,), the place of each block's first row, and how many there are.
        offsets, columns, values: the rows' entries by the model's columns, ascending; int32 (rows + 1,), int32 and
            float32 (entries,).
        unknown: of each block, entries whose columns the model does not know; they are left out.
        types: of the ids of rows and of columns.
    """

    ids: pa.Array
    first: np.ndarray
    offsets: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    unknown: list[int]
    types: tuple[str, str]

    @classmethod
    def of(cls, blocks: Sequence[pa.RecordBatch], current: Current) -> _Known:
        """Encodes blocks of `events.known_schema`."""
        state, vocabulary = current.checkpoint.state, current.checkpoint.vocabulary
        types = (state["row_id_type"], state["column_id_type"])
        schema = known_schema(*types)
        first = np.cumsum([0, *(len(block) for block in blocks)])
        whole = pa.Table.from_batches([_checked(block, schema) for block in blocks], schema).combine_chunks()
        if not len(whole):
            offsets, columns, values = np.zeros(1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
            ids = pa.array([], schema.field("row").type)
            return cls(ids, first, offsets, columns, values, [0] * len(blocks), types)
        (rows,) = whole.to_batches()
        row, column, values = _encoded(rows, vocabulary)
        kept = column >= 0
        left_out = np.searchsorted(row[~kept], first)
        row, column, values = row[kept], column[kept], values[kept]
        keys = row * max(len(vocabulary), 1) + column
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            place = int(order[twice[0]])
            named = vocabulary.decode(column[place : place + 1])[0].as_py()
            raise InputError(
                f"the row {rows['row'][int(row[place])].as_py()!r} has the column {named!r} twice; a row's `columns` "
                "are distinct"
            )
        offsets = np.searchsorted(row, np.arange(len(rows) + 1)).astype(np.int32)
        return cls(rows["row"], first, offsets, column[order], values[order], np.diff(left_out).tolist(), types)

    def schema(self, ranked: bool) -> pa.Schema:
        """`scored_schema` of these rows."""
        return scored_schema(*self.types, ranked)

    def batch(self) -> pa.RecordBatch:
        """All of them as a shard holds them."""
        return _shard_rows(np.arange(len(self.ids)), self.offsets, self.columns, self.values)

    def without(self, rows: np.ndarray, columns: np.ndarray) -> Iterator[pa.RecordBatch]:
        """The row of each of m pairs without the pair's own entry, as a shard holds rows, each named by its pair.

        Args:
            rows: int64 (m,), their places; one more than there are stands for a row without entries.
            columns: int32 (m,), the pairs' columns, -1 where the model does not know one.
        """
        starts = np.append(self.offsets[:-1], 0).astype(np.int64)[rows]
        lengths = np.append(np.diff(self.offsets), 0).astype(np.int64)[rows]
        ends = np.cumsum(lengths)
        begin = 0
        while begin < len(rows):
            before = ends[begin] - lengths[begin]
            end = max(begin + 1, int(np.searchsorted(ends, before + _PAIR_ENTRIES, side="right")))
            some = lengths[begin:end]
            pair = np.repeat(np.arange(end - begin), some)
            entry = np.arange(len(pair)) - np.repeat(np.cumsum(some) - some, some) + starts[begin:end][pair]
            other = self.columns[entry] != columns[begin:end][pair]
            offsets = np.concatenate([[0], np.cumsum(np.bincount(pair[other], minlength=end - begin))])
            kept = entry[other]
            yield _shard_rows(np.arange(begin, end), offsets.astype(np.int32), self.columns[kept], self.values[kept])
            begin = end

    def named(self, table: pa.Table, place: np.ndarray, current: Current, ranked: bool) -> pa.Table:
        """A table of scores with the rows' ids in place of their places, and with what made it."""
        return _with_model(table.set_column(0, "row_id", self.ids.take(pa.array(place))), current).cast(
            self.schema(ranked)
        )

    def cut(self, table: pa.Table, place: np.ndarray) -> list[Scored]:
        """The part of each block, of a table whose rows' places, int64, ascend."""
        ends = np.searchsorted(place, self.first).tolist()
        return [
            Scored(table.slice(start, stop - start), unknown)
            for start, stop, unknown in zip(ends[:-1], ends[1:], self.unknown, strict=True)
        ]


def _checked(block: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A block with its columns in the schema's order and of its types."""
    names = block.schema.names
    missing = [name for name in schema.names if name not in names]
    if missing:
        raise InputError(f"a block of rows has no column `{missing[0]}`, only {', '.join(names)}")
    for name in schema.names:
        column = block[name]
        found, wanted = column.type, schema.field(name).type
        if found != wanted and not (pa.types.is_list(found) and found.value_type == wanted.value_type):
            raise InputError(f"`{name}` of a block of rows is {found}, and the model's rows have {wanted}: convert it")
        if column.null_count or (pa.types.is_list(wanted) and column.flatten().null_count):
            raise InputError(f"`{name}` of a block of rows has nulls; leave such rows or entries out")
    if not pc.list_value_length(block["columns"]).equals(pc.list_value_length(block["values"])):
        raise InputError("`columns` and `values` of a row are of different lengths")
    if not np.isfinite(block["values"].flatten().to_numpy(zero_copy_only=False)).all():
        raise InputError("`values` of a block of rows are not all finite")
    return block.select(schema.names).cast(schema)  # fields of lists may have other names


def _encoded(rows: pa.RecordBatch, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of rows: int64 place of the row, ascending; int32 column, -1 where unknown; float32 value."""
    lengths = pc.list_value_length(rows["columns"]).to_numpy(zero_copy_only=False)
    values = rows["values"].flatten().to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(rows)), lengths), vocabulary.encode(rows["columns"].flatten()), values


def _shard_rows(names: np.ndarray, offsets: np.ndarray, columns: np.ndarray, values: np.ndarray) -> pa.RecordBatch:
    """Rows as a shard holds them, all entries of the first fold."""
    schema = shard_schema(pa.int64())
    entries = {"columns": columns, "values": values, "fold": np.zeros(len(columns), np.uint8)}
    lists = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(held), type=schema.field(name).type)
        for name, held in entries.items()
    ]
    return pa.record_batch([pa.array(names), *lists], schema=schema)


def _with_model(table: pa.Table, current: Current) -> pa.Table:
    step = _repeated(current.step, pa.int64(), len(table))
    model = _repeated(current.fingerprint, pa.string(), len(table))
    return table.append_column("model_step", step).append_column("model", model)


def _repeated(value: int | str, kind: pa.DataType, times: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), times)
