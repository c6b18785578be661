"""The file that says what a night does: tables of the commands' own flags, checked against their parsers."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.cli import parser_for

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What a night does, in this order.
STAGES = ("prepare", "train", "evaluate", "gate", "score", "publish")
#: The commands that a night runs, each of which has a table; and the flags that the night itself sets.
COMMANDS: dict[str, tuple[str, ...]] = {
    "prepare": ("output", "overwrite", "vocabulary"),
    "train": ("data", "output", "init", "grid", "resume", "overwrite"),
    "evaluate": ("data", "model", "weights", "json"),
    "score": ("model", "data", "weights", "input", "output", "overwrite"),
}
#: Of what a command cannot do without, for the check of its other flags.
_STAND_INS = {"prepare": ("output",), "train": ("output",), "evaluate": ("model",), "score": ("model", "output")}


@dataclass(frozen=True)
class NightlyConfig:
    """What a file says.

    Attributes:
        output: URL of the directory of all nights.
        flags: of each command, without those that the night sets.
        warm: flags of `train` where it begins from the model that is published; None where it always begins anew.
        limits: by how much the metrics of these names may be worse than those of the model that is published.
    """

    output: str
    flags: dict[str, list[str]]
    warm: list[str] | None
    limits: dict[str, float]


def read_config(url: str) -> NightlyConfig:
    """Reads the file, and checks all of it that can be checked before any work.

    Raises:
        InputError: it is no TOML, a field or a table is missing or not known, or a command refuses its flags.
    """
    from nnsparse_stream.storage import files as storage

    try:
        held = tomllib.loads(storage.read_file(url).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{url} is no TOML: {storage.one_line(error)}") from error
    with _named(url):
        return _checked(held)


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{url}: {error}") from error


def _checked(held: dict[str, Any]) -> NightlyConfig:
    known = ("output", *COMMANDS, "warm", "gate")
    for name in held:
        if name not in known:
            raise InputError(f"`{name}` is not known; there are {', '.join(known)}")
    if not isinstance(held.get("output"), str) or not held["output"]:
        raise InputError("`output` is missing: the URL of the directory of all nights")
    tables = {name: _table(held, name) for name in (*COMMANDS, "gate")}
    limits = _limits(tables.pop("gate"))
    tables["evaluate"].setdefault("metrics", list(limits))
    if tables["prepare"].get("min_column_ratings", 1) != 1:
        raise InputError("`min_column_ratings` in [prepare] drops columns, and nights keep them: remove it")
    flags = {name: _flags(name, name, table) for name, table in tables.items()}
    _check_judged(limits, tables["evaluate"]["metrics"])
    warm = None
    if "warm" in held:
        warm = _flags("train", "warm", {**tables["train"], **_table(held, "warm")})
    return NightlyConfig(held["output"], flags, warm, limits)


def _table(held: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = held.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"`{name}` is {table!r}, and not a table: write [{name}] and its keys below it")
    return dict(table)


def _limits(table: Mapping[str, Any]) -> dict[str, float]:
    from nnsparse_stream.evaluation.metrics import parse_metric

    if not table:
        raise InputError("[gate] is missing: of each metric that decides by how much it may fall, as rmse = 0.002")
    limits = {}
    for name, limit in table.items():
        if type(limit) not in (int, float) or not 0 <= limit < float("inf"):
            raise InputError(f"`{name}` in [gate] is {limit!r}, and not a number of 0 or more")
        limits[parse_metric(name).name] = float(limit)
    return limits


def _check_judged(limits: Mapping[str, float], metrics: object) -> None:
    names = metrics if isinstance(metrics, list) else [part.strip() for part in str(metrics).split(",")]
    missing = [name for name in limits if name not in names]
    if missing:
        raise InputError(
            f"[gate] decides by {missing[0]}, which is not among the `metrics` of [evaluate]: add it there"
        )


def _flags(command: str, table: str, held: Mapping[str, Any]) -> list[str]:
    """The flags of a table, in the order of their names.

    Raises:
        InputError: the command has no such flag, the night sets it, or a value does not fit.
    """
    parser = parser_for(command)
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    ours = COMMANDS[command]
    flags: list[str] = []
    for name, value in sorted(held.items()):
        if name in ours:
            raise InputError(f"`{name}` in [{table}] is what the night itself sets: remove it")
        if name not in actions:
            raise InputError(
                f"`{name}` in [{table}] is no flag of {command}; `nnsparse-stream {command} --help` has all"
            )
        flags += _words(actions[name], value, table)
    _parse(parser, [*(f"--{name}=x" for name in _STAND_INS[command]), *flags], table)
    return flags


def _words(action: argparse.Action, value: Any, table: str) -> list[str]:
    """A value as words of a command line."""
    flag, name = f"--{action.dest}", action.dest
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"`{name}` in [{table}] is {value!r}, and neither true nor false")
        return [flag] if value else []
    if isinstance(value, dict):
        raise InputError(f"`{name}` in [{table}] is a table, and not a value")
    if not isinstance(value, list):
        return [f"{flag}={_word(value)}"]
    if isinstance(action, argparse._ExtendAction):
        return [f"{flag}={_word(one)}" for one in value]
    return [f"{flag}={','.join(map(_word, value))}"]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(parser: argparse.ArgumentParser, flags: list[str], table: str) -> None:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parser.parse_args(flags)
    except SystemExit as stopped:
        last = printed.getvalue().strip().splitlines()[-1]
        raise InputError(f"[{table}]: {last.partition('error: ')[2] or last}") from stopped
