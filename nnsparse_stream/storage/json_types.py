"""JSON values as the typed values that they stand for: a file that a person or a disk has damaged names its field."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

_T = TypeVar("_T")
#: Beyond this a number of JSON need not be a float, and its square is none.
_MOST = 1e150
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def typed(kind: type[_T], value: Any, name: str = "") -> _T:
    """A JSON value as a value of a type: lists as tuples, objects as dictionaries or as data classes.

    Args:
        kind: None, bool, int (of 64 bits), float (finite; a whole number is one, too), str, a `Literal` or a union of
            these, `list[X]`, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, a data class or a `TypedDict` of such.
        value: what `json.loads` gave.
        name: of the field, for the error.

    Raises:
        ValueError: the value is of another type, a field is missing, or there is one that is not known.
    """
    result: _T = _typed(kind, value, name)
    return result


def _typed(kind: Any, value: Any, name: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if kind in (None, types.NoneType):
        return value if value is None else _refuse(value, name, "null")
    if origin is Literal:
        return value if value in parts else _refuse(value, name, " or ".join(map(repr, parts)))
    if origin in (types.UnionType, Union):
        return _one_of(parts, value, name)
    if dataclasses.is_dataclass(kind):
        return kind(**_fields(kind, value, name))  # type: ignore[operator]  # a class, no instance
    if is_typeddict(kind):
        return _fields(kind, value, name)
    if origin is dict:
        if not isinstance(value, dict):
            _refuse(value, name, "an object")
        return {key: _typed(parts[1], held, _below(name, key)) for key, held in value.items()}
    if origin in (list, tuple):
        return origin(_elements(parts, value, name))
    if kind is float and type(value) in (int, float):
        return float(value) if abs(value) < _MOST else _refuse(value, name, "a finite number")
    if type(value) is not kind:
        _refuse(value, name, _WORDS[kind])
    return value if kind is not int or -(2**63) <= value < 2**63 else _refuse(value, name, "of 64 bits")


def _one_of(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    # What a value that is not null was to be comes first in our annotations. Of the error only the text is kept: with
    # it, the error would hold itself, and what all callers hold, until the garbage collector comes.
    first = ""
    for kind in kinds:
        try:
            return _typed(kind, value, name)
        except ValueError as error:
            first = first or str(error)
    raise ValueError(first)


def _fields(kind: Any, value: Any, name: str) -> dict[str, Any]:
    """The fields of a data class or a `TypedDict`."""
    if not isinstance(value, dict):
        _refuse(value, name, "an object")
    kinds, needed = _annotations(kind)
    for field in sorted(needed - value.keys()):
        raise ValueError(f"{_below(name, field)} is missing")
    for field in sorted(value.keys() - kinds.keys()):
        raise ValueError(f"{_below(name, field)} is not known")
    return {field: _typed(kinds[field], held, _below(name, field)) for field, held in value.items()}


@functools.cache
def _annotations(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of the fields, and which of them must be there."""
    needed = getattr(kind, "__required_keys__", None)
    if needed is None:
        missing = dataclasses.MISSING
        fields = dataclasses.fields(kind)
        needed = frozenset(f.name for f in fields if f.default is missing and f.default_factory is missing)
    return get_type_hints(kind), needed


def _elements(kinds: tuple[Any, ...], value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse(value, name, "a list")
    if len(kinds) == 1 or kinds[1] is ...:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        _refuse(value, name, f"a list of {len(kinds)}")
    return [_typed(kind, held, f"{name}[{place}]") for place, (kind, held) in enumerate(zip(kinds, value, strict=True))]


def _below(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _refuse(value: Any, name: str, wanted: str) -> Any:
    shown = repr(value)
    raise ValueError(f"{name or 'it'} is {shown if len(shown) < 60 else shown[:57] + '...'}, not {wanted}")
