"""JSON lines: a line to the values of its fields."""

from __future__ import annotations

import json
from typing import Any


class BadLineError(ValueError):
    """The reason why a line is no record."""


def parse_object(text: str) -> dict[str, Any] | None:
    """The object that a line holds; None where it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_values(text: str, names: tuple[str, ...]) -> list[object]:
    """The values of the fields of these names.

    Raises:
        BadLineError: the line is no JSON object, or lacks a field.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLineError("not valid JSON") from error
    if not isinstance(record, dict):
        raise BadLineError("not a JSON object")
    missing = next((name for name in names if name not in record), None)
    if missing is not None:
        raise BadLineError(f"the field {missing} is missing")
    return [record[name] for name in names]
