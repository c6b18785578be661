"""Lines of text to columns of ratings: Arrow's parsers for whole chunks, single records only where something is wrong.

What a record means is defined by `parse_record`. A chunk goes to Arrow's multi-threaded parser first; what that
accepts (and passes the checks here) `parse_record` would read the same way. Where it does not accept a chunk, the lines
that are plainly well-formed go to Arrow again and the others are parsed one by one: a bad record costs one record.

Where quotes join lines, a record of several lines is accepted only if its quotes are in perfect order and none of the
fields that are read has a line break. Else nobody can tell whether its lines are records or parts of one, so each of
them is a bad record, and none becomes a rating.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from nnsparse_stream.ids.hashing import LONGEST_ID
from nnsparse_stream.ratings.dialect import LONGEST_QUOTED, record_ends
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.id_types import may_be_spelt_otherwise, plain_lengths
from nnsparse_stream.ratings.json_records import BadLineError
from nnsparse_stream.ratings.record_values import QUOTE_HINT, is_storable, parse_record
from nnsparse_stream.ratings.time_columns import BY_SIZE, ISO, OWN, PLAIN_ISO, parsed_times, parsed_types

#: Takes the place of a delimiter of several bytes: a control character that no id holds.
_UNIT_SEPARATOR = b"\x1f"
_SHOWN_CHARACTERS = 1000


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
        retractions: whether a record may be without its rating, empty or null, which is null then: it takes one back.
            Else such a record is a bad one.
    """

    user: str
    item: str
    timestamp: bool = False
    position: bool = False
    rating: bool = True
    retractions: bool = False

    def fields(self) -> list[tuple[str, pa.DataType]]:
        """Name and type of the fields that are read from a file."""
        types = [("user", _arrow_type(self.user)), ("item", _arrow_type(self.item))]
        if self.rating:
            types.append(("rating", pa.float64()))
        return [*types, ("timestamp", pa.int64())] if self.timestamp else types


class Records(NamedTuple):
    """What a piece of a file holds.

    Attributes:
        columns: those of `BlockSchema.fields`, each (n,) and without nulls, but for ratings that are taken back.
        positions: int64 (n,): the line of each.
        bad: the records that could not be read.
    """

    columns: list[pa.Array]
    positions: np.ndarray
    bad: list[BadRecord]


class OpenQuoteError(ValueError):
    """In a piece of a file, at a line (in its split, from 1), quotes do not end with the line."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def whole_records(data: bytes, file: RatingFile) -> int:
    """How many bytes of whole lines are whole records; the rest is a record that may go on.

    Args:
        data: whole lines of a file that is read as one piece, in UTF-8; a record begins with the first.
        file: where they are from.
    """
    quote = file.dialect.quote
    if not quote or quote.encode() not in data:
        return len(data)
    ends = record_ends(data, file.dialect)
    if ends is not None and data.count(quote.encode()) % 2 == 0:
        return len(data)
    lines = data.removesuffix(b"\n").split(b"\n")
    for first, end, closed in file.dialect.groups(lines):
        if not closed and end == len(lines) and sum(map(len, lines[first:])) <= LONGEST_QUOTED:
            return sum(len(line) + 1 for line in lines[:first])
    return len(data)


def parse_lines(data: bytes, first_line: int, file: RatingFile, schema: BlockSchema, whole: bool = True) -> Records:
    """Parses whole lines of a text file.

    Args:
        data: lines in UTF-8; the last may lack its line break.
        first_line: number of the first of them.
        file: where they are from.
        schema: what to read.
        whole: whether they are whole records; else they are of a piece of a file that was cut at line breaks.

    Returns:
        Every record of the lines, as a row or as a bad record. Blank lines are not records.

    Raises:
        OpenQuoteError: the lines are of a piece that was cut, and quotes join some.
    """
    count = data.count(b"\n") + (not data.endswith(b"\n") and len(data) > 0)
    found = _parse_chunk(data, count, file, schema, whole)
    if found is not None:
        return Records(found[0], found[1] + first_line, [])
    return _parse_by_line(data.split(b"\n")[:count], first_line, file, schema, whole)


def _parse_by_line(lines: list[bytes], first_line: int, file: RatingFile, schema: BlockSchema, whole: bool) -> Records:
    dialect, fields = file.dialect, schema.fields()
    rows: list[tuple[list[int | float | str | None], int]] = []
    bad: list[BadRecord] = []

    def fail(line: int, reason: str, text: bytes) -> None:
        shown = text.removesuffix(b"\r").decode("utf-8", errors="backslashreplace")[:_SHOWN_CHARACTERS]
        bad.append(BadRecord(file.url, first_line + line, reason, shown))

    def parse(line: int, text: bytes) -> None:
        try:
            rows.append((parse_record(text, file, schema), first_line + line))
        except BadLineError as error:
            fail(line, str(error), text)

    joined = np.zeros(len(lines), dtype=bool)
    for first, end, closed in dialect.groups(lines):
        if not whole:
            raise OpenQuoteError(first_line + first)
        joined[first:end] = True
        text = b"\n".join(lines[first:end])
        if closed and _is_one_record(text, file):
            parse(first, text)
            continue
        fail(first, f"a quote is not closed in the line; {QUOTE_HINT}", lines[first])
        for line in range(first + 1, end):
            if lines[line].strip():
                reason = f"it may be inside the quotes that line {first_line + first} opens; {QUOTE_HINT}"
                fail(line, reason, lines[line])
    suspicious = np.flatnonzero(~joined)
    parts: list[list[pa.Array]] = []
    positions: list[np.ndarray] = []
    if file.format != "jsonl":
        well_formed = _well_formed(lines, file, schema) & ~joined
        good = np.flatnonzero(well_formed)
        data = b"\n".join([lines[i] for i in good])
        found = _parse_chunk(data, len(good), file, schema, False) if len(good) else None
        if found is not None:
            parts.append(found[0])
            positions.append(good + first_line)
            suspicious = np.flatnonzero(~joined & ~well_formed)
    comment = dialect.comment.encode()
    for i in suspicious.tolist():
        if lines[i].strip() and not (comment and lines[i].startswith(comment)):
            parse(i, lines[i])
    rows.sort(key=lambda row: row[1])
    bad.sort(key=lambda record: record.position)
    parts.append([pa.array([row[place] for row, _ in rows], type=kind) for place, (_, kind) in enumerate(fields)])
    positions.append(np.array([position for _, position in rows], dtype=np.int64))
    merged = [pa.concat_arrays(pieces) for pieces in zip(*parts, strict=True)]
    return Records(merged, np.concatenate(positions), bad)


def _is_one_record(text: bytes, file: RatingFile) -> bool:
    """Whether lines that quotes join are one record beyond doubt."""
    fields, loose = file.dialect.split(text.removesuffix(b"\r").decode("utf-8", errors="surrogateescape"))
    read = [fields[position] for position in file.positions if position < len(fields)]
    return not loose and len(fields) == file.num_fields and not any("\n" in value for value in read)


def _parse_chunk(
    data: bytes, count: int, file: RatingFile, schema: BlockSchema, whole: bool
) -> tuple[list[pa.Array], np.ndarray] | None:
    """Parses a chunk in which every record is a good one; None where that is not so.

    Returns:
        The columns, and the line of each record from 0.
    """
    for time_type in parsed_types(file.time_form) if schema.timestamp else [pa.null()]:
        found = _parse_chunk_as(time_type, data, count, file, schema, whole)
        if found is not None:
            return found
    return None


def _parse_chunk_as(
    time_type: pa.DataType, data: bytes, count: int, file: RatingFile, schema: BlockSchema, whole: bool
) -> tuple[list[pa.Array], np.ndarray] | None:
    fields = [(name, time_type if name == "timestamp" else kind) for name, kind in schema.fields()]
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        return None  # Arrow takes a lone carriage return for a line break
    comment = file.dialect.comment.encode()
    if comment and (data.startswith(comment) or b"\n" + comment in data):
        return None
    header = file.header.encode()
    if not schema.rating and header and (data.startswith(header) or b"\n" + header in data):
        return None  # a header that is repeated may pass for a record
    lines = np.arange(count)
    quote = (file.dialect.quote or "").encode()
    if quote and quote in data:
        ends = record_ends(data, file.dialect)
        if ends is None or data.count(quote) % 2:
            return None
        breaks = data.count(b"\n")
        if len(ends) < breaks:
            if not whole:
                return None
            breaks_at = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
            lines = np.concatenate([[0], np.searchsorted(breaks_at, ends) + 1])[: len(ends) + (count > breaks)]
    try:
        if file.format == "jsonl":
            table = _read_json(data, file, fields)
        else:
            table = _read_delimited(data, file, fields, len(lines) < count, schema.retractions)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if table is None or len(table) != len(lines):
        return None
    columns = [column.combine_chunks() for column in table.columns]
    # Of JSON, Arrow has the same for a null as for a field that is missing.
    nulls_at = 2 if schema.rating and schema.retractions and file.format != "jsonl" else None
    if any(column.null_count for place, column in enumerate(columns) if place != nulls_at):
        return None
    for column in columns[:2]:
        if pa.types.is_string(column.type) and not _are_fit(column, file, len(lines) < count, data):
            return None
    if schema.timestamp:
        times = parsed_times(columns[-1], file.time_form)
        if times is None:
            return None
        columns[-1] = times
    fit = not schema.rating or is_storable(columns[2].fill_null(0.0).to_numpy()).all()
    return (columns, lines) if fit else None


def _are_fit(ids: pa.Array, file: RatingFile, joined: bool, data: bytes) -> bool:
    """Whether ids, string (n,), are what `_string` accepts."""
    bounds = pc.min_max(pc.binary_length(ids)).as_py()
    if len(ids) and not 0 < bounds["min"] <= bounds["max"] <= LONGEST_ID:
        return False
    if file.format == "jsonl":
        return _is_utf8(ids)
    if joined and pc.any(pc.match_substring(ids, "\n")).as_py():
        return False
    spaces = b" " in data or (file.dialect.delimiter != "\t" and b"\t" in data)
    return not spaces or not pc.any(pc.match_substring_regex(ids, r"^[ \t]|[ \t]$")).as_py()


def _source(data: bytes) -> pa.BufferReader:
    """A text for Arrow's parsers, in memory of Arrow's own.

    Their threads may give it back after they have answered, and where Python ends in that moment, memory of Python's
    would end the process by a signal: its owner asks for Python's lock.
    """
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


def _read_json(data: bytes, file: RatingFile, fields: list[tuple[str, pa.DataType]]) -> pa.Table:
    wanted = {name: kind for name, (_, kind) in zip(file.names, fields, strict=True)}
    ids = dict(zip(file.names, file.json_ids, strict=False))
    # What the file has as a number is read as a number first, whatever it is to be.
    kinds = pa.schema([(name, pa.int64() if ids.get(name) == "int64" else kind) for name, kind in wanted.items()])
    options = pyarrow.json.ParseOptions(explicit_schema=kinds, unexpected_field_behavior="ignore")
    table = pyarrow.json.read_json(_source(data), parse_options=options).select(list(kinds.names))
    return table.cast(pa.schema(list(wanted.items())))


def _read_delimited(
    data: bytes, file: RatingFile, fields: list[tuple[str, pa.DataType]], joined: bool, retractions: bool
) -> pa.Table | None:
    dialect = file.dialect
    delimiter = (dialect.delimiter or ",").encode()
    if len(delimiter) > 1:
        if _UNIT_SEPARATOR in data:
            return None
        data = data.replace(delimiter, _UNIT_SEPARATOR)
        delimiter = _UNIT_SEPARATOR
    names = [str(position) for position in range(file.num_fields)]
    wanted = [str(position) for position in file.positions]
    kinds = dict(zip(wanted, (kind for _, kind in fields), strict=True))
    integers = [name for name, kind in zip(wanted[:2], kinds.values(), strict=False) if pa.types.is_integer(kind)]
    in_doubt = bool(integers) and may_be_spelt_otherwise(data, delimiter)
    if in_doubt:
        if b"0x" in data or b"0X" in data:
            return None
        kinds.update(dict.fromkeys(integers, pa.string()))
    table = pyarrow.csv.read_csv(
        _source(data),
        read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=max(1 << 20, len(data) * joined)),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter.decode(),
            quote_char=dialect.quote or False,
            ignore_empty_lines=False,
            newlines_in_values=joined,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=kinds,
            include_columns=wanted,
            null_values=[""] if retractions else [],
            decimal_point=dialect.decimal,
        ),
    )
    if not in_doubt:
        return table
    for name in integers:
        spelt = table[name]
        values = spelt.cast(pa.int64())
        if pc.sum(pc.binary_length(spelt)).as_py() != plain_lengths(values.combine_chunks().to_numpy()):
            return None
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table


def _is_utf8(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _well_formed(lines: list[bytes], file: RatingFile, schema: BlockSchema) -> np.ndarray:
    """Which lines are good records beyond doubt: bool (n,). It says so of the usual ones, not of every good one."""
    dialect = file.dialect
    delimiter = dialect.delimiter or ","
    plain = "[^" + re.escape(delimiter[0] + (dialect.quote or "")) + r"\r\x00-\x08\x0b-\x1f\x7f-\xff]"
    edge = "[^ " + re.escape(delimiter[0] + (dialect.quote or "")) + r"\r\x00-\x1f\x7f-\xff]"
    identifier = f"{edge}({plain}{{0,200}}{edge})?"
    patterns = [plain + "*"] * file.num_fields
    for position, (name, kind) in zip(file.positions, schema.fields(), strict=True):
        if name == "rating":
            number = rf"[0-9]{{1,9}}({re.escape(dialect.decimal)}[0-9]{{1,9}})?"
            patterns[position] = f"({number})?" if schema.retractions else number
        elif name == "timestamp" and file.time_form == OWN:
            patterns[position] = "-?[0-9]{1,18}"
        elif name == "timestamp":
            number = rf"[0-9]{{1,12}}({re.escape(dialect.decimal)}[0-9]{{1,9}})?"
            iso = {ISO: PLAIN_ISO, BY_SIZE: f"({number}|[0-9]{{13,18}}|{PLAIN_ISO})"}
            patterns[position] = iso.get(file.time_form, number)
        else:
            patterns[position] = identifier if pa.types.is_string(kind) else "(0|-?[1-9][0-9]{0,17})"
    pattern = "^" + re.escape(delimiter).join(patterns) + "\r?$"
    fits = pc.match_substring_regex(pa.array(lines, type=pa.binary()), pattern).to_numpy(zero_copy_only=False)
    if dialect.comment:
        fits &= ~np.array([line.startswith(dialect.comment.encode()) for line in lines], dtype=bool)
    if file.header:
        header = file.header.encode()
        fits &= np.array([line.removesuffix(b"\r") != header for line in lines], dtype=bool)
    return fits


def _arrow_type(name: str) -> pa.DataType:
    return pa.int64() if name == "int64" else pa.string()
