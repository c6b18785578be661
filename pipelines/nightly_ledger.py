"""What a night has done: its directory, its ledger, and the nights before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.nightly_config import STAGES
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.json_types import typed
from nnsparse_stream.storage.output_directory import OutputDirectory, nested

NIGHTS, LATEST, MODEL, LOCK = "nights", "latest.json", "model.txt", "lock"
LEDGER, EVALUATION, BEFORE, GATE, SUMMARY, PAGE = (
    "ledger.json", "evaluation.json", "before.json", "gate.json", "summary.json", "summary.html",
)  # fmt: skip
_KIND = "nnsparse-stream night"


@dataclass
class Stage:
    """A stage that was begun.

    Attributes:
        flags: that it was begun with, of those that the file of the nights gives.
        seconds: that it took, where it is done: those of its last attempt.
    """

    flags: list[str]
    seconds: float | None = None


@dataclass
class Ledger:
    """The stages of a night, as ledger.json holds them.

    Attributes:
        night: its date.
        previous: the night that was published when this one began, from which it goes on.
        stages: those that were begun, by their names.
    """

    night: str
    previous: str | None
    stages: dict[str, Stage] = field(default_factory=dict)

    def done(self, stage: str) -> bool:
        """Whether a stage is done."""
        return stage in self.stages and self.stages[stage].seconds is not None


class Night:
    """One night in the output of all.

    Args:
        output: URL of the directory of all nights.
        date: as YYYY-MM-DD.
    """

    def __init__(self, output: str, date: str) -> None:
        self.output, self.date = output, date
        self.url = storage.join(output, NIGHTS, date)
        latest = published(output)
        self.ledger = _read(self.at(LEDGER)) if storage.exists(self.at(LEDGER)) else Ledger(date, latest)
        if not self.ledger.done(STAGES[-1]) and latest not in (self.ledger.previous, date):
            self.ledger = Ledger(date, latest)  # an earlier night was published again: what was begun is done anew

    def at(self, *names: str) -> str:
        """The URL of something in the night's directory."""
        return storage.join(self.url, *names)

    def previous(self, *names: str) -> str | None:
        """The URL of something of the night that this one goes on from; None where there is none."""
        if self.ledger.previous is None:
            return None
        return storage.join(self.output, NIGHTS, self.ledger.previous, *names)

    def do(self, stage: str, flags: list[str], directory: OutputDirectory | None, work: Callable[[bool], None]) -> None:
        """Does a stage once; a stage whose flags are others than when it was begun is done anew, with all after it.

        Args:
            stage: its name.
            flags: that decide what it does.
            directory: that it writes; None where it writes single files.
            work: does it; is told whether what an earlier attempt has written goes on.
        """
        begun = self.ledger.stages.get(stage)
        again = begun is not None and begun.flags == flags
        if again and self.ledger.done(stage):
            return
        if not again:
            later = STAGES[STAGES.index(stage) :]
            self.ledger.stages = {name: held for name, held in self.ledger.stages.items() if name not in later}
            self._write()
            if directory is not None:
                clear(directory)
            self.ledger.stages[stage] = Stage(flags)
            self._write()
        state = "empty" if directory is None else directory.state()
        started = time.monotonic()
        if state != "complete":  # else it was killed before it could be noted
            work(state == "unfinished")
        self.ledger.stages[stage].seconds = round(time.monotonic() - started, 3)
        self._write()

    def _write(self) -> None:
        storage.write_file(self.at(LEDGER), storage.to_json({"kind": _KIND, **asdict(self.ledger)}))


def _read(url: str) -> Ledger:
    held = storage.read_json(url, "a night's ledger")
    if held.pop("kind", None) != _KIND:
        raise InputError(f"{url} is not the ledger of a night; name another `output`")
    try:
        return typed(Ledger, held)
    except ValueError as error:
        raise InputError(f"{url} is damaged: {storage.one_line(error)}; remove the night's directory") from error


def published(output: str) -> str | None:
    """The night whose lists and model are published; None where none is."""
    url = storage.join(output, LATEST)
    if not storage.exists(url):
        return None
    night = storage.read_json(url, "what a night publishes").get("night")
    if not isinstance(night, str):
        raise InputError(f"{url} is damaged: it names no `night`; put it back from a copy, or remove it to begin anew")
    return night


def point_to(night: Night, metrics: dict[str, Any]) -> None:
    """Publishes a night: each of two files is replaced at once, and a reader finds the earlier night or this one."""
    there = storage.join(NIGHTS, night.date)
    latest = {
        "kind": "nnsparse-stream published night",
        "night": night.date,
        **{name: f"{there}/{folder}" for name, folder in (("data", "data"), ("model", "run"), ("scores", "scores"))},
        "metrics": metrics,
    }
    storage.write_file(storage.join(night.output, LATEST), storage.to_json(latest))
    # `stream --model` follows a file that holds a URL, which is read wherever the stream runs.
    run = storage.as_url(*storage.filesystem(night.at("run")))
    storage.write_file(storage.join(night.output, MODEL), f"{run}\n".encode())


def nights_in(output: str) -> list[str]:
    """The dates of the nights that lie in an output, the oldest first.

    Raises:
        InputError: it holds something that no night wrote.
    """
    found = storage.list_files(output) if storage.is_directory(output) else {}
    foreign = [name for name in found if name.split("/")[0] not in (NIGHTS, LATEST, MODEL, LOCK)]
    foreign = [name for name in foreign if not name.startswith((f"{LATEST}.", f"{MODEL}."))]  # a killed writer's
    if foreign:
        raise InputError(f"{output} holds files that no night wrote ({foreign[0]}); name an empty or new `output`")
    return sorted({name.split("/")[1] for name in found if name.startswith(f"{NIGHTS}/")})


def remove_nights(output: str, dates: Iterable[str]) -> list[str]:
    """Removes nights; gives those that stay since they hold something that is not ours, with the reason."""
    kept = []
    for date in dates:
        try:
            clear(directory(storage.join(output, NIGHTS, date), night_contents(), LEDGER))
        except InputError as error:
            kept.append(str(error))
    return kept


def directory(url: str, contents: Iterable[str], completing: str) -> OutputDirectory:
    """An output that a night may replace."""
    return OutputDirectory(url, contents=tuple(contents), completing=completing, overwrite=True)


def clear(output: OutputDirectory) -> None:
    """Removes an output, half or whole; a removal that is cut off is taken up by the next.

    Raises:
        InputError: there is something in it that is not ours; nothing is removed.
    """
    if output.state() != "empty":
        output.begin()
        output.abort()


def outputs() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Of the stages that write a directory: its name, the patterns of its files, and the file that completes it."""
    from nnsparse_stream.pipelines import prepare, score
    from nnsparse_stream.scoring import manifest
    from nnsparse_stream.training import start

    return {
        "prepare": ("data", prepare.contents(), "manifest.json"),
        "train": ("run", start.CONTENTS, start.COMPLETING),
        "score": ("scores", score.contents(), manifest.NAME),
    }


def night_contents() -> tuple[str, ...]:
    """Patterns of all files of a night, beside its ledger."""
    below = [name for folder, contents, last in outputs().values() for name in nested(folder, contents, last)]
    return (*below, EVALUATION, BEFORE, GATE, SUMMARY, PAGE)
