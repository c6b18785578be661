"""The layout of delimited text: its delimiter, whether it has a header, and where the fields are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.dialect import Dialect

#: The formats of delimited text and the delimiters that each may have, those that are likelier first.
DELIMITERS = {"movielens": ("::",), "tsv": ("\t",), "csv": (",", ";", "|")}
#: As the name of a rating column: there is none, and every record counts as a 1.
NO_COLUMN = "none"

_SAMPLE = 500
_LEAST_TIME = 1e8
#: The default names, which also stand for the positions 0, 1 and 2 of a file without names.
_READ_BY_POSITION = ("user", "item", "rating", NO_COLUMN)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME_NAME = re.compile(
    r"(unix_?|event_?)?(timestamp|time|ts|date|datetime|date_?time|unix)(_?(ms|s|utc))?|.*(_at|_time)", re.I
)
#: Of columns of ids; other names than these are told by what is below them.
_ID_NAME = re.compile(r"(user|customer|visitor|session|item|product|movie|track|artist|book)[ _-]?(id|no)?", re.I)


class FieldNames(NamedTuple):
    """How the user names the fields of a record: each a column's name, or its position from 0 as digits.

    None where there is no such field, or it is not to be read: pairs to be scored have no rating. The rating is
    `NO_COLUMN` where every record counts as a 1.
    """

    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    timestamp: str | None = None

    @property
    def by_default(self) -> bool:
        """Whether user, item and rating have their default names, so that a file without names may be read too."""
        return self[:2] == ("user", "item") and self.rating in ("rating", NO_COLUMN, None)

    @property
    def columns(self) -> dict[str, str]:
        """The fields that are read from a file, and the name of each."""
        fields = {field: name for field, name in self._asdict().items() if name is not None}
        return {field: name for field, name in fields.items() if (field, name) != ("rating", NO_COLUMN)}

    def without_rating_column(self) -> FieldNames:
        """The same for a file in which every record counts as a 1."""
        return self._replace(rating=NO_COLUMN)


class Layout(NamedTuple):
    """How a file's records are cut into fields.

    Attributes:
        dialect: with delimiter, quote and header as they were found.
        positions: of the fields that are read.
        num_fields: of each record.
        rated: whether there is a rating among the fields that are read.
    """

    dialect: Dialect
    positions: tuple[int, ...]
    num_fields: int
    rated: bool

    @property
    def format(self) -> str:
        """The name of the format: "movielens", "tsv" or "csv", by the delimiter."""
        return {"::": "movielens", "\t": "tsv"}.get(self.dialect.delimiter or ",", "csv")


class Sample(NamedTuple):
    """The first records of a file by one dialect.

    Attributes:
        places: of each record, the place of its first line among the lines.
        ends: of each, the place behind its last line.
        records: of each, its text.
        open: whether a record has a line break inside quotes, or a quote is not closed.
    """

    places: list[int]
    ends: list[int]
    records: list[str]
    open: bool


def sample_records(lines: Sequence[bytes], dialect: Dialect) -> Sample:
    """The records at the start of a file, those left out whose quotes are not in order.

    Args:
        lines: the first lines, from the header on.
        dialect: with a delimiter.
    """
    found = list(dialect.groups(lines))
    groups = {first: end for first, end, closed in found if closed}
    stray = {first for first, _, closed in found if not closed}
    places: list[int] = []
    ends: list[int] = []
    records: list[str] = []
    place = 0
    while place < len(lines) and len(records) < _SAMPLE:
        end = groups.get(place, place + 1)
        text = b"\n".join(lines[place:end]).decode("utf-8", errors="replace").removesuffix("\r")
        if text.strip() and place not in stray and not (dialect.comment and text.startswith(dialect.comment)):
            places.append(place)
            ends.append(end)
            records.append(text)
        place = end
    return Sample(places, ends, records, bool(found))


def find_layout(url: str, lines: Sequence[bytes], wish: Dialect, file_format: str, names: FieldNames) -> Layout:
    """Finds out how a text file is laid out, from its first lines.

    Args:
        url: the file, for the error's message.
        lines: the first lines in UTF-8, without those that `skip_lines` passes over.
        wish: what the user says of the dialect.
        file_format: "csv", "tsv", "movielens", or "auto".
        names: how the user names the fields.

    Raises:
        InputError: no delimiter gives records with these fields; the message shows what was found.
    """
    if wish.delimiter is not None:
        candidates: tuple[str, ...] = (wish.delimiter,)
        of_format = DELIMITERS.get(file_format)
        if of_format and (file_format != "csv") and wish.delimiter not in of_format:
            raise InputError(
                f"`format` {file_format} and `delimiter` {wish.delimiter!r} contradict each other; drop one"
            )
    elif file_format == "auto":
        candidates = tuple(delimiter for some in DELIMITERS.values() for delimiter in some)
    else:
        candidates = DELIMITERS[file_format]
    tried = [_try(url, lines, _with_delimiter(wish, delimiter), names, candidates) for delimiter in candidates]
    best = max(tried, key=lambda attempt: attempt.merit)
    if best.error is not None:
        if not best.width and wish.delimiter is None:
            raise InputError(
                f"{url}, line 1: this is neither Parquet, JSON lines, CSV, TSV nor MovieLens '::' with "
                f"{len(names.columns)} fields or more: {shown(best.first)}; name the `format`, or the `delimiter`"
            )
        raise best.error
    assert best.layout is not None
    if best.unclean > 0.5 and wish.delimiter is None:
        raise InputError(
            f"{url}, line 1: with the delimiter {best.layout.dialect.delimiter!r}, fields still hold another one: "
            f"{shown(best.first)}; name the `delimiter`"
        )
    return best.layout


class _Attempt(NamedTuple):
    """What one delimiter makes of a file: the merit by which attempts are compared, and the layout or what is wrong."""

    merit: tuple[bool, float, float, int]
    layout: Layout | None
    error: InputError | None
    first: str
    width: int
    unclean: float


def _with_delimiter(wish: Dialect, delimiter: str) -> Dialect:
    quote = wish.quote
    if quote is None:
        quote = '"' if len(delimiter.encode()) == 1 else ""
    return wish._replace(delimiter=delimiter, quote="" if len(delimiter.encode()) > 1 else quote)


def _try(url: str, lines: Sequence[bytes], dialect: Dialect, names: FieldNames, candidates: Sequence[str]) -> _Attempt:
    sample = sample_records(lines, dialect)
    if not sample.records:
        error = InputError(f"{url}: its first lines hold no record; look at `skip_lines`, `comment` and `quote`")
        return _Attempt((False, 0.0, 0.0, 0), None, error, "", 0, 0.0)
    split = [dialect.split(record)[0] for record in sample.records]
    first = split[0]
    width = Counter(map(len, split[1:] or split)).most_common(1)[0][0]
    alike = sum(len(fields) == width for fields in split) / len(split)
    order = -candidates.index(str(dialect.delimiter))
    fields_found = 0 if len(first) < 2 else len(first)
    try:
        layout = _layout(url, split, dialect, names)
    except InputError as error:
        merit = (False, float(fields_found > 1), alike, fields_found)
        return _Attempt(merit, None, error, sample.records[0], fields_found, 0.0)
    others = [other for other in candidates if other != dialect.delimiter]
    header = int(bool(layout.dialect.header))
    records, quote = split[header:], dialect.quote or ""
    good = unclean = 0
    for fields, text in zip(records, sample.records[header:], strict=True):
        if len(fields) != layout.num_fields:
            continue
        read = [fields[position] for position in layout.positions]
        quoted = bool(quote) and quote in text
        if not quoted and any(o in value and not _is_numeric(value, dialect) for o in others for value in read):
            unclean += 1
        elif not layout.rated or names.rating is None or dialect.is_number(read[2]):
            good += 1
    count = max(len(records), 1)
    return _Attempt(
        (True, good / count if records else 1.0, alike, order), layout, None, sample.records[0], width, unclean / count
    )


def _layout(url: str, split: list[list[str]], dialect: Dialect, names: FieldNames) -> Layout:
    """The layout that the first records have, each cut into fields by the dialect."""
    first = split[0]
    columns = names.columns
    named = [name for name in columns.values() if not name.isdigit()]
    rated = "rating" in columns
    if dialect.header is not False and _is_clicks(first, names):
        names = names.without_rating_column()
        columns, rated = names.columns, False
        named = [name for name in columns.values() if not name.isdigit()]
    wanted = list(columns.values())
    if not named:
        header = bool(dialect.header)
        positions = [int(name) for name in wanted]
        # Where there are ratings, a header has none, and is a bad record.
        if dialect.header is None and not rated and _seems_header(split, dialect, positions[:2]):
            raise InputError(
                f"{url}, line 1: this seems to be a header: {shown(', '.join(first))}; pass `header` true, or false "
                "where it is a record"
            )
    elif dialect.header is not False and all(name in first for name in named):
        repeated = next((name for name in named if first.count(name) > 1), None)
        if repeated is not None:
            raise InputError(f"{url}: its header names the column {repeated!r} more than once; give positions instead")
        header = True
        positions = [int(name) if name.isdigit() else first.index(name) for name in wanted]
    elif (
        dialect.header is not True
        and names.by_default
        and set(named) <= set(_READ_BY_POSITION)
        # A record without its rating says nothing of headers.
        and (dialect.header is False or _is_record(next((f for f in split if f[2:3] != [""]), first), names, dialect))
    ):
        header = False
        read = 2 + rated
        positions = [*range(read), *(int(name) for name in wanted[read:])]
        if rated:
            _refuse_times(url, split, dialect)
    else:
        raise _missing(url, first, names, dialect, named)
    width = len(first) if header else Counter(map(len, split)).most_common(1)[0][0]
    beyond = next((position for position in positions if position >= width), None)
    if beyond is not None:
        advice = f"; {no_rating_advice()}" if rated and beyond == positions[2] else ""
        raise InputError(
            f"{url}, line 1: there is no column at position {beyond} (from 0); the {width} columns found are "
            f"{shown(', '.join(first))}{advice}"
        )
    if len(set(positions)) < len(positions):
        raise InputError(f"{url}: two of {', '.join(f'`{field}_column`' for field in columns)} name the same column")
    return Layout(dialect._replace(header=header), tuple(positions), width, rated)


def _is_numeric(text: str, dialect: Dialect) -> bool:
    return dialect.is_number(text) or dialect.looks_decimal(text)


def _is_clicks(header: list[str], names: FieldNames) -> bool:
    """Whether a header names users and items, and beside these nothing but times."""
    if names.rating != "rating" or not all(name in header for name in (names.user, names.item)):
        return False
    return all(is_time_name(name) for name in header if name not in (names.user, names.item, names.timestamp))


def is_time_name(name: str) -> bool:
    """Whether a column of this name is taken for one of times."""
    return _TIME_NAME.fullmatch(name) is not None


def no_rating_advice() -> str:
    """What to do with a log without ratings."""
    return "where every record is an interaction, as a click, pass `feedback` implicit, or `rating_column` none"


def _seems_header(split: list[list[str]], dialect: Dialect, ids: list[int]) -> bool:
    """Whether a first line has a word where all others have a number or a date, or has the names of users and items."""

    def of_word(field: str) -> bool:
        return not dialect.is_number(field) and not _DATE.match(field)

    first, *others = split
    columns = zip(first, *(fields for fields in others if len(fields) == len(first)), strict=True)
    if len(others) and any(of_word(word) and len(rest) and not any(map(of_word, rest)) for word, *rest in columns):
        return True
    return all(place < len(first) and _ID_NAME.fullmatch(first[place]) for place in ids)


def _is_record(first: list[str], names: FieldNames, dialect: Dialect) -> bool:
    """Whether a first line without the columns' names is a record: its rating, or a pair's ids, are numbers."""
    if dialect.delimiter == "::":
        return True
    numbers = first[2:3] if "rating" in names.columns else first[:2]
    return bool(numbers) and all(dialect.is_number(field) for field in numbers)


def _refuse_times(url: str, split: list[list[str]], dialect: Dialect) -> None:
    """Refuses a file without names whose third field is plainly a time."""
    thirds = [fields[2] for fields in split if len(fields) > 2 and dialect.is_number(fields[2])]
    if thirds and all(dialect.number(third) >= _LEAST_TIME for third in thirds):
        raise InputError(
            f"{url}, line 1: its third field seems to be a time and no rating: {shown(thirds[0])}; "
            f"{no_rating_advice()} (and `timestamp_column` 2); else give all positions: `user_column` 0, "
            "`item_column` 1 and the rating's"
        )


def _missing(url: str, first: list[str], names: FieldNames, dialect: Dialect, named: list[str]) -> InputError:
    name = next((name for name in named if name not in first), named[0])
    field = next(field for field, given in names.columns.items() if given == name)
    if dialect.header is False and name in first:
        return InputError(f"{url}: with `header` false there are no names; give positions from 0 for the columns")
    advice = f"pass `{field}_column` with a name, or a position from 0"
    if any(found.strip() == name for found in first):
        advice = f"a space stands beside the delimiter: pass `delimiter` '{dialect.delimiter} '"
    elif len(first) > 2 and dialect.looks_decimal(first[2]):
        advice = "where a comma is the decimal point, pass `decimal` ','"
    elif field == "rating" or (names.by_default and "rating" in names.columns and _may_be_clicks(first)):
        advice += f"; {no_rating_advice()}"
    return InputError(
        f"{url}, line 1: there is no column {name!r}; the columns found are {shown(', '.join(first))}; {advice}"
    )


def _may_be_clicks(first: list[str]) -> bool:
    """Whether a first line without names has no third field, or a date there."""
    return len(first) == 2 or (len(first) > 2 and _DATE.match(first[2]) is not None)


def shown(text: str) -> str:
    """A text as errors show it: its beginning."""
    return text if len(text) <= 200 else text[:200] + "..."
