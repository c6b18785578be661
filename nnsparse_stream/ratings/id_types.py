"""What type ids have: what each file says of it, and the one type of all files.

In text an id is what is written: two spellings are two ids. Where all ids that are looked at are plain integers, they
are stored as integers, and what is spelt in any other way is a bad record. In typed formats a number is its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nnsparse_stream.errors import InputError

#: An integer as it is written in one way only; up to 19 digits, not all of which fit in 64 bits.
PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FRACTION = re.compile(r"[+-]?[0-9]+\.0*")
_POWERS = np.uint64(10) ** np.arange(1, 20, dtype=np.uint64)
#: Bytes that fit in a core's nearest caches together with what is compared.
_CACHED = 1 << 16


class IdKind(NamedTuple):
    """What a file says about the type of its ids.

    Attributes:
        type: "int64", "string", "mixed" of JSON numbers and strings; None where there is nothing to tell from.
        certain: whether the file's own types say so (Parquet, JSON), or only its first lines look so.
        integer, fraction, string: where, and how, an id is first written as an integer; in text as one with a
            decimal point; in JSON as a string. "" where none is.
    """

    type: str | None
    certain: bool
    integer: str = ""
    fraction: str = ""
    string: str = ""


def text_id_kind(ids: Iterable[tuple[str, str]]) -> IdKind:
    """The kind of a sample of ids as text, each with its place; empty ones say nothing."""
    plain, integer, fraction = True, "", ""
    seen = False
    for place, text in ids:
        if not text:
            continue
        seen = True
        if is_plain_integer(text):
            integer = integer or f"{text} in {place}"
        else:
            plain = False
            if _FRACTION.fullmatch(text):
                fraction = fraction or f"{text} in {place}"
    if not seen:
        return IdKind(None, False)
    return IdKind("int64" if plain else "string", False, integer, fraction)


def json_id_kind(ids: Iterable[tuple[str, object]]) -> IdKind:
    """The kind of a sample of JSON values, each with its place; what is neither number nor string says nothing."""
    integer = string = ""
    for place, value in ids:
        if isinstance(value, str) and value:
            string = string or f'"{value}" in {place}'
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            integer = integer or f"{value} in {place}"
    if not integer and not string:
        return IdKind(None, False)
    kind = "mixed" if integer and string else "string" if string else "int64"
    return IdKind(kind, True, integer, string=string)


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
    strings = [url for url, kind in kinds if kind.type in ("string", "mixed")]
    certain_strings = [url for url, kind in kinds if kind.certain and kind.type in ("string", "mixed")]
    certain_integers = [url for url, kind in kinds if kind.certain and kind.type == "int64"]
    if wanted == "int":
        if certain_strings:
            raise InputError(f"{certain_strings[0]} holds {field} ids that are strings; pass `id_type` string")
        return "int64"
    mixed = next((kind for _, kind in kinds if kind.type == "mixed"), None)
    if mixed is not None:
        raise InputError(
            f"{field} ids are written as a number and as a string: {mixed.integer}, {mixed.string}; write them alike, "
            "or pass `id_type` string to take equal ones for the same"
        )
    if certain_integers and strings:
        raise InputError(
            f"{field} ids are integers in {certain_integers[0]} and strings in {strings[0]}; pass `id_type` string to "
            "read all as strings"
        )
    integer = next((kind.integer for _, kind in kinds if kind.integer), "")
    fraction = next((kind.fraction for _, kind in kinds if kind.fraction), "")
    if integer and fraction:
        raise InputError(
            f"{field} ids are written with and without a decimal point: {integer}, {fraction}; write them alike, or "
            "pass `id_type` string to take them for different ids"
        )
    return "string" if strings else "int64"


def is_plain_integer(text: str) -> bool:
    """Whether a text is an integer of 64 bits in its one plain spelling: no zeros before it, no plus, no spaces."""
    return PLAIN_INTEGER.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63


def plain_lengths(ids: np.ndarray) -> int:
    """How many characters integers, int64 (n,), take together in their plain spelling."""
    digits = np.searchsorted(_POWERS, np.abs(ids).view(np.uint64), side="right")
    return int(digits.sum()) + len(ids) + int((ids < 0).sum())


def may_be_spelt_otherwise(data: bytes, delimiter: bytes) -> bool:
    """Whether a text may hold an integer that is not spelt plainly, as 007, -0, 0x1F, or with spaces around it.

    Arrow's parser reads all of these. It errs on one side only: dates and times make it say yes, too.

    Args:
        data: lines of delimited text.
        delimiter: one byte.
    """
    if any(space in data for space in (b" ", b"\t") if space != delimiter):
        return True
    # To look for one byte is far faster than for two.
    if any(pair[sign : sign + 1] in data and pair in data for pair, sign in ((b"-0", 0), (b"0x", 1), (b"0X", 1))):
        return True
    if data[:1] == b"0" and data[1:2].isdigit():
        return True
    characters = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, len(characters), _CACHED):
        piece = characters[start : start + _CACHED + 2]
        before = piece[:-2]
        # Whatever may stand before a number sorts so low, but for delimiters as ";" and "|".
        found = before <= ord("-")
        if ord(delimiter) > ord("-"):
            found |= before == ord(delimiter)
        found &= piece[1:-1] == ord("0")
        if found.any() and (found & (piece[2:] - np.uint8(ord("0")) < 10)).any():
            return True
    return False
