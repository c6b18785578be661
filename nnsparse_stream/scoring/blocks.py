"""Blocks that scoring is given of one shard: its rows, or where they lie; rows that may have no rating; and pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.data.dataset import shard_schema
from nnsparse_stream.data.features import RowFeatures
from nnsparse_stream.data.shards import Shard


def shard_block(*shards: Shard) -> pa.RecordBatch:
    """The one column shard: where the rows lie; and in a blend, where the same rows lie in other data sets."""
    return pa.record_batch({"shard": pa.array([shard.to_json() for shard in shards], type=pa.binary())})


def aligned_shards(blocks: Iterable[pa.RecordBatch]) -> list[Shard]:
    """The shards of a `shard_block` that is among blocks, but for its first."""
    return [
        Shard.from_json(encoded)
        for block in blocks
        if block.schema.names == ["shard"]
        for encoded in block["shard"].to_pylist()[1:]
    ]


def pair_block(block: pa.RecordBatch, axis: str) -> pa.RecordBatch:
    """Columns row and column: those that a block of pairs has as user and item; `axis` is that of the rows."""
    return pa.record_batch([block[axis], block["item" if axis == "user" else "user"]], names=["row", "column"])


class ShardBlocks(NamedTuple):
    """What there is of one shard.

    Attributes:
        rows: batches of its rows as a shard holds them, then one of those rows that were named and have no rating.
        pairs: columns row and column; None where no block has them.
        features: of the shard's rows, which `rows` have beside their ratings; None where there are none.
    """

    rows: Iterable[pa.RecordBatch]
    pairs: pa.Table | None
    features: RowFeatures | None = None

    @classmethod
    def of(
        cls, blocks: Sequence[pa.RecordBatch], only_selected: bool = False, features: RowFeatures | None = None
    ) -> ShardBlocks:
        """Sorts blocks, in any order, by their columns: `shard_schema`'s, shard, row, selected, or row and column.

        Args:
            blocks: the blocks, of one shard.
            only_selected: leave out the rows that no block of selected ones names.
            features: of its rows, where these come as blocks; of rows that lie in a data set, it is found there.
        """
        by_names: dict[tuple[str, ...], list[pa.RecordBatch]] = {}
        for block in blocks:
            by_names.setdefault(tuple(block.schema.names), []).append(block)
        named, pairs = by_names.get(("row",)), by_names.get(("row", "column"))
        rows: Iterable[pa.RecordBatch] = by_names.get(("row", "columns", "values", "fold"), [])
        for block in by_names.get(("shard",), []):
            shard = Shard.from_json(block["shard"][0].as_py())
            rows, features = shard.batches(), shard.features()
        if only_selected:
            rows = selected_rows(rows, by_names.get(("selected",), []))
        elif named:
            held = list(rows)
            rows = [*held, rows_without_ratings(held, [block["row"] for block in named])]
        if features is not None:
            rows = map(features.beside, rows)
        return cls(rows, pa.Table.from_batches(pairs) if pairs else None, features)


def selected_rows(rows: Iterable[pa.RecordBatch], selected: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Those rows that are selected; then those without ratings, ascending, that are selected and in no batch.

    Args:
        rows: batches of rows as a shard holds them; not read where none is selected.
        selected: blocks with the one column selected, ids of rows, each any number of times.
    """
    if not selected:
        return
    wanted = pa.chunked_array([block["selected"] for block in selected]).combine_chunks()
    found = []
    for batch in rows:
        part = batch.filter(pc.is_in(batch["row"], value_set=wanted))
        found.append(part.select(["row"]))
        if len(part):
            yield part
    yield rows_without_ratings(found, [wanted])


class RowCounts:
    """Counts rows while they are passed on.

    Attributes:
        rows: how many there were.
        cold: how many of them have no rating.
    """

    def __init__(self) -> None:
        self.rows = self.cold = 0

    def counted(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches, of rows as a shard holds them."""
        for batch in batches:
            self.rows += len(batch)
            self.cold += int((pc.list_value_length(batch["columns"]).to_numpy() == 0).sum())
            yield batch


def unknown_pairs(predicted: Sequence[pa.Table]) -> dict[str, list[int]]:
    """How many pairs are of unknown rows, and of unknown columns, to each of several models.

    Args:
        predicted: of each model, a table with the columns row_known and column_known.
    """
    return {
        f"unknown_{what}s": [int(pc.sum(pc.invert(table[f"{what}_known"])).as_py() or 0) for table in predicted]
        for what in ("row", "column")
    }


def rows_without_ratings(rows: Iterable[pa.RecordBatch], named: Sequence[pa.Array]) -> pa.RecordBatch:
    """Those of the named rows, ascending, that no batch of rows holds, as rows without entries.

    Args:
        rows: batches of rows as a shard holds them.
        named: ids of rows, each any number of times; at least one array.
    """
    held = pa.chunked_array([block["row"] for block in rows], type=named[0].type).combine_chunks()
    ids = pa.chunked_array(named).combine_chunks().unique()
    ids = ids.filter(pc.invert(pc.is_in(ids, value_set=held)))
    ids = ids.take(pc.sort_indices(ids))
    schema = shard_schema(ids.type)
    offsets = pa.array(np.zeros(len(ids) + 1, dtype=np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array([], type=field.type.value_type), type=field.type)
        for field in list(schema)[1:]
    ]
    return pa.record_batch([ids, *lists], schema=schema)
