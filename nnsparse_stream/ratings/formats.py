"""What a rating file is: its format, where its fields are and what type its ids have, found out before any work starts.

Formats: Parquet; CSV and TSV with or without a header; MovieLens `user::item::rating::timestamp`; JSON lines. The text
formats may be compressed with gzip.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.parquet_failures import parquet_failure
from nnsparse_stream.ratings.time_columns import OWN, text_form, typed_form
from nnsparse_stream.storage import files as storage

SEPARATORS = {"csv": ",", "tsv": "\t", "movielens": "::"}
BOM = b"\xef\xbb\xbf"

_HEAD_BYTES = 1 << 16
# The csv module's own limit of 128 KiB a field would refuse lines that Arrow reads.
csv.field_size_limit(1 << 30)
_OTHER_COMPRESSIONS = {b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
_NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
#: An integer that is written in one way only: as text and as a number it is the same id.
_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
#: The default names, which also stand for the positions 0, 1 and 2 of a file without names.
_READ_BY_POSITION = ("user", "item", "rating")
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


class FieldNames(NamedTuple):
    """How the user names the fields of a record: each a column's name, or its position from 0 as digits.

    None where there is no such field, or it is not to be read: pairs to be scored have no rating.
    """

    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    timestamp: str | None = None

    @property
    def by_default(self) -> bool:
        """Whether user, item and rating have their default names, so that a file without names may be read too."""
        return self[:2] == ("user", "item") and self.rating in ("rating", None)


class RatingFile(NamedTuple):
    """One input file, as workers need to know it.

    Attributes:
        url: the file.
        number: position in the order of the input.
        format: "parquet", "csv", "tsv", "movielens" or "jsonl".
        compressed: whether it is compressed with gzip.
        body: of text, the bytes before the first record (decompressed): a byte order mark, and the header with the
            blank lines before it; else 0.
        names: of user, item, rating and maybe timestamp in Parquet and JSON lines; else empty.
        positions: of the same in CSV, TSV and MovieLens, from 0; else empty.
        num_fields: fields of every record of CSV, TSV and MovieLens; else 0.
        row_groups: records of each row group of a Parquet file.
        fold: fold of all its ratings, or -1 where files don't tell it.
        time_form: how its times are written, see `time_columns`.
        size: bytes of a text file that can be read from any place; else 0.
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


class EmptyFileError(InputError):
    """A file holds no record: it has no byte, blank lines or a header only, or is a Parquet file of no rows."""


class IdKind(NamedTuple):
    """What a file says about the type of its ids.

    Attributes:
        type: "int64" or "string", or None where there is nothing to tell from.
        certain: whether the file's own types say so (Parquet, JSON), or only its first lines look so.
    """

    type: str | None
    certain: bool


def is_number(text: str) -> bool:
    """Whether a text is a decimal number; "nan", "inf" and "1_000" are not."""
    return _NUMBER.fullmatch(text) is not None


def split_fields(line: str, file_format: str) -> list[str]:
    """The fields of one line of text: CSV and TSV with quotes, MovieLens without. A broken line has none."""
    if file_format == "movielens":
        return line.split("::")
    try:
        return next(csv.reader([line], delimiter=SEPARATORS[file_format]), [])
    except csv.Error:
        return []


def inspect_file(
    url: str, number: int, fold: int, names: FieldNames, file_format: str = "auto", time_unit: str = "auto"
) -> tuple[RatingFile, IdKind, IdKind]:
    """Finds out what a file is, from its first bytes or its footer.

    Args:
        url: the file.
        number: its position in the order of the input.
        fold: the fold of all its ratings, or -1.
        names: how the user names the fields.
        file_format: "parquet", "csv", "tsv", "movielens" or "jsonl", or "auto" to tell it from the content.
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
        start = stream.read(_HEAD_BYTES)
    if file_format == "parquet" or (file_format == "auto" and start.startswith(b"PAR1")):
        return _inspect_parquet(url, number, fold, names, time_unit)
    for prefix, name in _OTHER_COMPRESSIONS.items():
        if start.startswith(prefix):
            raise InputError(f"{url} is compressed with {name}; only gzip is read: decompress it first")
    compressed = start.startswith(b"\x1f\x8b")
    head, mark, whole = _head(url, start, compressed)
    lines = [line.removesuffix("\r") for line in head.decode("utf-8", errors="replace").split("\n")]
    if not any(line.strip() for line in lines):
        if whole:
            raise EmptyFileError(f"{url} is empty")
        raise InputError(f"{url}: its first {_HEAD_BYTES} bytes hold no record; remove what is before the first")
    number_of_first, first = next((place, line) for place, line in enumerate(lines) if line.strip())
    size = 0 if compressed else max(size, 0)
    if file_format == "auto":
        file_format = _detect(url, first, 2 if names.rating is None else 3)
    if file_format == "jsonl":
        columns = _json_columns(url, lines, names)
        file = RatingFile(url, number, "jsonl", compressed, mark, columns, (), 0, (), fold, size=size)
        records = [_json_fields(line, columns) for line in lines if line.strip()]
    else:
        positions, header, num_fields = _text_columns(url, split_fields(first, file_format), names, file_format)
        body = mark
        if header:
            body += sum(len(line) + 1 for line in head.split(b"\n")[: number_of_first + 1])
        file = RatingFile(url, number, file_format, compressed, body, (), positions, num_fields, (), fold, size=size)
        parsed = [split_fields(line, file_format) for line in lines if line.strip()][int(header) :]
        records = [[fields[position] for position in positions] for fields in parsed if len(fields) == num_fields]
    if whole and not any(line.strip() for line in lines[number_of_first + int(file.body > mark) :]):
        raise EmptyFileError(f"{url} holds a header only")
    if names.timestamp is not None:
        times = [record[-1] for record in records if record]
        file = file._replace(time_form=text_form(url, names.timestamp, times, time_unit))
    certain = file_format == "jsonl"
    users, items = (_id_kind([record[position] for record in records if record], certain) for position in (0, 1))
    return file, users, items


def choose_id_type(field: str, kinds: Sequence[tuple[str, IdKind]], wanted: str = "auto") -> str:
    """The one type of all files' ids.

    Args:
        field: "user" or "item", for the error's message.
        kinds: (url, kind) of each file.
        wanted: "auto", "int" or "string".

    Returns:
        "int64" or "string".

    Raises:
        InputError: the files disagree, or hold strings where integers are wanted.
    """
    if wanted == "string":
        return "string"
    strings = [url for url, kind in kinds if kind.type == "string"]
    certain_strings = [url for url, kind in kinds if kind == IdKind("string", True)]
    certain_integers = [url for url, kind in kinds if kind == IdKind("int64", True)]
    if wanted == "int" and certain_strings:
        raise InputError(f"{certain_strings[0]} holds {field} ids that are strings; pass `id_type` string")
    if wanted == "auto" and certain_integers and strings:
        raise InputError(
            f"{field} ids are integers in {certain_integers[0]} and strings in {strings[0]}; pass `id_type` string to "
            "read all as strings"
        )
    return "string" if strings and wanted == "auto" else "int64"


def _head(url: str, head: bytes, compressed: bool) -> tuple[bytes, int, bool]:
    """The whole lines at the start of a text file, decompressed; the bytes of the mark before them; if that is all."""
    if compressed:
        try:
            with storage.open_input(url, "gzip") as stream:
                head = stream.read(_HEAD_BYTES)
        except GZIP_ERRORS as error:
            raise damaged_gzip(url) from error
    ended = len(head) < _HEAD_BYTES
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{url} is UTF-16 text; convert it to UTF-8")
    if not ended and b"\n" not in head:
        raise InputError(f"{url} is no text file of ratings: there is no line break in its first {_HEAD_BYTES} bytes")
    whole = head if ended else head[: head.rindex(b"\n")]
    lines = whole.removeprefix(BOM)
    return lines, len(whole) - len(lines), ended


def damaged_gzip(url: str) -> InputError:
    """The error for a gzip file that ends early or is damaged; it says how many whole lines can be read."""
    lines = 0
    decompressor = zlib.decompressobj(wbits=31)
    with storage.open_input(url) as stream:
        try:
            while piece := stream.read(_HEAD_BYTES):
                lines += decompressor.decompress(piece).count(b"\n")
                while decompressor.eof and decompressor.unused_data:  # a file may hold several members
                    rest, decompressor = decompressor.unused_data, zlib.decompressobj(wbits=31)
                    lines += decompressor.decompress(rest).count(b"\n")
        except zlib.error:
            pass
    return InputError(f"{url}: its gzip data ends early or is damaged after line {lines}; fetch the file again")


def _detect(url: str, first: str, num_fields: int) -> str:
    if first.lstrip().startswith("{"):
        return "jsonl"
    for file_format in ("movielens", "tsv", "csv"):
        if first.count(SEPARATORS[file_format]) >= num_fields - 1:
            return file_format
    raise InputError(
        f"{url}, line 1: this is neither Parquet, JSON lines, CSV, TSV nor MovieLens '::' with {num_fields} fields or "
        f"more: {_shown(first)}; name the `format`"
    )


def _text_columns(url: str, first: list[str], names: FieldNames, file_format: str) -> tuple[tuple[int, ...], bool, int]:
    """Positions of the fields, whether the first line is a header, and the number of fields."""
    wanted = [name for name in names if name is not None]
    named = [name for name in wanted if not name.isdigit()]
    count = len(first)
    if not named:
        positions = [int(name) for name in wanted]
        header = file_format != "movielens" and not any(is_number(field) for field in first)
    elif all(name in first for name in named):
        repeated = next((name for name in named if first.count(name) > 1), None)
        if repeated is not None:
            raise InputError(f"{url}: its header names the column {repeated!r} more than once; give positions instead")
        positions = [int(name) if name.isdigit() else first.index(name) for name in wanted]
        header = True
    elif names.by_default and set(named) <= set(_READ_BY_POSITION) and _has_no_header(first, names, file_format):
        read = 2 if names.rating is None else 3
        positions = [*range(read), *(int(name) for name in wanted[read:])]
        header = False
    else:
        missing = next(name for name in named if name not in first)
        field = next(field for field, name in names._asdict().items() if name == missing)
        raise InputError(
            f"{url}, line 1: there is no column {missing!r}; the columns found are {_shown(', '.join(first))}; "
            f"pass --{field}_column with a name, or a position from 0"
        )
    beyond = next((position for position in positions if position >= count), None)
    if beyond is not None:
        raise InputError(
            f"{url}, line 1: there is no column at position {beyond} (from 0); the {count} columns found are "
            f"{_shown(', '.join(first))}"
        )
    return tuple(positions), header, count


def _has_no_header(first: list[str], names: FieldNames, file_format: str) -> bool:
    """Whether a first line without the columns' names is a record: its rating, or a pair's ids, are numbers."""
    if file_format == "movielens":
        return True
    numbers = first[2:3] if names.rating is not None else first[:2]
    return bool(numbers) and all(is_number(field) for field in numbers)


def _json_columns(url: str, lines: list[str], names: FieldNames) -> tuple[str, ...]:
    columns = tuple(name for name in names if name is not None)
    keys: list[str] = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            keys += [key for key in value if key not in keys]
    if not keys:
        raise InputError(f"{url}, line 1: this is no JSON object: {_shown(lines[0])}; name the `format`")
    missing = next((name for name in columns if name not in keys), None)
    if missing is not None:
        field = next(field for field, name in names._asdict().items() if name == missing)
        raise InputError(
            f"{url}: its JSON objects have no field {missing!r}; the fields found are {_shown(', '.join(keys))}; "
            f"pass --{field}_column NAME"
        )
    return columns


def _json_fields(line: str, columns: tuple[str, ...]) -> list[object]:
    try:
        value = json.loads(line)
    except ValueError:
        return []
    return [value.get(name) for name in columns] if isinstance(value, dict) else []


def _id_kind(ids: Sequence[object], certain: bool) -> IdKind:
    """The kind of a sample of ids; ids that are missing say nothing."""
    present = [value for value in ids if value not in (None, "")]
    if not present:
        return IdKind(None, False)
    if certain:
        return IdKind("int64" if all(isinstance(value, int) for value in present) else "string", True)
    plain = all(_PLAIN_INTEGER.fullmatch(str(value)) for value in present)
    return IdKind("int64" if plain else "string", False)


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
    columns = []
    for field, name in names._asdict().items():
        if name is None:
            continue
        if name not in schema.names and name.isdigit() and int(name) < len(schema.names):
            name = schema.names[int(name)]
        if schema.names.count(name) != 1:
            raise InputError(
                f"{url}: there is no column {name!r}, or more than one; the columns found are "
                f"{_shown(', '.join(schema.names))}; pass --{field}_column with a name, or a position from 0"
            )
        columns.append(name)
        _check_parquet_type(url, field, name, schema.field(name).type)
    groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    form = typed_form(_plain(schema.field(columns[-1]).type), time_unit) if names.timestamp is not None else None
    file = RatingFile(url, number, "parquet", False, 0, tuple(columns), (), 0, groups, fold, form or OWN)
    users, items = (
        IdKind("int64" if pa.types.is_integer(_plain(schema.field(columns[place]).type)) else "string", True)
        for place in (0, 1)
    )
    return file, users, items


def _check_parquet_type(url: str, field: str, name: str, kind: pa.DataType) -> None:
    kind = _plain(kind)
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if field in ("user", "item"):
        fits, needed = pa.types.is_integer(kind) or is_string, "integers or strings"
    elif field == "rating":
        fits = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        needed = "numbers"
    else:
        fits = typed_form(kind) is not None
        needed = "numbers, timestamps or ISO text"
    if not fits:
        raise InputError(
            f"{url}: the {field} column {name!r} is {kind}, and {needed} are needed; "
            f"pass --{field}_column with another column, or convert it"
        )


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _shown(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
