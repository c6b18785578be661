"""Lines of text to columns of ratings: Arrow's parsers for whole chunks, line by line only where something is wrong.

What a record means is defined by `_parse_line`. A chunk goes to Arrow's multi-threaded parser first; what that accepts
(and passes the checks here) `_parse_line` would read the same way. Where it does not accept a chunk, the lines that are
plainly well-formed go to Arrow again and the others are parsed one by one, so that a bad record costs one record.
"""

from __future__ import annotations

import json
import math
import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from nnsparse_stream.ratings.formats import SEPARATORS, RatingFile, is_number, split_fields
from nnsparse_stream.ratings.time_columns import ISO, OWN, PLAIN_ISO, iso_time, parsed_times, parsed_types, to_times

#: Takes the place of MovieLens' two-byte separator: a control character that no id holds.
_UNIT_SEPARATOR = b"\x1f"
_INTEGER = re.compile(r"[ \t]*-?[0-9]{1,19}[ \t]*")
_SHOWN_CHARACTERS = 1000
_TOO_LARGE = 1e300


class BadRecord(NamedTuple):
    """A record that could not be read: its file, its line (in its split) or record number from 1, why, its text."""

    file: str
    position: int
    reason: str
    text: str


class BlockSchema(NamedTuple):
    """The columns of all blocks of a run.

    Attributes:
        user, item: "int64" or "string".
        timestamp: whether blocks have a column timestamp.
        position: whether blocks have a column position.
        rating: whether blocks have a column rating; pairs to be scored have none.
    """

    user: str
    item: str
    timestamp: bool = False
    position: bool = False
    rating: bool = True

    def fields(self) -> list[tuple[str, pa.DataType]]:
        """Name and type of the fields that are read from a file."""
        types = [("user", _arrow_type(self.user)), ("item", _arrow_type(self.item))]
        if self.rating:
            types.append(("rating", pa.float64()))
        return [*types, ("timestamp", pa.int64())] if self.timestamp else types


class Records(NamedTuple):
    """What a piece of a file holds.

    Attributes:
        columns: those of `BlockSchema.fields`, each (n,) and without nulls.
        positions: int64 (n,): the line of each.
        bad: the records that could not be read.
    """

    columns: list[pa.Array]
    positions: np.ndarray
    bad: list[BadRecord]


def parse_lines(data: bytes, first_line: int, file: RatingFile, schema: BlockSchema) -> Records:
    """Parses whole lines of a text file.

    Args:
        data: lines; the last may lack its line break.
        first_line: number of the first of them.
        file: where they are from.
        schema: what to read.

    Returns:
        Every record of the lines, as a row or as a bad record. Blank lines are not records.
    """
    count = data.count(b"\n") + (not data.endswith(b"\n") and len(data) > 0)
    columns = _parse_chunk(data, count, file, schema)
    if columns is not None:
        return Records(columns, np.arange(first_line, first_line + count), [])
    lines = data.split(b"\n")[:count]
    suspicious = list(range(count))
    parts: list[list[pa.Array]] = []
    positions: list[np.ndarray] = []
    if file.format != "jsonl":
        well_formed = _well_formed(lines, file, schema)
        good = np.flatnonzero(well_formed)
        columns = _parse_chunk(b"\n".join([lines[i] for i in good]), len(good), file, schema) if len(good) else None
        if columns is not None:
            parts.append(columns)
            positions.append(good + first_line)
            suspicious = np.flatnonzero(~well_formed).tolist()
    rows, bad = [], []
    for i in suspicious:
        line = lines[i]
        if not line.strip():
            continue
        try:
            rows.append((_parse_line(line, file, schema), first_line + i))
        except _BadLineError as error:
            text = line.removesuffix(b"\r").decode("utf-8", errors="backslashreplace")[:_SHOWN_CHARACTERS]
            bad.append(BadRecord(file.url, first_line + i, str(error), text))
    fields = schema.fields()
    parts.append([pa.array([row[place] for row, _ in rows], type=kind) for place, (_, kind) in enumerate(fields)])
    positions.append(np.array([position for _, position in rows], dtype=np.int64))
    merged = [pa.concat_arrays(pieces) for pieces in zip(*parts, strict=True)]
    return Records(merged, np.concatenate(positions), bad)


def _parse_chunk(data: bytes, count: int, file: RatingFile, schema: BlockSchema) -> list[pa.Array] | None:
    """Parses a chunk in which every line is a good record; None where that is not so."""
    for time_type in parsed_types(file.time_form) if schema.timestamp else [pa.null()]:
        columns = _parse_chunk_as(time_type, data, count, file, schema)
        if columns is not None:
            return columns
    return None


def _parse_chunk_as(
    time_type: pa.DataType, data: bytes, count: int, file: RatingFile, schema: BlockSchema
) -> list[pa.Array] | None:
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        return None  # Arrow takes a lone carriage return for a line break
    fields = [(name, time_type if name == "timestamp" else kind) for name, kind in schema.fields()]
    try:
        if file.format == "jsonl":
            kinds = pa.schema([(name, kind) for name, (_, kind) in zip(file.names, fields, strict=True)])
            options = pyarrow.json.ParseOptions(explicit_schema=kinds, unexpected_field_behavior="ignore")
            table = pyarrow.json.read_json(pa.BufferReader(data), parse_options=options).select(list(kinds.names))
        else:
            table = _read_delimited(data, file, [kind for _, kind in fields])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if table is None or len(table) != count:
        return None
    columns = [column.combine_chunks() for column in table.columns]
    if any(column.null_count for column in columns):
        return None
    for column in columns[:2]:
        if pa.types.is_string(column.type):
            if pc.any(pc.equal(pc.binary_length(column), 0)).as_py():
                return None
            if file.format == "jsonl" and not _is_utf8(column):
                return None
    if schema.timestamp:
        times = parsed_times(columns[-1], file.time_form)
        if times is None:
            return None
        columns[-1] = times
    return columns if not schema.rating or is_storable(columns[2].to_numpy()).all() else None


def _read_delimited(data: bytes, file: RatingFile, kinds: list[pa.DataType]) -> pa.Table | None:
    quoted = file.format != "movielens"
    separator = SEPARATORS[file.format].encode()
    if quoted:
        if b'"' in data and not _quotes_are_closed(data):
            return None
    else:
        if _UNIT_SEPARATOR in data:
            return None
        data = data.replace(separator, _UNIT_SEPARATOR)
        separator = _UNIT_SEPARATOR
    names = [str(position) for position in range(file.num_fields)]
    wanted = [str(position) for position in file.positions]
    return pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=1 << 20),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator.decode(), quote_char='"' if quoted else False, ignore_empty_lines=False
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict(zip(wanted, kinds, strict=True)), include_columns=wanted, null_values=[]
        ),
    )


def _quotes_are_closed(data: bytes) -> bool:
    """Whether every line has an even number of quotes."""
    characters = np.frombuffer(data, dtype=np.uint8)
    quotes_before = np.cumsum(characters == ord('"'))
    return not (quotes_before[characters == ord("\n")] % 2).any() and quotes_before[-1] % 2 == 0


def _is_utf8(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def is_storable(ratings: np.ndarray) -> np.ndarray:
    """Whether each rating, float64 (n,), is finite as the float32 that it is stored as: bool (n,)."""
    return np.abs(ratings) <= float(np.finfo(np.float32).max)


def _well_formed(lines: list[bytes], file: RatingFile, schema: BlockSchema) -> np.ndarray:
    """Which lines are good records beyond doubt: bool (n,). It says so of the usual ones, not of every good one."""
    separator = SEPARATORS[file.format]
    plain = "[^" + re.escape(separator[0]) + r'"\r\x00-\x08\x0b-\x1f\x7f-\xff]'
    patterns = [plain + "*"] * file.num_fields
    for position, (name, kind) in zip(file.positions, schema.fields(), strict=True):
        if name == "rating":
            patterns[position] = r"[0-9]{1,9}(\.[0-9]{1,9})?"
        elif name == "timestamp" and file.time_form != OWN:
            patterns[position] = PLAIN_ISO if file.time_form == ISO else r"[0-9]{1,12}(\.[0-9]{1,9})?"
        else:
            patterns[position] = plain + "+" if pa.types.is_string(kind) else "-?[0-9]{1,18}"
    pattern = "^" + re.escape(separator).join(patterns) + "\r?$"
    return pc.match_substring_regex(pa.array(lines, type=pa.binary()), pattern).to_numpy(zero_copy_only=False)


class _BadLineError(ValueError):
    """The reason why a line is no record."""


def _parse_line(line: bytes, file: RatingFile, schema: BlockSchema) -> list[int | float | str]:
    # Bytes that are no UTF-8 pass through: they matter only in the fields that are read.
    text = line.removesuffix(b"\r").decode("utf-8", errors="surrogateescape")
    if file.format == "jsonl":
        values = _json_values(text, file.names)
    else:
        if file.format != "movielens" and text.count('"') % 2:
            raise _BadLineError("a quote is not closed (line breaks inside quotes are not supported)")
        if "\r" in text:
            raise _BadLineError("a carriage return inside the line")
        fields = split_fields(text, file.format)
        if len(fields) != file.num_fields:
            raise _BadLineError(f"{len(fields)} fields where {file.num_fields} are expected")
        values = [fields[position] for position in file.positions]
    parsed: list[int | float | str] = []
    for (name, kind), value in zip(schema.fields(), values, strict=True):
        if value is None or value == "":
            raise _BadLineError(f"{name} is {'null' if value is None else 'empty'}")
        if isinstance(value, str) and not _is_encodable(value):
            raise _BadLineError(f"{name} is not valid UTF-8")
        if name == "rating":
            parsed.append(_rating(value))
        elif name == "timestamp" and file.time_form != OWN:
            parsed.append(_time(value, file.time_form))
        elif pa.types.is_string(kind):
            parsed.append(_string(name, value))
        else:
            parsed.append(_integer(name, value))
    return parsed


def _json_values(text: str, names: tuple[str, ...]) -> list[object]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadLineError("not valid JSON") from error
    if not isinstance(record, dict):
        raise _BadLineError("not a JSON object")
    missing = next((name for name in names if name not in record), None)
    if missing is not None:
        raise _BadLineError(f"the field {missing} is missing")
    return [record[name] for name in names]


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that were no UTF-8, or half a surrogate pair that JSON spelt out
        return False
    return True


def _rating(value: object) -> float:
    if isinstance(value, str):
        if value.strip(" \t").lstrip("+-").lower() in ("nan", "inf", "infinity"):
            raise _BadLineError("rating is not finite")
        if not is_number(value):
            raise _BadLineError("rating is not a number")
        rating = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        rating = float(value) if abs(value) < _TOO_LARGE else math.inf
    else:
        raise _BadLineError("rating is not a number")
    if not is_storable(np.array(rating)):
        raise _BadLineError("rating is not finite")
    return rating


def _integer(name: str, value: object) -> int:
    hint = "; pass `id_type` string where ids are not integers" if name != "timestamp" else ""
    number = int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise _BadLineError(f"{name} is not an integer{hint}")
    if not -(2**63) <= number < 2**63:
        raise _BadLineError(f"{name} does not fit in 64 bits{hint}")
    return number


def _time(value: object, form: str) -> int:
    if form == ISO:
        time = iso_time(value) if isinstance(value, str) else None
        if time is None:
            raise _BadLineError("timestamp is no ISO date, or date and time, that the calendar has")
        return time
    if isinstance(value, str):
        if not is_number(value):
            raise _BadLineError("timestamp is not a number")
        value = int(value) if _INTEGER.fullmatch(value) else float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _BadLineError("timestamp is not a number")
    if isinstance(value, float) or -(2**63) <= value < 2**63:
        times, unfit = to_times(pa.array([value]), form)
        if not unfit.any():
            return int(times[0].as_py())
    raise _BadLineError(f"timestamp does not fit in 64 bits as microseconds since 1970: it is taken for {form}")


def _string(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _BadLineError(f"{name} is neither a string nor an integer")
    return value


def _arrow_type(name: str) -> pa.DataType:
    return pa.int64() if name == "int64" else pa.string()
