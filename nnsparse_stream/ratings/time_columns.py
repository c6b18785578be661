"""How a file's time column is written, and its values as the int64 that blocks of ratings hold.

A column has one *form*:

- "own": integers, kept as they are: only the user knows what they count;
- "s", "ms", "us", "ns": numbers since 1970 (UTC), with or without decimals. Decimals without a unit are seconds;
- "iso": text, an ISO date, or a date and time; UTC where it names no zone;
- "calendar": what Parquet itself says is a timestamp or a date;
- "by size": of events, where no unit is named: each number is one of seconds, milliseconds, microseconds or nanoseconds
  since 1970, whichever lies nearest to our days, and each text an ISO date, or a date and time.

All but the first become microseconds since 1970 (UTC): of what is finer, the rest is dropped, but decimals are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.errors import InputError

OWN, ISO, CALENDAR, BY_SIZE = "own", "iso", "calendar", "by size"
UNITS = ("s", "ms", "us", "ns")

#: Microseconds of a unit; a nanosecond is divided by 1000 instead.
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1, "D": 86_400_000_000}
_NANOSECONDS = 1_000
#: By size, a number below the first is one of seconds (the year 5138), below the second of milliseconds (1973 to 5138),
#: below the third of microseconds, and else of nanoseconds.
_SIZES = (1e11, 1e14, 1e17)
#: Up to here float64 holds every integer.
_EXACT = 2.0**53
_LARGEST = 2.0**63
#: What Arrow's parser of ISO times does not take, and what it takes instead: digits below a microsecond, other names of
#: UTC, a blank before an offset.
_SPELLINGS = (
    (r"([.][0-9]{6})[0-9]+", r"\1"),
    (r" ?(UTC|GMT|Z)$", "Z"),
    (r" ([+-][0-9]{2}:?[0-9]{2})$", r"\1"),
)
_ZONE = r"[T ].*(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_ISO_TYPES = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
#: An ISO date and time beyond doubt: Arrow's parser and this module read it alike.
PLAIN_ISO = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])([T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])?"


def text_form(url: str, name: str, values: Sequence[object], unit: str = "auto") -> str:
    """The form of a text file's time column.

    Args:
        url: the file.
        name: the column.
        values: some of its values: text, or what JSON spelt; those that are no time say nothing.
        unit: of numbers: one of `UNITS`, or "auto".

    Raises:
        InputError: there are values, and none of them is a time.
    """
    present = [value for value in values if value not in (None, "")]
    dates = sum(isinstance(value, str) and iso_time(value) is not None for value in present)
    numbers = [value for value in present if _is_number(value)]
    if dates > len(numbers):
        return ISO
    if present and not numbers:
        raise InputError(
            f"{url}: the timestamp column {name!r} begins with {str(present[0])[:100]!r}, which is neither a number "
            "nor an ISO date or date and time, as 2026-01-31 12:00:00; pass `timestamp_column` with another column, or "
            "convert it"
        )
    if unit != "auto":
        return unit
    return OWN if all(_is_integer(value) for value in numbers) else "s"


def typed_form(kind: pa.DataType, unit: str = "auto") -> str | None:
    """The form of a Parquet column of a type; None where it holds no times."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return CALENDAR
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return ISO
    if pa.types.is_integer(kind):
        return OWN if unit == "auto" else unit
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "s" if unit == "auto" else unit
    return None


def parsed_types(form: str) -> list[pa.DataType]:
    """The types as which a text parser is to read a column of a form: the first that fits."""
    if form in UNITS:
        # Nanoseconds of today have more digits than float64.
        return [pa.int64(), pa.float64()] if form == "ns" else [pa.float64(), pa.int64()]
    if form == BY_SIZE:
        return [pa.int64(), pa.float64(), pa.string()]
    return [pa.string() if form == ISO else pa.int64()]


def parsed_times(column: pa.Array, form: str) -> pa.Array | None:
    """The times of a column that was parsed as one of `parsed_types`; None where not all are as each alone would be."""
    if form == OWN:
        return column
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        scale = np.array([_MICROSECONDS.get(form, 1)]) if form != BY_SIZE else _scales(values)
        if not (np.abs(values) < _EXACT / scale).all():
            return None  # an integer among them may have lost digits
    times, unfit = to_times(column, form)
    return None if unfit.any() else times


def to_times(column: pa.Array, form: str) -> tuple[pa.Array, np.ndarray]:
    """The times of a column of a form.

    Returns:
        int64, with anything where a value is null or unfit; and bool (n,): which values are no time, or none that fits
        in 64 bits.
    """
    kind = column.type
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if form == ISO or (form == BY_SIZE and pa.types.is_string(kind)):
        times = _iso_times(column.cast(pa.string()))
        return times.fill_null(0), times.is_null().to_numpy(zero_copy_only=False) & ~missing
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy()
        with np.errstate(over="ignore"):
            if form == BY_SIZE:
                nanoseconds = np.abs(values) >= _SIZES[-1]
                scaled = np.rint(values * _scales(values))
                values = np.where(nanoseconds, np.floor_divide(values, _NANOSECONDS), scaled)
            elif form == "ns":
                values = np.floor_divide(values, _NANOSECONDS)
            else:
                values = np.rint(values * _MICROSECONDS[form])
        unfit = ~(np.abs(values) < _LARGEST)
        return pa.array(np.where(unfit, 0, values).astype(np.int64)), unfit
    if pa.types.is_timestamp(kind):
        form, column = kind.unit, column.cast(pa.int64())
    elif pa.types.is_date32(kind):
        form, column = "D", column.cast(pa.int32()).cast(pa.int64())
    elif pa.types.is_date64(kind):
        form, column = "ms", column.cast(pa.int64())
    unfit = np.zeros(len(column), dtype=bool)
    if pa.types.is_uint64(kind):
        unfit = pc.greater(column, pa.scalar(2**63 - 1, kind)).fill_null(False).to_numpy(zero_copy_only=False)
    numbers = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy()
    if form == BY_SIZE:
        nanoseconds = np.abs(numbers.astype(np.float64)) >= _SIZES[-1]
        # What is of nanoseconds is not scaled, and no other can leave 64 bits.
        numbers = np.where(nanoseconds, numbers // _NANOSECONDS, numbers * _scales(numbers.astype(np.float64)))
    elif form == "ns":
        numbers = numbers // _NANOSECONDS
    elif form != OWN:
        most = (2**63 - 1) // _MICROSECONDS[form]
        unfit = unfit | (numbers > most) | (numbers < -most)
        numbers = np.where(unfit, 0, numbers) * _MICROSECONDS[form]
    return pa.array(numbers), unfit


def _scales(values: np.ndarray) -> np.ndarray:
    """Microseconds of a unit of each of some numbers, float64 (n,), by their size: int64 (n,); 1 of nanoseconds."""
    scales = np.array([_MICROSECONDS["s"], _MICROSECONDS["ms"], 1, 1])
    return scales[np.searchsorted(_SIZES, np.abs(values), side="right")]


def iso_time(text: str) -> int | None:
    """Microseconds since 1970 (UTC) of an ISO date, or date and time; None where a text is neither."""
    try:
        found = _iso_times(pa.array([text], pa.string()))[0].as_py()
    except UnicodeEncodeError:  # bytes that were no UTF-8
        return None
    return None if found is None else int(found)


def _iso_times(texts: pa.Array) -> pa.Array:
    """int64, null where a text is no ISO time."""
    times = _alike(texts)
    if times is None:
        texts = pc.utf8_trim(texts, " \t")
        for spelling, plain in _SPELLINGS:
            texts = pc.replace_substring_regex(texts, spelling, plain)
        times = _alike(texts)
    if times is None:
        zoned = pc.match_substring_regex(texts, _ZONE).fill_null(False)
        found = np.zeros(len(texts), dtype=np.int64)
        missing = np.zeros(len(texts), dtype=bool)
        for mask in (zoned, pc.invert(zoned)):
            some = texts.filter(mask)
            times = _alike(some)
            if times is None:
                times = pa.array([_one(text) for text in some.to_pylist()], pa.int64())
            place = mask.to_numpy(zero_copy_only=False)
            found[place] = times.fill_null(0).to_numpy()
            missing[place] = times.is_null().to_numpy(zero_copy_only=False)
        times = pa.array(found, mask=missing)
    return times


def _alike(texts: pa.Array) -> pa.Array | None:
    """int64 of texts that all have a zone, or none of them; None where they differ in that, or one is no ISO time."""
    for kind in _ISO_TYPES:
        try:
            texts[:1].cast(kind)  # a cast that fails is slow: it words an error for each value
            return texts.cast(kind).cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    return None


def _one(text: str | None) -> int | None:
    times = _alike(pa.array([text], pa.string()))
    return None if times is None else times[0].as_py()


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        try:
            return "_" not in value and abs(float(value)) < float("inf")
        except ValueError:
            return False
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())
