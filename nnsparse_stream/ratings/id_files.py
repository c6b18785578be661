"""Files of ids, of rows or of columns: one id a line, or one field of the records of a file as ratings come in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ratings.detection import GZIP_ERRORS, HEAD_BYTES, damaged_gzip, open_text, read_head, to_utf8
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.formats import is_text
from nnsparse_stream.ratings.id_types import PLAIN_INTEGER
from nnsparse_stream.ratings.json_records import parse_object
from nnsparse_stream.ratings.layout import DELIMITERS, FieldNames, find_layout, shown
from nnsparse_stream.ratings.parquet_failures import parquet_failure
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.matching import match_files

_IDS_AT_ONCE = 1 << 16


class IdFile(NamedTuple):
    """A file of ids, as workers need to know it.

    Attributes:
        url: the file.
        format: "parquet", "jsonl", "text" (records with delimiters) or "lines" (one id a line).
        name: of the field, in Parquet and JSON lines.
        position: of the field in records with delimiters, from 0.
        compressed: whether it is text compressed with gzip.
        header: whether the first record names the fields.
        dialect: of text.
        id_type: "int64" or "string".
    """

    url: str
    format: str
    name: str
    position: int
    compressed: bool
    header: bool
    dialect: Dialect
    id_type: str


def plan_ids(urls: Sequence[str], field: str, names: FieldNames, dialect: Dialect, id_type: str) -> list[IdFile]:
    """Finds out what files of ids are, from their first bytes or footers.

    Text is taken for records where its first line has the field's name in it, or is laid out as a record of ratings
    without names is; else for one id a line, under the field's name or not.

    Args:
        urls: files, globs or directories.
        field: "user" or "item", whose ids are read.
        names: how the user names the fields of records.
        dialect: what the user says of the dialect of text.
        id_type: "int64" or "string", of the ids that are looked for.

    Raises:
        InputError: a file is missing or damaged, or is Parquet or JSON lines without such a field.
    """
    return [_plan(url, field, names, dialect.checked(), id_type) for url in match_files(urls)]


def read_ids(file: IdFile) -> Iterator[pa.Array]:
    """Reads the ids of a file, in its order, some ten thousand at a time.

    Yields:
        int64 or string (n,), each id as often as it is there.

    Raises:
        InputError: the file is truncated or damaged, or an id is missing, or no integer where integers are looked for.
        StoreError: a store, the network or a disk failed.
    """
    read = _parquet_ids if file.format == "parquet" else _text_ids
    try:
        yield from read(file)
    except GZIP_ERRORS as error:
        raise damaged_gzip(file.url) from error
    except pa.ArrowException as error:
        raise parquet_failure(file.url, error, " is truncated or damaged") from error
    except OSError as error:
        raise StoreError(f"{file.url}: cannot be read: {storage.one_line(error)}; run it again later") from error


def _plan(url: str, field: str, names: FieldNames, dialect: Dialect, id_type: str) -> IdFile:
    name = str(getattr(names, field))
    file = IdFile(url, "lines", name, 0, False, False, dialect, id_type)
    with storage.open_input(url) as stream:
        start = stream.read(HEAD_BYTES)
    if start.startswith(b"PAR1"):
        return file._replace(format="parquet", name=_parquet_name(file, field))
    if not start:
        return file
    head = read_head(url, start, dialect)
    file = file._replace(compressed=head.compressed)
    lines = [to_utf8(line, dialect) for line in head.lines[dialect.skip_lines :]]
    content = [place for place, line in enumerate(lines) if _is_content(line, dialect)]
    if not content:
        return file
    first = lines[content[0]].decode("utf-8", errors="replace").removesuffix("\r")
    if first.lstrip().startswith("{"):
        return file._replace(format="jsonl")
    if first == name:
        return file._replace(header=True)
    delimiters = [dialect.delimiter] if dialect.delimiter else [one for some in DELIMITERS.values() for one in some]
    for delimiter in delimiters:
        of_text = dialect._replace(delimiter=delimiter, quote='"' if dialect.quote is None else dialect.quote)
        fields, _ = of_text.split(first)
        if dialect.header is not False and name in fields:
            return file._replace(format="text", position=fields.index(name), header=True, dialect=of_text)
    try:
        layout = find_layout(url, lines[content[0] :], dialect, "auto", names._replace(rating=None, timestamp=None))
    except InputError:
        return file
    position = layout.positions[FieldNames._fields.index(field)]
    return file._replace(format="text", position=position, header=bool(layout.dialect.header), dialect=layout.dialect)


def _parquet_name(file: IdFile, field: str) -> str:
    try:
        with storage.open_input(file.url) as stream:
            schema = pq.ParquetFile(stream).schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise parquet_failure(file.url, error, " is not a whole Parquet file: truncated or damaged") from error
    if file.name in schema.names:
        return file.name
    if len(schema.names) == 1:
        return str(schema.names[0])
    raise InputError(
        f"{file.url}: there is no column {file.name!r}; the columns found are {shown(', '.join(schema.names))}; pass "
        f"`{field}_column` with a name"
    )


def _parquet_ids(file: IdFile) -> Iterator[pa.Array]:
    record = 1
    with storage.open_input(file.url) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(_IDS_AT_ONCE, columns=[file.name], use_threads=False):
            ids = batch[file.name]
            ids = ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids
            if ids.null_count:
                raise InputError(f"{file.url}: a record from {record} on has no {file.name}")
            if file.id_type == "int64" and is_text(ids.type):
                ids = pa.array([_integer(text, file, record + place) for place, text in enumerate(ids.to_pylist())])
            yield ids.cast(pa.type_for_alias(file.id_type))
            record += len(batch)


def _text_ids(file: IdFile) -> Iterator[pa.Array]:
    dialect, found = file.dialect, []
    with open_text(file.url, file.compressed, dialect) as stream:
        header = file.header
        for number, data in enumerate(stream, 1):
            line = to_utf8(data, dialect).removeprefix(b"\xef\xbb\xbf" if number == 1 else b"")
            if number <= dialect.skip_lines or not _is_content(line, dialect):
                continue
            if header:
                header = False
                continue
            found.append(_id_of(line, file, number))
            if len(found) == _IDS_AT_ONCE:
                yield pa.array(found, pa.type_for_alias(file.id_type))
                found = []
    yield pa.array(found, pa.type_for_alias(file.id_type))


def _id_of(line: bytes, file: IdFile, number: int) -> int | str:
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file.url}, line {number}: not valid UTF-8; name the file's `encoding`") from error
    value: object = text
    if file.format == "jsonl":
        record = parse_object(text)
        value = None if record is None else record.get(file.name)
    elif file.format == "text":
        fields, _ = file.dialect.split(text)
        value = fields[file.position] if file.position < len(fields) else None
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise InputError(f"{file.url}, line {number}: there is no id {file.name!r} in {shown(text)}")
    return _integer(value, file, number) if file.id_type == "int64" else str(value)


def _integer(value: int | str, file: IdFile, number: int) -> int:
    if (isinstance(value, str) and not PLAIN_INTEGER.fullmatch(value)) or not -(2**63) <= int(value) < 2**63:
        raise InputError(
            f"{file.url}, record {number}: {shown(str(value))!r} is no integer of 64 bits, as the model's ids are; "
            "take it out"
        )
    return int(value)


def _is_content(line: bytes, dialect: Dialect) -> bool:
    comment = dialect.comment.encode()
    return bool(line.strip()) and not (comment and line.startswith(comment))
