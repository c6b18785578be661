"""What a record of text means: one line, or several that quotes join, to the values of its fields.

Whatever parses whole chunks at once has to agree with `parse_record`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nnsparse_stream.ids.hashing import LONGEST_ID
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.id_types import PLAIN_INTEGER
from nnsparse_stream.ratings.json_records import BadLineError, json_values
from nnsparse_stream.ratings.time_columns import BY_SIZE, ISO, OWN, iso_time, to_times

if TYPE_CHECKING:
    from nnsparse_stream.ratings.text_records import BlockSchema

#: What to do where quotes are not in order.
QUOTE_HINT = "pass `quote` none where quotes are ordinary characters"

_INTEGER = re.compile(r"[ \t]*-?[0-9]{1,19}[ \t]*")
_OTHER_INTEGER = re.compile(r"\s*[+-]?([0-9]+|0[xX][0-9a-fA-F]+)(\.0*)?\s*")
_TOO_LARGE = 1e300
#: What to do where ids do not fit.
STRING_HINT = "; pass `id_type` string where ids are not integers"


def is_storable(ratings: np.ndarray) -> np.ndarray:
    """Whether each rating, float64 (n,), is finite as the float32 that it is stored as: bool (n,)."""
    return np.abs(ratings) <= float(np.finfo(np.float32).max)


def parse_record(line: bytes, file: RatingFile, schema: BlockSchema) -> list[int | float | str | None]:
    """Parses one record: a line, or several that quotes join.

    Args:
        line: in UTF-8, without its last line break.
        file: where it is from.
        schema: what to read.

    Returns:
        The values of `BlockSchema.fields`; None for a rating that is taken back.

    Raises:
        BadLineError: it is no record; the message says why.
    """
    # Bytes that are no UTF-8 pass through: they matter only in the fields that are read.
    text = line.removesuffix(b"\r").decode("utf-8", errors="surrogateescape")
    dialect = file.dialect
    loose: set[int] = set()
    if file.format == "jsonl":
        values = json_values(text, file.names)
    else:
        if file.header and text.removesuffix("\r") == file.header:
            raise BadLineError("it repeats the header")
        if text.count("\r") > text.count("\r\n"):
            raise BadLineError("a carriage return inside the line")
        fields, loose = dialect.split(text)
        if len(fields) != file.num_fields:
            raise BadLineError(f"{len(fields)} fields where {file.num_fields} are expected")
        values = [fields[position] for position in file.positions]
    parsed: list[int | float | str | None] = []
    for place, ((name, kind), value) in enumerate(zip(schema.fields(), values, strict=True)):
        if value is None or value == "":
            if name == "rating" and schema.retractions:
                parsed.append(None)
                continue
            raise BadLineError(f"{name} is {'null' if value is None else 'empty'}")
        if isinstance(value, str) and not _is_encodable(value):
            hint = "; name the file's `encoding`" if file.format != "jsonl" else ""
            raise BadLineError(f"{name} is not valid {dialect.encoding.upper()}{hint}")
        if file.positions and file.positions[place] in loose:
            raise BadLineError(f"{name} holds a quote that is not doubled; {QUOTE_HINT}")
        if name == "rating":
            parsed.append(_rating(value, file))
        elif name == "timestamp":
            parsed.append(_timestamp(value) if file.time_form == OWN else _time(value, file))
        else:
            if file.format == "jsonl":
                _check_json_type(name, value, file.json_ids[place])
            parsed.append(_string(name, value, file) if pa.types.is_string(kind) else _integer(name, value))
    return parsed


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that were no UTF-8, or half a surrogate pair that JSON spelt out
        return False
    return True


def _rating(value: object, file: RatingFile) -> float:
    if isinstance(value, str):
        if value.strip(" \t").lstrip("+-").lower() in ("nan", "inf", "infinity"):
            raise BadLineError("rating is not finite")
        if not file.dialect.is_number(value):
            hint = "; pass `decimal` ',' where a comma is the decimal point"
            raise BadLineError("rating is not a number" + hint * file.dialect.looks_decimal(value))
        rating = file.dialect.number(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        rating = float(value) if abs(value) < _TOO_LARGE else math.inf
    else:
        raise BadLineError("rating is not a number")
    if not is_storable(np.array(rating)):
        raise BadLineError("rating is not finite")
    return rating


def _timestamp(value: object) -> int:
    number = int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadLineError("timestamp is not an integer")
    if not -(2**63) <= number < 2**63:
        raise BadLineError("timestamp does not fit in 64 bits")
    return number


def _time(value: object, file: RatingFile) -> int:
    form = file.time_form
    if form == ISO or (form == BY_SIZE and isinstance(value, str) and not file.dialect.is_number(value)):
        time = iso_time(value) if isinstance(value, str) else None
        if time is None:
            number = "no number and " * (form == BY_SIZE)
            raise BadLineError(f"timestamp is {number}no ISO date, or date and time, that the calendar has")
        return time
    if isinstance(value, str):
        if not file.dialect.is_number(value):
            raise BadLineError("timestamp is not a number")
        value = int(value) if _INTEGER.fullmatch(value) else file.dialect.number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadLineError("timestamp is not a number")
    if isinstance(value, float) or -(2**63) <= value < 2**63:
        times, unfit = to_times(pa.array([value]), form)
        if not unfit.any():
            return int(times[0].as_py())
    taken = "" if form == BY_SIZE else f": it is taken for {form}"
    raise BadLineError(f"timestamp does not fit in 64 bits as microseconds since 1970{taken}")


def _check_json_type(name: str, value: object, usual: str) -> None:
    """Raises BadLineError for an id that is a string where the file's first ids are numbers, or the reverse."""
    if usual == "int64" and isinstance(value, str):
        raise BadLineError(f"{name} is a string, and those before are numbers{STRING_HINT}")
    if usual == "string" and isinstance(value, int) and not isinstance(value, bool):
        raise BadLineError(
            f"{name} is a number, and those before are strings; pass `id_type` string to take both alike"
        )


def _integer(name: str, value: object) -> int:
    if isinstance(value, str):
        if not PLAIN_INTEGER.fullmatch(value):
            other = _OTHER_INTEGER.fullmatch(value) is not None
            what = "is an integer in another spelling than the plain one" if other else "is not an integer"
            raise BadLineError(f"{name} {what}{STRING_HINT}")
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadLineError(f"{name} is not an integer")
    if not -(2**63) <= value < 2**63:
        raise BadLineError(f"{name} does not fit in 64 bits{STRING_HINT}")
    return value


def _string(name: str, value: object, file: RatingFile) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadLineError(f"{name} is neither a string nor an integer")
    if len(value.encode()) > LONGEST_ID:
        raise BadLineError(f"{name} is longer than {LONGEST_ID} bytes")
    if file.format != "jsonl" and (value[0] in " \t" or value[-1] in " \t"):
        delimiter = (file.dialect.delimiter or ",") + " "
        hint = f"; pass `delimiter` '{delimiter}' where a space follows each delimiter" * value.startswith(" ")
        raise BadLineError(f"{name} begins or ends with a space{hint}")
    return value
