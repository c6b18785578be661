"""What a rating file is: its format, where its fields are and what type its ids have, found out before any work starts.

Formats: Parquet; delimited text (CSV, TSV, MovieLens' `::`) with or without a header; JSON lines. Text may be
compressed with gzip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.detection import HEAD_BYTES, Head, read_head, refuse_other_text, to_utf8
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.id_types import IdKind, json_id_kind, text_id_kind
from nnsparse_stream.ratings.json_records import parse_object
from nnsparse_stream.ratings.layout import (
    DELIMITERS,
    FieldNames,
    find_layout,
    is_time_name,
    no_rating_advice,
    sample_records,
    shown,
)
from nnsparse_stream.ratings.parquet_failures import parquet_failure
from nnsparse_stream.ratings.time_columns import OWN, text_form, typed_form
from nnsparse_stream.storage import files as storage

FORMATS = ("parquet", *reversed(DELIMITERS), "jsonl")


class RatingFile(NamedTuple):
    """One input file, as workers need to know it.

    Attributes:
        url: the file.
        number: position in the order of the input.
        format: "parquet", "csv", "tsv", "movielens" or "jsonl".
        compressed: whether it is compressed with gzip.
        body: of text, the bytes before the first record (decompressed, and in UTF-8 unless `Dialect.is_bytewise`): a
            byte order mark, the lines that are skipped, and the header with the blank lines before it; else 0.
        names: of user, item, rating and maybe timestamp in Parquet and JSON lines; else empty.
        positions: of the same in delimited text, from 0; else empty.
        num_fields: fields of every record of delimited text; else 0.
        row_groups: records of each row group of a Parquet file.
        fold: fold of all its ratings, or -1 where files don't tell it.
        time_form: how its times are written, see `time_columns`.
        size: bytes of a text file that can be read from any place; else 0.
        dialect: of text, with nothing left to find out.
        rated: whether it has ratings; else every record counts as a 1, and names and positions hold none of them.
        one_piece: whether a text file must be read from its beginning to its end, for a record may have line breaks.
        header: of delimited text, the record that names its columns; "" where there is none.
        json_ids: of JSON lines, "int64" or "string" for user and item where its first ids are all of that type, so that
            another one is a bad record; "" where both are taken.
    """

    url: str
    number: int
    format: str
    compressed: bool
    body: int
    names: tuple[str, ...]
    positions: tuple[int, ...]
    num_fields: int
    row_groups: tuple[int, ...]
    fold: int
    time_form: str = OWN
    size: int = 0
    dialect: Dialect = Dialect()
    rated: bool = True
    one_piece: bool = False
    header: str = ""
    json_ids: tuple[str, str] = ("", "")


class EmptyFileError(InputError):
    """A file holds no record: it has no byte, blank lines or a header only, or is a Parquet file of no rows."""


def inspect_file(
    url: str,
    number: int,
    fold: int,
    names: FieldNames,
    file_format: str = "auto",
    dialect: Dialect = Dialect(),  # noqa: B008 (immutable)
    time_unit: str = "auto",
) -> tuple[RatingFile, IdKind, IdKind]:
    """Finds out what a file is, from its first bytes or its footer.

    Args:
        url: the file.
        number: its position in the order of the input.
        fold: the fold of all its ratings, or -1.
        names: how the user names the fields.
        file_format: "parquet", "csv", "tsv", "movielens" or "jsonl", or "auto" to tell it from the content.
        dialect: what the user says of the dialect of text, as `Dialect.checked` gives it.
        time_unit: of times that are numbers: "s", "ms", "us" or "ns", or "auto".

    Returns:
        The file, and what it says of the user ids and of the item ids.

    Raises:
        EmptyFileError: the file holds no record.
        InputError: the file is missing, damaged, of no known format, or lacks a column.
    """
    size = storage.file_size(url)
    if size == 0:
        raise EmptyFileError(f"{url} is empty")
    with storage.open_input(url) as stream:
        start = stream.read(HEAD_BYTES)
    if file_format == "parquet" or (file_format == "auto" and start.startswith(b"PAR1")):
        return _inspect_parquet(url, number, fold, names, time_unit)
    if start.startswith(b"PAR1"):
        raise InputError(f"{url} is a Parquet file, and `format` is {file_format}; drop `format`")
    head = read_head(url, start, dialect)
    lines = [to_utf8(line, dialect) for line in head.lines]
    place = next((place for place, line in enumerate(lines) if _is_content(line, place, dialect)), None)
    if place is None and head.ended:
        raise EmptyFileError(f"{url} is empty")
    if place is None:
        raise InputError(f"{url}: its first {HEAD_BYTES} bytes hold no record; look at `skip_lines` and `comment`")
    first = lines[place].decode("utf-8", errors="replace").removesuffix("\r")
    if file_format in ("auto", "jsonl"):
        refuse_other_text(url, first)
    file = RatingFile(
        url, number, file_format, head.compressed, head.mark, (), (), 0, (), fold, size=0 if head.compressed else size
    )._replace(one_piece=not (dialect.is_utf8 or dialect.is_bytewise), dialect=dialect)
    file = file._replace(body=_bytes_before(head, dialect.skip_lines), size=max(file.size, 0))
    if file_format == "jsonl" or (
        file_format == "auto" and dialect.delimiter is None and first.lstrip().startswith("{")
    ):
        return _inspect_json(file, lines[dialect.skip_lines :], names, time_unit)
    layout = find_layout(url, lines[place:], dialect, file_format, names)
    sample = sample_records(lines[place:], layout.dialect)
    if layout.dialect.header:
        file = file._replace(body=_bytes_before(head, place + sample.ends[0]), header=sample.records[0])
    file = file._replace(
        format=layout.format,
        positions=layout.positions,
        num_fields=layout.num_fields,
        dialect=layout.dialect,
        rated=layout.rated,
        one_piece=file.one_piece or dialect.multiline or sample.open,
    )
    header = int(bool(layout.dialect.header))
    if head.ended and not sample.open and len(sample.records) == header:
        raise EmptyFileError(f"{url} holds a header only")
    parsed = [
        (f"{url}, line {place + at + 1}", fields)
        for at, record in zip(sample.places[header:], sample.records[header:], strict=True)
        if len(fields := layout.dialect.split(record)[0]) == layout.num_fields and record != file.header
    ]
    if names.timestamp is not None:
        times = [fields[layout.positions[-1]] for _, fields in parsed]
        file = file._replace(time_form=text_form(url, names.timestamp, times, time_unit))
    if layout.rated and names.rating is not None:
        # What is no record for its rating, as a second line of units, says nothing of the ids.
        parsed = [part for part in parsed if layout.dialect.is_number(part[1][layout.positions[2]])] or parsed
    users, items = (
        text_id_kind((where, fields[position]) for where, fields in parsed) for position in layout.positions[:2]
    )
    return file, users, items


def _is_content(line: bytes, place: int, dialect: Dialect) -> bool:
    comment = dialect.comment.encode()
    return place >= dialect.skip_lines and bool(line.strip()) and not (comment and line.startswith(comment))


def _bytes_before(head: Head, place: int) -> int:
    """Bytes before a line of the head; the last line may lack its line break."""
    return head.mark + sum(len(line) + 1 for line in head.lines[:place])


def _inspect_json(
    file: RatingFile, lines: Sequence[bytes], names: FieldNames, time_unit: str
) -> tuple[RatingFile, IdKind, IdKind]:
    dialect = file.dialect._replace(delimiter=None, quote="", header=False)
    objects = [
        (f"{file.url}, line {place + file.dialect.skip_lines + 1}", value)
        for place, line in enumerate(lines)
        if (value := parse_object(line.decode("utf-8", errors="replace"))) is not None
    ]
    keys = list(dict.fromkeys(key for _, value in objects for key in value))
    if not keys:
        first = next(line for line in lines if line.strip()).decode("utf-8", errors="replace")
        raise InputError(f"{file.url}, line 1: this is no JSON object: {shown(first)}; name the `format`")
    for field, name in names.columns.items():
        if name not in keys:
            advice = f"; {no_rating_advice()}" if field == "rating" else ""
            raise InputError(
                f"{file.url}: its JSON objects have no field {name!r}; the fields found are {shown(', '.join(keys))}; "
                f"pass `{field}_column` NAME{advice}"
            )
    users, items = (
        json_id_kind((where, value.get(name)) for where, value in objects) for name in (names.user, names.item)
    )
    ids = tuple(kind.type if kind.type in ("int64", "string") else "" for kind in (users, items))
    columns = tuple(names.columns.values())
    file = file._replace(
        format="jsonl",
        names=columns,
        dialect=dialect,
        rated="rating" in names.columns,
        json_ids=(str(ids[0]), str(ids[1])),
    )
    if names.timestamp is not None:
        times = [value.get(names.timestamp) for _, value in objects]
        file = file._replace(time_form=text_form(file.url, names.timestamp, times, time_unit))
    return file, users, items


def _inspect_parquet(
    url: str, number: int, fold: int, names: FieldNames, time_unit: str
) -> tuple[RatingFile, IdKind, IdKind]:
    try:
        with storage.open_input(url) as stream:
            metadata = pq.ParquetFile(stream).metadata
    except (pa.ArrowException, OSError) as error:
        raise parquet_failure(url, error, " is not a whole Parquet file: truncated or damaged") from error
    if not metadata.num_rows:
        raise EmptyFileError(f"{url} holds no row")
    schema = metadata.schema.to_arrow_schema()
    if names.rating == "rating" and "rating" not in schema.names:
        others = [name for name in schema.names if name not in (names.user, names.item, names.timestamp)]
        if all(is_time_name(name) for name in others):
            names = names.without_rating_column()
    columns = []
    for field, name in names.columns.items():
        if name not in schema.names and name.isdigit() and int(name) < len(schema.names):
            name = schema.names[int(name)]
        if schema.names.count(name) != 1:
            advice = f"; {no_rating_advice()}" if field == "rating" else ""
            raise InputError(
                f"{url}: there is no column {name!r}, or more than one; the columns found are "
                f"{shown(', '.join(schema.names))}; pass `{field}_column` with a name, or a position from 0{advice}"
            )
        columns.append(name)
        _check_parquet_type(url, field, name, schema.field(name).type)
    groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    form = typed_form(_plain(schema.field(columns[-1]).type), time_unit) if names.timestamp is not None else None
    file = RatingFile(
        url,
        number,
        "parquet",
        False,
        0,
        tuple(columns),
        (),
        0,
        groups,
        fold,
        form or OWN,
        rated="rating" in names.columns,
    )
    users, items = (
        IdKind("string" if is_text(_plain(schema.field(columns[place]).type)) else "int64", True) for place in (0, 1)
    )
    return file, users, items


def _check_parquet_type(url: str, field: str, name: str, kind: pa.DataType) -> None:
    kind = _plain(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if field in ("user", "item"):
        fits, needed = number or is_text(kind), "numbers or strings"
    elif field == "rating":
        fits, needed = number, "numbers"
    else:
        fits = typed_form(kind) is not None
        needed = "numbers, timestamps or ISO text"
    if not fits:
        raise InputError(
            f"{url}: the {field} column {name!r} is {kind}, and {needed} are needed; "
            f"pass `{field}_column` with another column, or convert it"
        )


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
