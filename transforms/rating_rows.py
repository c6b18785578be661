"""Rows of ratings, as other pipelines have them, to blocks and back.

A *row of a rating* has the fields user, item (integers or strings), rating (a number) and maybe timestamp (an integer)
and fold (a place in `nnsparse_stream.ratings.folds.FOLD_NAMES`). A row of an interaction
may have no rating. Where nothing else reads the rows between two transforms, they travel as the Arrow tables that they
are made of, which Beam calls batches.
"""

# No `from __future__ import annotations`: Beam takes the types of batches from the annotations.

import typing
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import named_fields_from_element_type
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import LONGEST_ID
from nnsparse_stream.ratings.folds import FOLD_NAMES
from nnsparse_stream.ratings.reading import BLOCK_BYTES
from nnsparse_stream.ratings.record_values import is_storable

#: Rows that are not in tables wait until they are so many: about 1 MB of them.
_PENDING_ROWS = 1 << 15
#: The fields of a rating's row, and the kinds that each may have; see `_kind`.
_KINDS = {
    "user": ("int64", "string"),
    "item": ("int64", "string"),
    "rating": ("int64", "float"),
    "timestamp": ("int64",),
    "fold": ("int64",),
}
_WORDS = {"int64": "an integer", "string": "a string", "float": "another number"}


def field_types(rows: beam.PCollection) -> dict[str, Any]:
    """The fields of rows.

    Args:
        rows: of any type that Beam has a schema for.

    Returns:
        The type of each field by its name, as Beam infers it: a Python or NumPy type, maybe optional.

    Raises:
        InputError: the elements are no rows.
    """
    try:
        return dict(named_fields_from_element_type(rows.element_type))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the input has elements of type {rows.element_type}; give rows with the fields user, item and rating"
        ) from error


def block_schema(rows: beam.PCollection, timestamp: bool, fold: bool, rating: bool = True) -> pa.Schema:
    """The schema of the blocks that rows of ratings become.

    Args:
        rows: may have other fields too, in any order.
        timestamp, fold: whether the blocks have these columns.
        rating: whether the rows must have a rating. Else each that has none counts as a 1.

    Returns:
        The columns user and item (int64 or string, as the rows have them), rating (float32), timestamp (int64), fold
        (uint8), in this order.

    Raises:
        InputError: the rows lack a field, or it is of the wrong type.
    """
    types = field_types(rows)
    names = ["user", "item", "rating", *(["timestamp"] if timestamp else []), *(["fold"] if fold else [])]
    for name in names:
        if name == "rating" and name not in types and not rating:
            continue
        if name not in types:
            raise InputError(f"the rows have no field {name}, only {', '.join(types)}; name it so by MapToFields")
        if _kind(types[name]) not in _KINDS[name]:
            wanted = " or ".join(_WORDS[kind] for kind in _KINDS[name])
            raise InputError(f"the field {name} of the rows is {types[name]}, not {wanted}; convert it by MapToFields")
    ids = {"int64": pa.int64(), "string": pa.string()}
    fixed = {"rating": pa.float32(), "timestamp": pa.int64(), "fold": pa.uint8()}
    return pa.schema([(name, fixed[name] if name in fixed else ids[str(_kind(types[name]))]) for name in names])


def to_rows(schema: pa.Schema) -> beam.ParDo:
    """Blocks, of ratings or of scores, to rows.

    Args:
        schema: of the blocks; of int64, int32, uint8, string and float32.

    Returns:
        A transform. Its rows have the schema's fields; an integer is an int: Beam's rows have no small unsigned ones.
    """
    of = {"int64": int, "int32": int, "uint8": int, "string": str, "float": np.float32}
    return beam.ParDo(_ToRows(RowTypeConstraint.from_fields([(field.name, of[str(field.type)]) for field in schema])))


def to_blocks(rows: beam.PCollection, schema: pa.Schema) -> beam.ParDo:
    """Rows of ratings to blocks.

    Rows with fields that are not of a rating come one by one, as Beam makes no tables of every type; others as tables.

    Args:
        rows: what the transform will be applied to.
        schema: of the blocks, from `block_schema`.

    Returns:
        A transform; its blocks are RecordBatches as `table_blocks` makes them.

    Raises:
        InputError: in a worker: what `table_blocks` raises.
    """
    plain = all(_kind(of) in _KINDS.get(name, ()) for name, of in field_types(rows).items())
    names = [name for name in schema.names if name in field_types(rows)]
    do_fn = _TablesToBlocks(schema, names) if plain else _RowsToBlocks(schema, names)
    return beam.ParDo(do_fn).with_output_types(pa.RecordBatch)


def table_blocks(rows: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Cuts a table of ratings into blocks.

    Args:
        rows: has the schema's columns, but maybe no rating, and maybe others; integers may be of fewer bits, and
            ratings of more.
        schema: of the blocks, from `block_schema`.

    Yields:
        RecordBatches of the schema, of about 1 MB, with the rows in their order.

    Raises:
        InputError: a value is missing, a rating is not finite, or a fold is none.
    """
    if "rating" not in rows.schema.names:
        rows = rows.append_column("rating", pa.array(np.ones(len(rows), np.float32)))
    for name in schema.names:
        _refuse(rows, pc.is_null(rows[name]), f"a row has no {name}")
        if name in ("user", "item") and pa.types.is_string(schema.field(name).type):
            too_long = pc.greater(pc.binary_length(rows[name]), LONGEST_ID)
            _refuse(rows, too_long, f"the {name} of a row is longer than {LONGEST_ID} bytes")
    ratings = rows["rating"].cast(pa.float64(), safe=False).to_numpy()
    _refuse(rows, pa.array(~is_storable(ratings)), "the rating of a row is not finite")
    if "fold" in schema.names:
        last = len(FOLD_NAMES) - 1
        unfit = pc.invert(pc.is_in(rows["fold"], pa.array(range(last + 1))))
        _refuse(rows, unfit, f"the fold of a row is not an integer from 0 to {last}")
    table = rows.select(schema.names).cast(schema, safe=False).combine_chunks()
    for whole in table.to_batches():
        step = max(1, BLOCK_BYTES * len(whole) // max(whole.nbytes, 1))
        for start in range(0, len(whole), step):
            yield whole.slice(start, step)


class _ToRows(beam.DoFn):
    def __init__(self, row_type: RowTypeConstraint) -> None:
        self._row_type = row_type

    def infer_output_type(self, input_type: Any) -> RowTypeConstraint:
        return self._row_type

    @beam.DoFn.yields_batches
    def process(self, block: pa.RecordBatch) -> Iterator[pa.Table]:
        table = pa.Table.from_batches([block])
        for place, field in enumerate(block.schema):
            if pa.types.is_integer(field.type):
                table = table.set_column(place, field.name, table[field.name].cast(pa.int64()))
        yield table


class _RowsToBlocks(beam.DoFn):
    def __init__(self, schema: pa.Schema, names: list[str]) -> None:
        self._schema, self._names = schema, names

    def start_bundle(self) -> None:
        self._pending: dict[Any, list[tuple[Any, ...]]] = {}

    def process(self, row: Any, window: Any = beam.DoFn.WindowParam) -> Iterator[pa.RecordBatch]:
        pending = self._pending.setdefault(window, [])
        pending.append(tuple(getattr(row, name) for name in self._names))
        if len(pending) >= _PENDING_ROWS:
            yield from self._blocks(self._pending.pop(window))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for window, pending in self._pending.items():
            for block in self._blocks(pending):
                yield WindowedValue(block, window.max_timestamp(), [window])

    def _blocks(self, pending: list[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
        columns = zip(*pending, strict=True)
        return table_blocks(pa.table([pa.array(column) for column in columns], self._names), self._schema)


class _TablesToBlocks(_RowsToBlocks):
    @beam.DoFn.yields_elements
    def process_batch(self, rows: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from table_blocks(rows, self._schema)


def _kind(of: Any) -> str | None:
    """What the type of a row's field holds, null aside: "int64", "string" or "float"; None for anything else."""
    inner = [part for part in typing.get_args(of) if part is not type(None)]
    of = inner[0] if typing.get_origin(of) is typing.Union and len(inner) == 1 else of
    if not isinstance(of, type) or issubclass(of, bool):
        return None
    kinds = {int: "int64", np.integer: "int64", str: "string", float: "float", np.floating: "float"}
    return next((kind for base, kind in kinds.items() if issubclass(of, base)), None)


def _refuse(rows: pa.Table, unfit: pa.Array, what: str) -> None:
    if pc.any(unfit).as_py():
        (first,) = rows.filter(unfit).slice(0, 1).to_pylist()
        raise InputError(f"{what}: {str(first)[:1000]}; leave it out by Filter")
