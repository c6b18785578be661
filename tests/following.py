"""Runs a stream in this process on files of events, and reads back what it wrote."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from samples import Trained, contents

from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.events import SECOND, event_schema
from nnsparse_stream.streaming.live_model import LiveModel
from nnsparse_stream.streaming.local_stream import stream_here
from nnsparse_stream.streaming.open_source import EventFormat, open_source
from nnsparse_stream.streaming.state_files import StateFiles
from nnsparse_stream.streaming.stream_output import open_output, sole_writer
from nnsparse_stream.streaming.windows import Windows

#: A minute begins then, seconds since 1970.
BEGIN = 1_700_000_040
MINUTES = Windows(60 * SECOND, 300 * SECOND)
SCHEMA = event_schema("string", "string")

#: user, item, rating ("" takes it back), seconds since `BEGIN`.
Event = tuple[str, str, float | str, float]


def add_file(directory: Path, name: str, events: Iterable[Event], begin: int = BEGIN, more: str = "") -> None:
    """Adds a file of events to a directory, whole; written a second after the one before it."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        "user,item,rating,timestamp",
        *(f"{user},{item},{rating},{begin + at}" for user, item, rating, at in events),
    ]
    (directory / f".{name}").write_text("\n".join(lines) + "\n" + more)
    os.utime(directory / f".{name}", (begin + len(os.listdir(directory)),) * 2)
    os.rename(directory / f".{name}", directory / name)


def follow(trained: Trained, source: Path, output: str | Path, **flags: Any) -> dict[str, Any]:
    """A run of a stream with windows of a minute, until nothing more is there."""
    form = EventFormat("user", "string", "string", names=FieldNames(timestamp="timestamp"))
    live = flags.pop("live", None) or LiveModel(trained.run, trained.data, "cpu", 3600)
    with sole_writer(str(output)) as renew:
        open_output(str(output), {}, overwrite=False)
        return stream_here(
            open_source(str(source), form),
            SCHEMA,
            BaseRows(trained.data),
            live,
            str(output),
            MINUTES,
            **{"top_k": 3, "until_idle": 0.0, "renew": renew, **flags},
        )


def state_of(output: str | Path) -> dict[int, tuple[set[tuple], set[tuple]]]:
    """The events of each shard that wait, and those that are settled."""
    states, _ = StateFiles(str(output), SCHEMA).load(MINUTES)
    return {
        shard: tuple({tuple(event.values()) for block in blocks for event in block.to_pylist()} for blocks in
                     (state.pending, state.settled))
        for shard, state in states.items()
    }  # fmt: skip


def written(output: str | Path) -> dict[str, bytes]:
    """The files that are not the loop's own."""
    return {name: data for name, data in contents(str(output)).items() if not name.startswith("_state/")}


def lists(output: str | Path, window: int | None = None) -> list[dict[str, Any]]:
    """The entries of all lists, or of those of the window that begins then, seconds since 1970, by revision."""
    name = "*" if window is None else Windows.name(window * SECOND)
    tables = [pq.read_table(path).to_pylist() for path in sorted(Path(output).glob(f"windows/{name}/*.parquet"))]
    return sorted((row for table in tables for row in table), key=lambda row: row["revision"])
