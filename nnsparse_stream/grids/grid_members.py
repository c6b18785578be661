"""The runs of a grid, one by one, each in a directory of its own below the grid's; and what is written at the end."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from nnsparse_stream.errors import InputError
from nnsparse_stream.grids.grid_comparison import Member, Outcome, compared
from nnsparse_stream.grids.grid_tables import grid_report, table_csv
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.output_directory import OutputDirectory, nested
from nnsparse_stream.training import start
from nnsparse_stream.training.progress import Progress

RUNS = "runs"
#: Patterns of the files of a grid, and the one that makes it whole; for `OutputDirectory`.
CONTENTS = ("table.csv", "report.html", *nested(f"{RUNS}/*", start.CONTENTS, start.COMPLETING))
COMPLETING = "grid.json"
#: What the size of a model can bring about, beside what is wrong with its settings; other runs of a grid go on.
_FAILURES = (InputError, MemoryError, torch.OutOfMemoryError)


def run_url(output: str, name: str) -> str:
    """The directory of a run of a grid."""
    return storage.join(output, RUNS, name)


def grid_directory(output: str, *, resume: bool, overwrite: bool, job: str | None = None) -> OutputDirectory:
    """The grid's directory, checked: nothing has been written or removed yet.

    Args:
        output: URL of the directory.
        resume: go on with what lies there.
        overwrite: replace it.
        job: names the engine's job that this is an attempt of.

    Raises:
        InputError: it holds something else, or a grid, and neither `resume` nor `overwrite` says what to do with it.
    """
    directory = OutputDirectory(
        output, contents=CONTENTS, completing=COMPLETING, overwrite=overwrite or resume, job=job
    )
    directory.check()
    if directory.attempted():
        return directory
    state = directory.state()
    if state == "unfinished" and not (resume or overwrite):
        raise InputError(f"{output} holds a grid that did not finish; pass `resume` to go on, or `overwrite`")
    if state == "empty" and resume:
        raise InputError(f"{output} holds no grid to resume; train without `resume`")
    return directory


def train_member(
    member: Member,
    *,
    resume: bool,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    job: str | None = None,
) -> Outcome | None:
    """Trains a run of a grid; one that has ended before stays as it is.

    Args:
        member: the run.
        resume: the grid goes on: so does the run, from its last checkpoint, where it has begun.
        progress, stop, job: as those of `nnsparse_stream.training.start.train`.

    Returns:
        What became of it, also where it failed by its settings or its size; None where it was stopped.

    Raises:
        StoreError: a store or the network failed.
    """
    request = member.request
    try:
        request = replace(request, resume=resume and start.directory_of(request).state() != "empty")
        summary = start.train(request, progress=progress, stop=stop, job=job)
    except _FAILURES as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        return Outcome(member.run.name, failed=kind + storage.one_line(error))
    finally:
        gc.collect()  # what a run leaves holds each other, the model too, and the next run needs its memory
    if "stopped" in summary:
        return None
    lines = storage.read_file(storage.join(request.output, "metrics.jsonl")).splitlines()
    return Outcome.of(member.run.name, summary, [json.loads(line) for line in lines])


def leave(directory: OutputDirectory) -> None:
    """Ends work that is not over: what runs have left stays, to go on from; without any, the directory goes."""
    runs = storage.join(directory.url, RUNS)
    if not (storage.is_directory(runs) and storage.list_files(runs)):
        storage.remove_empty_directory(runs)
        directory.abort()


def finish(
    directory: OutputDirectory, members: Sequence[Member], outcomes: Iterable[Outcome], job: str | None = None
) -> dict[str, Any]:
    """Compares the runs, writes the tables and the report, and completes the grid's directory.

    Returns:
        What grid.json holds: what `nnsparse_stream.grids.grid_comparison.compared` gives, and the job where there
        is one.
    """
    outcomes = list(outcomes)
    summary = {**compared(members, outcomes), **({} if job is None else {"job": job})}
    directory.write("table.csv", table_csv(summary).encode())
    directory.write("report.html", grid_report(summary, outcomes).encode())
    directory.complete(storage.to_json(summary))
    return summary
