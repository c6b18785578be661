"""How a text file spells its records: delimiter, quotes, encoding and the like; and lines to fields by that."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nnsparse_stream.errors import InputError

#: A record with line breaks inside quotes is at most so long; a quote that is not closed by then is a stray one.
LONGEST_QUOTED = 1 << 20

_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
_NUMBER = {
    point: re.compile(rf"[ \t]*[+-]?([0-9]+{mark}?[0-9]*|{mark}[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
    for point, mark in ((".", r"\."), (",", ","))
}


class Dialect(NamedTuple):
    r"""How records of text are spelt: as the user says, with None for what is to be found out; or as it was found.

    Attributes:
        delimiter: what stands between fields, one character or several; "\t" may be spelt by its two characters.
        quote: the character around fields that hold delimiters; "" (or "none") for none. A delimiter of more than one
            byte goes without.
        decimal: the decimal point of ratings, "." or ",".
        encoding: of the text, as Python names it.
        comment: lines that begin with it are no records; "" for none.
        skip_lines: lines at the start of a file that are passed over.
        header: whether the first record names the columns.
        multiline: whether line breaks inside quotes are looked for in files of any size, which are then read as one
            piece each.
    """

    delimiter: str | None = None
    quote: str | None = None
    decimal: str = "."
    encoding: str = "utf-8"
    comment: str = ""
    skip_lines: int = 0
    header: bool | None = None
    multiline: bool = False

    def checked(self) -> Dialect:
        """The same in one spelling.

        Raises:
            InputError: a value is not fit, or two contradict each other.
        """
        for name, value in self._asdict().items():
            fits = {"skip_lines": (int,), "header": (bool, type(None)), "multiline": (bool,)}.get(name, (str,))
            if not isinstance(value, (*fits, type(None)) if name in ("delimiter", "quote") else fits):
                raise InputError(f"`{name}` is {value!r}; give {' or '.join(kind.__name__ for kind in fits)}")
        delimiter, quote = self.delimiter, self.quote
        if delimiter is not None:
            delimiter = delimiter.replace("\\t", "\t")
            if not delimiter or re.search(r"[\w\n\r.+-]", delimiter):
                raise InputError(
                    f"`delimiter` {delimiter!r} cannot stand between fields; give for instance ';', '|', '::' or '\\t'"
                )
        if quote is not None:
            quote = "" if quote == "none" else quote
            if quote and (len(quote) > 1 or not quote.isascii() or quote.isalnum() or quote.isspace()):
                raise InputError(f"`quote` {quote!r} is not one character of punctuation; give that, or none")
        if quote and delimiter and (quote in delimiter or len(delimiter.encode()) > 1):
            raise InputError(f"fields with `delimiter` {delimiter!r} cannot have `quote` {quote!r}; pass `quote` none")
        if self.decimal not in _NUMBER:
            raise InputError(f"`decimal` is {self.decimal!r}; give '.' or ','")
        if self.skip_lines < 0:
            raise InputError(f"`skip_lines` is {self.skip_lines}; give a number of lines from 0")
        return self._replace(delimiter=delimiter, quote=quote, encoding=_encoding_name(self.encoding))

    @property
    def is_utf8(self) -> bool:
        """Whether the text need not be decoded before it is parsed."""
        return self.encoding == "utf-8"

    @property
    def is_bytewise(self) -> bool:
        """Whether each byte is a character, as in latin-1, so that a file can be cut at any line break."""
        every = bytes(range(256))
        text = every.decode(self.encoding, errors="replace")
        return len(text) == 256 and text[:128] == every[:128].decode()

    def is_number(self, text: str) -> bool:
        """Whether a text is a decimal number; "nan", "inf" and "1_000" are not."""
        return _NUMBER[self.decimal].fullmatch(text) is not None

    def looks_decimal(self, text: str) -> bool:
        """Whether a text is no number, but would be one with a comma for its decimal point."""
        return self.decimal == "." and _DECIMAL_COMMA.fullmatch(text.strip()) is not None

    def number(self, text: str) -> float:
        """The value of a number."""
        return float(text.replace(self.decimal, "."))

    def split(self, record: str) -> tuple[list[str], set[int]]:
        """The fields of a record, and the places of those with a quote that is neither around the field nor doubled."""
        delimiter, quote = self.delimiter or ",", self.quote
        if not quote or quote not in record:
            return record.split(delimiter), set()
        fields: list[str] = []
        loose: set[int] = set()
        at = 0
        while True:
            if not record.startswith(quote, at):
                end = record.find(delimiter, at)
                text = record[at:] if end < 0 else record[at:end]
                if quote in text:
                    loose.add(len(fields))
            else:
                text, end, strict = _unquoted(record, at + 1, delimiter, quote)
                if not strict:
                    loose.add(len(fields))
            fields.append(text)
            if end < 0:
                return fields, loose
            at = end + 1

    def groups(self, lines: Sequence[bytes]) -> Iterator[tuple[int, int, bool]]:
        """Finds lines that a quoted field may join.

        A record ends where the quotes since its start are even in number and no quoted field is open. A quoted field is
        closed by a quote before a delimiter or a line break.

        Args:
            lines: without their line breaks; a record begins with the first.

        Yields:
            (first, end, closed) of each record whose line does not end it: its lines are [first, end). Where it is not
            closed, `end` is the number of lines if it may go on after the last; or else first + 1, of a quote that is
            not closed within `LONGEST_QUOTED` bytes.
        """
        if not self.quote:
            return
        delimiter, quote, comment = (self.delimiter or ",").encode(), self.quote.encode(), self.comment.encode()
        quoted = [place for place, line in enumerate(lines) if quote in line]
        place = 0
        while place < len(quoted):
            first = quoted[place]
            place += 1
            if comment and lines[first].startswith(comment):
                continue
            odd, inside = _after(lines[first], False, False, delimiter, quote)
            if not odd and not inside:
                continue
            size, end = len(lines[first]), first + 1
            for later in range(place, len(quoted)):
                size += sum(map(len, lines[end : quoted[later] + 1]))
                end = quoted[later] + 1
                if size > LONGEST_QUOTED:
                    break
                odd, inside = _after(lines[end - 1], odd, inside, delimiter, quote)
                if not odd and not inside:
                    yield first, end, True
                    place = later + 1
                    break
            else:
                size += sum(map(len, lines[end:]))
                if size <= LONGEST_QUOTED:
                    yield first, len(lines), False
                    return
            if odd or inside:
                yield first, first + 1, False


def record_ends(data: bytes, dialect: Dialect) -> np.ndarray | None:
    """Where the records of a text end in which every quote is around a field, or doubled inside one (RFC 4180).

    Args:
        data: whole lines that hold quotes; a record begins with the first.
        dialect: with a delimiter and a quote of one byte each.

    Returns:
        int64 (n,): the places of the line breaks that are not inside quotes; None where a quote stands elsewhere.
    """
    delimiter, quote = ord(dialect.delimiter or ","), ord(dialect.quote or '"')
    characters = np.frombuffer(data, dtype=np.uint8)
    quotes = np.flatnonzero(characters == quote)
    opening, closing = quotes[::2], quotes[1::2]
    before = characters[opening - 1]
    if len(opening) and opening[0] == 0:
        before[0] = ord("\n")
    after = characters[np.minimum(closing + 1, len(characters) - 1)]
    if len(closing) and closing[-1] == len(characters) - 1:
        after[-1] = ord("\n")
    opens = (before == delimiter) | (before == ord("\n")) | (before == quote)
    closes = (after == delimiter) | (after == ord("\n")) | (after == ord("\r")) | (after == quote)
    if not (opens.all() and closes.all()):
        return None
    breaks = np.flatnonzero(characters == ord("\n"))
    return breaks[np.searchsorted(quotes, breaks) % 2 == 0]


def _unquoted(record: str, at: int, delimiter: str, quote: str) -> tuple[str, int, bool]:
    """The text of a field from behind its first quote, the place of the delimiter after it or -1, if it is strict."""
    parts: list[str] = []
    strict = True
    while True:
        close = record.find(quote, at)
        if close < 0:
            return "".join([*parts, record[at:]]), -1, False
        parts.append(record[at:close])
        after = record[close + 1 : close + 2]
        if after in ("", delimiter):
            return "".join(parts), close + 1 if after else -1, strict
        parts.append(quote)
        strict = strict and after == quote
        at = close + (2 if after == quote else 1)


def _after(line: bytes, odd: bool, inside: bool, delimiter: bytes, quote: bytes) -> tuple[bool, bool]:
    """Whether, after one more line, the number of quotes is odd and a quoted field is open."""
    odd ^= bool(line.count(quote) % 2)
    line = line.removesuffix(b"\r")
    at = 0
    while True:
        if not inside:
            if not line.startswith(quote, at):
                at = line.find(delimiter, at) + 1
                if not at:
                    return odd, False
                continue
            inside, at = True, at + 1
        close = line.find(quote, at)
        if close < 0:
            return odd, True
        after = line[close + 1 : close + 2]
        if not after:
            return odd, False
        inside = after != delimiter
        at = close + (2 if after in (quote, delimiter) else 1)


def _encoding_name(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "a,1\n".encode(name).decode(name)
        bytes(range(256)).decode(name, errors="replace")
    except (LookupError, UnicodeError) as error:
        raise InputError(f"`encoding` {encoding!r} is none of text; give for instance latin-1 or utf-16") from error
    return "utf-8" if name in ("ascii", "utf-8-sig") else name
