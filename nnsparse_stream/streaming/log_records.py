"""The records of a log, one a message: JSON objects or delimited lines, by the parsers of files.

What a message means depends on no other one: there is no header, and no sample to tell formats from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.layout import DELIMITERS
from nnsparse_stream.ratings.reading import Split, to_block
from nnsparse_stream.ratings.text_records import BadRecord, parse_lines
from nnsparse_stream.ratings.time_columns import BY_SIZE
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.events import Letter, event_schema
from nnsparse_stream.streaming.records import to_events

_SHOWN_CHARACTERS = 1_000


class LogRecords:
    """Turns messages into events.

    With the format "auto", a message that begins with "{" is a JSON object, and any other a delimited line; all are
    JSON where the fields' names are no positions.

    Args:
        url: of the log, for the error's message.
        form: how messages are written.

    Raises:
        InputError: the format is one of files alone, or delimited lines are to be read without positions.
    """

    def __init__(self, url: str, form: EventFormat) -> None:
        if form.file_format == "parquet":
            raise InputError(f"{url}: `format` parquet is one of files; messages are jsonl, csv, tsv or movielens")
        self._form = form
        names = form.names
        columns = names.columns
        timed = names.timestamp is not None
        rated = "rating" in columns
        time_form = BY_SIZE if form.timestamp_unit == "auto" else form.timestamp_unit
        plain = RatingFile(url, 0, "jsonl", False, 0, (), (), 0, (), -1, time_form, rated=rated)
        dialect = form.dialect._replace(encoding="utf-8")
        json_dialect = dialect._replace(delimiter=None, quote="", header=False)
        self._json = plain._replace(names=tuple(columns.values()), dialect=json_dialect)
        self._lines: RatingFile | None = None
        self._schema = form.block_schema(timed)
        wanted = list(columns.values())
        if names.by_default:
            wanted[: 2 + rated] = map(str, range(2 + rated))
        if form.file_format != "jsonl" and all(name.isdigit() for name in wanted):
            kind = "csv" if form.file_format == "auto" else form.file_format
            delimiter = dialect.delimiter or DELIMITERS[kind][0]
            quote = '"' if dialect.quote is None and len(delimiter) == 1 else dialect.quote or ""
            found = dialect._replace(delimiter=delimiter, quote=quote, header=False)
            self._lines = plain._replace(format=kind, positions=tuple(map(int, wanted)), dialect=found)
        elif form.file_format not in ("auto", "jsonl"):
            field = next(field for field, name in zip(columns, wanted, strict=True) if not name.isdigit())
            raise InputError(f"{url}: its messages have no header; pass `{field}_column` with a position from 0")

    def events(
        self, messages: Sequence[bytes | None], stored: np.ndarray, place: Callable[[int], str]
    ) -> tuple[pa.RecordBatch, list[Letter]]:
        """Parses messages.

        Args:
            messages: in the log's order.
            stored: int64 (n,), microseconds since 1970: when the log received each.
            place: says where a message is, by its number here.

        Returns:
            A block of `events.event_schema`, in the messages' order; and a letter of each message that is no event.
        """
        bad: list[BadRecord] = []
        groups: dict[RatingFile, list[tuple[int, bytes]]] = {}
        for number, message in enumerate(messages):
            try:
                file, line = self._line(message or b"")
            except ValueError as error:
                shown = (message or b"").decode(errors="backslashreplace")[:_SHOWN_CHARACTERS]
                bad.append(BadRecord("", number, str(error), shown))
            else:
                groups.setdefault(file, []).append((number, line))
        blocks = []
        for file, lines in groups.items():
            numbers = np.array([number for number, _ in lines])
            schema = self._schema._replace(rating=file.rated)
            records = parse_lines(b"\n".join(line for _, line in lines), 0, file, schema)
            bad += [one._replace(position=int(numbers[one.position])) for one in records.bad]
            blocks.append(to_block(records._replace(positions=numbers[records.positions]), Split(file), self._schema))
        letters = [(one.position, Letter(place(one.position), one.reason, one.text)) for one in bad]
        # Arrow's parser and that of lines leave no order: it is that of the log again.
        told = [letter for _, letter in sorted(letters, key=lambda pair: pair[0])]
        if not blocks:
            return pa.RecordBatch.from_pylist([], event_schema(self._form.row_type, self._form.column_type)), told
        ratings = pa.concat_batches(blocks).sort_by("position")
        events, ahead = to_events(ratings, stored[ratings["position"].to_numpy()], place, self._form)
        return events, told + ahead

    def _line(self, message: bytes) -> tuple[RatingFile, bytes]:
        """How a message is read, and itself as one line in UTF-8; a ValueError says why it is none."""
        if not self._form.dialect.is_utf8:
            try:
                message = message.decode(self._form.dialect.encoding).encode()
            except UnicodeError:
                raise ValueError(f"it is not valid {self._form.dialect.encoding.upper()}") from None
        line = message.strip(b"\r\n")
        if not line.strip():
            raise ValueError("the message is empty")
        if self._lines is None or (self._form.file_format == "auto" and line.lstrip().startswith(b"{")):
            # Between the parts of a JSON object, line breaks are blanks.
            return self._json, line.replace(b"\r", b" ").replace(b"\n", b" ")
        if b"\n" in line or b"\r" in line:
            raise ValueError("a line break inside the message")
        dialect, quote = self._lines.dialect, (self._lines.dialect.quote or "").encode()
        if quote and quote in line:
            if any(dialect.groups([line])):
                raise ValueError("a quote is not closed; pass `quote` none where quotes are ordinary characters")
            count = len(dialect.split(line.decode(errors="surrogateescape"))[0])
        else:
            count = line.count((dialect.delimiter or ",").encode()) + 1
        return self._lines._replace(num_fields=max(count, max(self._lines.positions) + 1)), line
