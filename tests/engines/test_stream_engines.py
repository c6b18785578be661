"""Streams on engines: each event once, and the files that the loop in one process writes; on Flink also after kills."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from samples import Trained

from commands import run_command

WINDOW, WINDOWS = 10, 5
_BEGIN = 1_767_225_600  # a whole number of windows


def make_events(log: str, count: int) -> pa.Table:
    """Events of different pairs, in the order of their times; of a log's users and items, and of some others."""
    generator = np.random.default_rng(5)
    users, items = (
        np.array([*pq.read_table(log)[of].unique().to_pylist(), *(f"new {of} {number}" for number in range(10))])
        for of in ("user", "item")
    )
    pairs = generator.choice(len(users) * len(items), count, replace=False)
    return pa.table(
        {
            "user": users[pairs // len(items)],
            "item": items[pairs % len(items)],
            "rating": generator.integers(1, 6, count).astype(np.float32),
            "timestamp": _BEGIN + np.sort(generator.integers(0, WINDOW * WINDOWS, count)),
        }
    )


def write_events(directory: Path, events: pa.Table, files: int) -> None:
    """Writes events to so many files; the last lacks a rating's number in one line, which is a dead letter."""
    directory.mkdir()
    rows = -(-len(events) // files)
    for number in range(files):
        path = directory / f"{number:04d}.csv"
        pyarrow.csv.write_csv(events.slice(number * rows, rows), path)
        os.utime(path, (_BEGIN + 60 + number,) * 2)
    with path.open("a") as file:
        file.write("u00001,i00001,many,1767225600\n")


def flags_of(trained: Trained, source: Path, *more: object) -> list[object]:
    """The flags of `stream`, but for the output."""
    common = ["--source", source, "--data", trained.data, "--model", trained.run, "--window", f"{WINDOW}s"]
    return [*common, "--timestamp_column", "timestamp", *more]


def tables(output: Path) -> dict[str, list[dict[str, Any]]]:
    """What each file of the windows holds, in an order of its own."""
    found = {}
    for path in sorted(output.glob("windows/*/*.parquet")):
        table = pq.read_table(path)
        found[str(path.relative_to(output))] = table.sort_by(
            [("row_id", "ascending"), ("column_id", "ascending")]
        ).to_pylist()
    return found


def completed(output: Path) -> dict[str, Any]:
    """What each `_complete.json` names, but for the bytes of files."""
    found = {}
    for path in sorted(output.glob("windows/*/_complete.json")):
        value = json.loads(path.read_text())
        for file in value["files"]:
            del file["bytes"]
        found[path.parent.name] = value
    return found


@pytest.fixture(scope="session")
def replay(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Events in files, and what the loop in one process makes of them: predictions of the pairs, so each event once."""
    where = tmp_path_factory.mktemp("replay")
    write_events(where / "in", make_events(trained.log, 4000), files=4)
    done = run_command(
        "stream", *flags_of(trained, where / "in", "--pairs", "--until_idle", "1s"), "--output", where / "expected"
    )
    assert done.returncode == 0, done.stderr
    return where / "in", where / "expected"


def replayed(flags: list[str], trained: Trained, replay: tuple[Path, Path], output: Path) -> None:
    """Runs the job on an engine, and compares all that it writes."""
    source, expected = replay
    done = run_command(
        "stream", *flags_of(trained, source, "--pairs", "--until_idle", "3s"), "--output", output, *flags
    )
    assert done.returncode == 0, done.stderr
    written = tables(output)
    assert sum(map(len, written.values())) == 4000
    assert written == tables(expected)
    assert completed(output) == completed(expected)
    assert len(completed(output)) == WINDOWS
    assert len(list(output.glob("_dead_letters/*.jsonl"))) == 1


def test_prism_writes_what_the_loop_writes(
    prism: Any,
    trained: Trained,
    replay: tuple[Path, Path],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    started = time.monotonic()
    replayed(prism.flags(), trained, replay, tmp_path / "out")
    record_property("seconds", f"{time.monotonic() - started:.1f}")


def test_flink_writes_what_the_loop_writes(
    flink: Any,
    trained: Trained,
    replay: tuple[Path, Path],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    started = time.monotonic()
    replayed(flink.streaming_flags(), trained, replay, tmp_path / "out")
    record_property("seconds", f"{time.monotonic() - started:.1f}")
