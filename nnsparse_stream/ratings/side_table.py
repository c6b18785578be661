"""Files of what is known of users or items beside their ratings, one record each, as Arrow tables."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.detection import BOM, GZIP_ERRORS, HEAD_BYTES, damaged_gzip, open_text, read_head, to_utf8
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.layout import shown
from nnsparse_stream.storage import files as storage

#: What may stand between the fields of text; `|` stands between the tags of a field.
_DELIMITERS = ("::", "\t", ",", ";")
# Takes the place of a delimiter of several bytes: a control character that no value holds.
_UNIT_SEPARATOR = "\x1f"
_INTEGER = r"^[+-]?[0-9]{1,18}$"


def read_side_table(url: str, id_type: str, encoding: str = "utf-8") -> pa.Table:
    """Reads a file of records that begin with an id: Parquet; or CSV, TSV or `::`, plain or gzip.

    Text has a header, unless its delimiter is `::`: then the fields are named by their positions from 0. The file is
    held in memory.

    Args:
        url: the file.
        id_type: "int64" or "string".
        encoding: of text, as Python names it.

    Returns:
        The id as column `row` (of `id_type`, distinct, without nulls), then the file's other columns; those of text are
        strings.

    Raises:
        InputError: the file is missing or damaged, of another format, or has no column beside the id; an id is missing,
            of another type, or occurs twice.
    """
    with storage.open_input(url) as stream:
        start = stream.read(HEAD_BYTES)
    try:
        if start.startswith(b"PAR1"):
            with storage.open_input(url) as stream:
                table = pq.ParquetFile(stream).read(use_threads=False)
        else:
            table = _read_text(url, start, Dialect(encoding=encoding).checked())
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{url} cannot be read ({storage.one_line(error)}); is it damaged?") from error
    if table.num_columns < 2 or len(set(table.column_names)) < table.num_columns:
        raise InputError(
            f"{url} has the columns {shown(', '.join(table.column_names))}; give an id and one or more others, each "
            "with a name of its own"
        )
    ids = _ids(url, table.column_names[0], table.column(0).combine_chunks(), id_type)
    others = [name for name in table.column_names[1:] if name != "row"]
    return pa.table([ids, *(table[name] for name in others)], names=["row", *others])


def _read_text(url: str, start: bytes, dialect: Dialect) -> pa.Table:
    head = read_head(url, start, dialect)
    first = to_utf8(head.lines[0], dialect).decode("utf-8", errors="replace")
    delimiter = next((delimiter for delimiter in _DELIMITERS if delimiter in first), None)
    if delimiter is None or first.lstrip().startswith("{"):
        raise InputError(
            f"{url}, line 1: this is neither Parquet, CSV, TSV nor '::' with an id and one or more fields: "
            f"{shown(first)}; write one of these"
        )
    try:
        with open_text(url, head.compressed, dialect) as stream:
            text = to_utf8(stream.read(), dialect).removeprefix(BOM)
    except GZIP_ERRORS as error:
        raise damaged_gzip(url) from error
    wide = len(delimiter) > 1
    if wide:
        text = text.replace(delimiter.encode(), _UNIT_SEPARATOR.encode())
    width = first.count(delimiter) + 1
    names = [str(position) for position in range(width)] if wide else None
    kinds = {name: pa.string() for name in names or [name.strip('"\r') for name in first.split(delimiter)]}
    try:
        return pyarrow.csv.read_csv(
            io.BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=_UNIT_SEPARATOR if wide else delimiter, quote_char=False if wide else '"'
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""]),
        )
    except pa.ArrowInvalid as error:
        advice = "; name its `encoding`" if "UTF8" in str(error) else ""
        raise InputError(f"{url} is no table of text ({storage.one_line(error)}){advice}") from error


def _ids(url: str, name: str, ids: pa.Array, id_type: str) -> pa.Array:
    """The ids as they are in a data set."""
    if ids.null_count:
        raise InputError(f"{url}: record {pc.index(pc.is_null(ids), True).as_py() + 1} has no id in column {name!r}")
    texts = ids.cast(pa.string())
    if id_type == "int64":
        bad = pc.invert(pc.match_substring_regex(texts, _INTEGER))
        if pc.any(bad).as_py():
            found = texts.filter(bad)[0].as_py()
            raise InputError(
                f"{url}: the id {shown(found)} in column {name!r} is no integer, and those of the ratings are; put the "
                "id into the first column, and a header above it (a file with '::' has none)"
            )
        ids = texts.cast(pa.int64())
    else:
        ids = texts
    counts = ids.value_counts()
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(f"{url}: the id {shown(str(twice[0]))} has more than one record; keep one")
    return ids
