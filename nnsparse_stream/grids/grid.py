"""A grid: the training runs that a JSON file names by fields of `train`, each field a value or a list of values.

The file holds an entry, an object such as `{"preset": ["best", "deep"], "seed": [0, 1]}`, or a list of entries. An
entry stands for the runs of the product of its lists; what it does not name is as the command's flags say. A value that
is a list itself, the layers of `hidden`, is a list in the list: `{"hidden": [[500, 500], [256]]}`.

A run's name is made of what varies: of the fields that are a list in an entry, and those in which entries differ.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_origin, get_type_hints

from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.objectives import recipe_types
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.json_types import typed

#: Of one grid, at most.
MOST_RUNS = 1000
#: Fields beside those of recipes, and their types.
OF_RUNS: dict[str, Any] = {
    "data": str,
    "init": str,
    "preset": str,
    "seed": int,
    "patience": int,
    "validation_metric": str,
}
_LEAST = {"seed": 0, "patience": 1}
# Characters of a name; file systems take 255 bytes.
_LONGEST = 120


@dataclass(frozen=True)
class GridRun:
    """A run that a grid names.

    Attributes:
        name: unlike those of all other runs, and fit for a file's.
        group: the same name without the seed: that of all runs that differ in nothing else.
        fields: what its entry says of it.
        entry: which entry that is, for errors.
    """

    name: str
    group: str
    fields: dict[str, Any]
    entry: str

    @property
    def configuration(self) -> str:
        """The fields but the seed, as a text: equal for the runs of a group."""
        return json.dumps({name: held for name, held in self.fields.items() if name != "seed"}, sort_keys=True)


def read_grid(url: str) -> list[GridRun]:
    """The runs of a grid's file; see the module.

    Raises:
        InputError: the file cannot be read, or what `grid_runs` raises.
    """
    data = storage.read_file(url)
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{url} is no grid: it is no valid JSON: {storage.one_line(error)}") from error
    return grid_runs(value, url)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are each there once; JSON's reader would take the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f'"{name}" is there twice in one object')
        found[name] = value
    return found


def grid_runs(value: Any, url: str) -> list[GridRun]:
    """The runs that a grid names, in its order; of an entry the last field's values follow each other.

    Args:
        value: what the file holds.
        url: of the file, for errors.

    Raises:
        InputError: it is no grid, a field is not known or has no such value, a run is there twice, or there are more
            than `MOST_RUNS`.
    """
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise InputError(f"{url} is an empty grid: name the runs by objects, as {{}} for one with the command's flags")
    kinds = _kinds()
    places = [url if entry is value else f"{url}, entry {number}" for number, entry in enumerate(entries, start=1)]
    found = [_alternatives(entry, kinds, place) for entry, place in zip(entries, places, strict=True)]
    count = sum(math.prod(map(len, each.values())) for each in found)
    if count > MOST_RUNS:
        raise InputError(f"{url} names {count:,} runs; {MOST_RUNS:,} are the most of one grid")
    varying = _varying(entries, found)
    unseeded = [name for name in varying if name != "seed"]
    data = _data_names({url for each in found for url in each.get("data", ())})
    runs: dict[str, GridRun] = {}
    for place, alternatives in zip(places, found, strict=True):
        for values in itertools.product(*alternatives.values()):
            fields = dict(zip(alternatives, values, strict=True))
            name, group = (_name(fields, among, data) for among in (varying, unseeded))
            run = GridRun(name or "run", group or "all", fields, place)
            if run.name in runs:
                raise InputError(f"{place}: its run {run.name} is there already, in {runs[run.name].entry}")
            runs[run.name] = run
    return list(runs.values())


def _kinds() -> dict[str, Any]:
    """The fields that an entry may have, with their types."""
    kinds = dict(OF_RUNS)
    for recipe in recipe_types():
        hints = get_type_hints(recipe)
        kinds |= {field.name: hints[field.name] for field in dataclasses.fields(recipe)}
    return kinds


def _alternatives(entry: Any, kinds: Mapping[str, Any], place: str) -> dict[str, list[Any]]:
    """The values of each field of an entry."""
    if not isinstance(entry, dict):
        raise InputError(f"{place} is {json.dumps(entry)[:60]}, no object of fields and their values")
    found = {}
    for name, value in entry.items():
        if name not in kinds:
            raise InputError(
                f'{place}: there is no field "{name}"; there are {", ".join(OF_RUNS)}, and those of recipes, as '
                "`train --help` lists them"
            )
        try:
            found[name] = _values(f'"{name}"', kinds[name], value)
        except ValueError as error:
            raise InputError(f"{place}: {storage.one_line(error)}") from error
        least = _LEAST.get(name)
        if least is not None and min(found[name]) < least:
            raise InputError(f'{place}: "{name}" is {min(found[name])}, not {least} or more')
    return found


def _values(name: str, kind: Any, value: Any) -> list[Any]:
    """A value, or a list of alternatives, checked.

    Raises:
        ValueError: one is of another type or there twice, or there is none.
    """
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise ValueError(f"{name} is an empty list")
    sizes = get_origin(kind) is tuple
    values: list[Any] = []
    for each in listed:
        # One layer need not be a list.
        found = typed(kind, [each] if sizes and not isinstance(each, list) else each, name)
        if found in values:
            hint = "; the layers of one run are a list in the list, as [[500, 500]]" if sizes else ""
            raise ValueError(f"{name} has {json.dumps(each)} twice{hint}")
        values.append(found)
    return values


def _varying(entries: list[dict[str, Any]], found: list[dict[str, list[Any]]]) -> list[str]:
    """The fields that names are made of, in the order in which the grid has them."""
    fields = dict.fromkeys(name for entry in entries for name in entry)
    return [
        name
        for name in fields
        if any(isinstance(entry.get(name), list) for entry in entries)
        or any(each.get(name) != found[0].get(name) for each in found)
    ]


def _name(fields: Mapping[str, Any], varying: Collection[str], data: Mapping[str, str]) -> str:
    parts = [_part(name, fields[name], data) for name in varying if name in fields]
    name = "-".join(parts)
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{storage.sha256(name.encode())[:8]}"


def _part(name: str, value: Any, data: Mapping[str, str]) -> str:
    """A field in a name; a preset and a data set speak for themselves."""
    if name == "data":
        return data[value]
    if name == "preset":
        return _safe(value)
    if isinstance(value, float):
        short = f"{value:g}"
        text = (short if float(short) == value else repr(value)).replace("e+", "e")
    elif isinstance(value, tuple):
        text = "x".join(map(str, value))
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{name}_{_safe(text)}"


def _data_names(urls: Collection[str]) -> dict[str, str]:
    """Of data sets the shortest ends of their paths that tell them apart, or numbers where none do."""
    parts = {url: url.rstrip("/").split("/") for url in urls}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {url: _safe("_".join(held[-length:])) for url, held in parts.items()}
        if len(set(names.values())) == len(urls):
            return names
    return {url: f"data_{number}" for number, url in enumerate(sorted(urls), start=1)}


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"
