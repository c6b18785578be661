"""Columns that have types, as Parquet's, to columns of ratings; and what is wrong with some of their records."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.ids.hashing import LONGEST_ID
from nnsparse_stream.ratings.formats import RatingFile, is_text
from nnsparse_stream.ratings.record_values import STRING_HINT, is_storable
from nnsparse_stream.ratings.text_records import BadRecord, BlockSchema, Records
from nnsparse_stream.ratings.time_columns import ISO, OWN, to_times


def check_columns(columns: list[pa.Array], positions: np.ndarray, file: RatingFile, schema: BlockSchema) -> Records:
    """Converts typed columns, and sorts out the records with a null, an unfit id or a rating that is not finite.

    Args:
        columns: (n,) each, of the types that `formats` lets through.
        positions: int64 (n,), of the records.
        file: where they are from.
        schema: what to read; `BlockSchema.fields` are the columns.
    """
    converted: list[pa.Array] = []
    problems: list[tuple[str, np.ndarray]] = []
    for (name, kind), column in zip(schema.fields(), columns, strict=True):
        if column.null_count and not (name == "rating" and schema.retractions):
            problems.append((f"{name} is null", _mask(column.is_null())))
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if name == "rating":
            column = column.cast(kind)
            problems.append(("rating is not finite", ~is_storable(column.fill_null(0.0).to_numpy())))
        elif name in ("user", "item") and pa.types.is_integer(column.type) and pa.types.is_string(kind):
            column = column.cast(kind)
        elif name in ("user", "item") and not is_text(column.type):
            column, unfit = _as_integer(column)
            problems += [(f"{name} {reason}", mask) for reason, mask in unfit]
            column = column.cast(kind)
        elif name in ("user", "item"):
            column, broken = _as_string(column)
            problems += [(f"{name} is not valid UTF-8", mask) for mask in broken]
            lengths = pc.binary_length(column).fill_null(1)
            problems.append((f"{name} is empty", _mask(pc.equal(lengths, 0))))
            problems.append((f"{name} is longer than {LONGEST_ID} bytes", _mask(pc.greater(lengths, LONGEST_ID))))
        else:
            if file.time_form != OWN or pa.types.is_uint64(column.type):
                column, no_time = to_times(column, file.time_form)
                iso = file.time_form == ISO
                fit = "ISO date, or date and time, that the calendar has" if iso else "time that fits in 64 bits"
                problems.append((f"timestamp is no {fit}", no_time))
            column = column.cast(kind, safe=False)
        converted.append(column)
    problems = [(reason, mask) for reason, mask in problems if mask.any()]
    if not problems:
        return Records(converted, positions, [])
    unfit = np.logical_or.reduce([mask for _, mask in problems])
    bad = []
    for row in np.flatnonzero(unfit).tolist():
        reason = next(reason for reason, mask in problems if mask[row])
        values = {name: _shown(column[row]) for name, column in zip(file.names, columns, strict=True)}
        bad.append(BadRecord(file.url, int(positions[row]), reason, json.dumps(values, default=str)))
    keep = pa.array(~unfit)
    return Records([column.filter(keep) for column in converted], positions[~unfit], bad)


def _as_integer(column: pa.Array) -> tuple[pa.Array, list[tuple[str, np.ndarray]]]:
    """A column of numbers as int64; and what is wrong with some: a reason, and a mask of where it is so.

    A whole number is the integer, whatever its type: floats up to where they hold every integer.
    """
    kind = column.type
    if pa.types.is_uint64(kind):
        too_large = _mask(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())).fill_null(False))
        return column.cast(pa.int64(), safe=False), [(f"does not fit in 64 bits{STRING_HINT}", too_large)]
    if pa.types.is_integer(kind):
        return column.cast(pa.int64()), []
    if pa.types.is_float16(kind):
        column = column.cast(pa.float32())  # Arrow cannot round float16
    broken = _mask(pc.invert(pc.equal(column, pc.floor(column))).fill_null(False))
    bits = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}.get(kind, 62)
    values = column.cast(pa.float64()).fill_null(0.0).to_numpy()
    too_large = ~broken & (np.abs(values) > 2.0**bits)
    fit = pc.if_else(pa.array(broken | too_large), pa.scalar(None, column.type), column)
    return fit.cast(pa.int64()), [("is not an integer", broken), ("is too large for an exact integer", too_large)]


def _as_string(column: pa.Array) -> tuple[pa.Array, list[np.ndarray]]:
    """A column as strings, with what is not valid UTF-8 emptied and a mask of it where there is any."""
    column = column.cast(pa.string())
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.binary()).to_pylist()
        broken = np.array([value is not None and not _is_utf8(value) for value in values])
        column = pa.array(["" if bad else value for value, bad in zip(values, broken, strict=True)], type=pa.string())
        return column, [broken]
    return column, []


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(value: pa.Scalar) -> object:
    try:
        # Python has no time of nanoseconds, nor after the year 9999.
        return value.cast(pa.string()).as_py() if pa.types.is_timestamp(value.type) else value.as_py()
    except UnicodeDecodeError:
        return str(value.cast(pa.binary()).as_py())


def _mask(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
