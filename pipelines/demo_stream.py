"""`nnsparse-stream demo --stream`: ratings that arrive while one looks on, and lists that follow them."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from nnsparse_stream.storage.output_directory import OutputDirectory

#: The log; of so many of its users so many ratings arrive in so many seconds, in files of so many seconds each.
_USERS, _ITEMS, _RATINGS, _NOISE = 2000, 800, 150_000, 0.7
_LIVE_USERS, _EVENTS, _SECONDS, _FILE_SECONDS = 200, 4000, 18.0, 0.25
_WINDOW, _OUT_OF_ORDER, _REFRESH, _UNTIL_IDLE = "2s", "500ms", "1s", "3500ms"
#: Ratings from which on a user likes an item; and how long the first model and the second one are trained.
_LIKED, _EPOCHS = "4", ("1", "8")
_MODELS = ("first", "second")
_TOP_K, _SHOWN_USERS = 10, 3


def contents() -> tuple[str, ...]:
    """Patterns of the files that the demo writes."""
    from nnsparse_stream.pipelines import prepare
    from nnsparse_stream.storage.output_directory import nested
    from nnsparse_stream.streaming import stream_output
    from nnsparse_stream.training import start

    return (
        "ratings.parquet",
        "model.txt",
        "events/events-#.csv",
        *nested("liked", prepare.contents()),
        *(name for run in _MODELS for name in nested(run, start.CONTENTS, start.COMPLETING)),
        *nested("live", (*stream_output.CONTENTS, *stream_output.BESIDE), stream_output.NAME),
        "report.html",
    )


def go(args: argparse.Namespace, directory: OutputDirectory) -> None:
    """Makes a log and two models, replays the rest of the log, and follows it."""
    from nnsparse_stream.pipelines.demo import run_command, write_table
    from nnsparse_stream.ratings.synthetic import make_ratings, user_ids
    from nnsparse_stream.storage import files as storage

    def url(*names: str) -> str:
        return storage.join(args.output, *names)

    import pyarrow as pa
    import pyarrow.compute as pc

    log = make_ratings(_USERS, _ITEMS, _RATINGS, _NOISE, args.seed).ratings
    live = pc.is_in(log["user"], value_set=user_ids(_LIVE_USERS))
    events = log.filter(live).slice(0, _EVENTS)
    rest = pa.concat_tables([log.filter(live).slice(_EVENTS), log.filter(pc.invert(live))])
    write_table(rest, "ratings.parquet", directory)
    print(f"made {len(log):,} ratings; {len(events):,} of {_LIVE_USERS} users are kept back, and arrive later")
    source = ("--input", url("ratings.parquet"), "--axis", "user", "--positive_from", _LIKED)
    run_command("prepare", *source, "--output", url("liked"))
    for model, epochs in zip(_MODELS, _EPOCHS, strict=True):
        what = ("--preset", "ranking", "--epochs", epochs, "--seed", str(args.seed))
        run_command("train", "--data", url("liked"), "--output", url(model), *what)
    directory.write("model.txt", url(_MODELS[0]).encode())

    replay = _Replay(events, directory, url(_MODELS[1]))
    print(f"\n{_SECONDS:.0f} seconds of events; half-way model.txt names the second model")
    with replay:
        done = run_command(
            "stream", "--source", url("events"), "--data", url("liked"), "--model", url("model.txt"),
            "--output", url("live"), "--top_k", str(_TOP_K), "--timestamp_column", "time", "--positive_from", _LIKED,
            "--window", _WINDOW, "--out_of_order", _OUT_OF_ORDER, "--model_refresh", _REFRESH,
            "--until_idle", _UNTIL_IDLE,
        )  # fmt: skip
    followed = _followed(url("live"), replay)
    page, figures = _report(followed, replay, done)
    storage.write_file(url("report.html"), page.encode())
    print(
        f"\nwhere things lie\n  {url('live', 'windows')}   the lists, by windows\n  {url('report.html')}   the report"
    )
    directory.complete(storage.to_json({"kind": "nnsparse-stream demo", **figures}))


class _Replay:
    """Writes events to files as time goes on, each with the time at which it comes; a context manager.

    Attributes:
        begin: when the first came, seconds since 1970.
        exchanged: when the second model was named.
        liked: the rows of events that count, and their times in microseconds.
    """

    def __init__(self, events: pa.Table, directory: OutputDirectory, second: str) -> None:
        self._events, self._directory, self._second = events, directory, second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self.begin = self.exchanged = time.time()
        self.liked: list[tuple[str, int]] = []

    def __enter__(self) -> _Replay:
        self._write(0)  # before the stream looks
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        files = int(_SECONDS / _FILE_SECONDS)
        for number in range(1, files):
            if self._stop.wait(max(0.0, self.begin + number * _FILE_SECONDS - time.time())):
                return
            if number == files // 2:
                self._directory.write("model.txt", self._second.encode())
                self.exchanged = time.time()
            self._write(number)

    def _write(self, number: int) -> None:
        files = int(_SECONDS / _FILE_SECONDS)
        first, end = (len(self._events) * at // files for at in (number, number + 1))
        now = int(time.time() * 1e6)
        lines = ["user,item,rating,time"]
        for event in self._events.slice(first, end - first).to_pylist():
            lines.append(f"{event['user']},{event['item']},{event['rating']},{now}")
            if event["rating"] >= float(_LIKED):
                self.liked.append((event["user"], now))
        self._directory.write(f"events/events-{number:05d}.csv", "\n".join(lines).encode() + b"\n")


@dataclass(frozen=True)
class _Window:
    """What was written of a window: its begin, when (seconds since 1970), and the lists, by row."""

    begin: float
    written: dict[str, float]
    steps: set[int]
    lists: dict[str, list[str]]


def _followed(live: str, replay: _Replay) -> list[_Window]:
    """The windows that lie there, in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.storage.stores import filesystem
    from nnsparse_stream.streaming.windows import Windows

    windows: dict[str, _Window] = {}
    for name in sorted(storage.list_files(storage.join(live, "windows"))):
        folder, _, file = name.partition("/")
        if not file.endswith(".parquet"):
            continue
        url = storage.join(live, "windows", name)
        fs, path = filesystem(url)
        at = fs.modified(path).timestamp()
        found = windows.setdefault(folder, _Window(Windows.begin_of_name(folder) / 1e6, {}, set(), {}))
        # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
        table = pq.ParquetFile(pa.BufferReader(storage.read_file(url))).read(use_threads=False)
        for entry in table.to_pylist():
            if entry["rank"] == 1:
                found.lists[entry["row_id"]] = []
            found.written[entry["row_id"]] = at
            found.steps.add(entry["model_step"])
            found.lists[entry["row_id"]].append(entry["column_id"])
    return list(windows.values())


def _report(windows: Sequence[_Window], replay: _Replay, done: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The page, and its figures; prints these."""
    import numpy as np

    from nnsparse_stream.training import report

    size = float(_WINDOW.removesuffix("s"))
    late_by: dict[float, list[float]] = {}
    for row, at in replay.liked:
        for window in windows:
            if window.begin <= at / 1e6 < window.begin + size and row in window.written:
                late_by.setdefault(window.begin, []).append(window.written[row] - at / 1e6)
    latencies = np.array([one for of_window in late_by.values() for one in of_window] or [np.nan])
    seen: dict[str, list[str]] = {}
    rows = []
    for window in windows:
        before = [(seen[row], listed) for row, listed in window.lists.items() if row in seen]
        kept = [len(set(old) & set(new)) for old, new in before]
        changed = f"{_TOP_K - np.mean(kept):.1f}" if kept else "-"
        steps = ", ".join(f"{step:,}" for step in sorted(window.steps))
        latency = f"{np.median(late_by[window.begin]):.1f} s" if window.begin in late_by else "-"
        rows.append((f"{window.begin - replay.begin:.0f} s", len(window.lists), steps, changed, latency))
        seen.update(window.lists)
    figures = {
        "events": done["events"],
        "lists": done["rows"],
        "windows": len(windows),
        "steps": sorted({step for window in windows for step in window.steps}),
        "latency_p50": round(float(np.median(latencies)), 2),
        "latency_p99": round(float(np.percentile(latencies, 99)), 2),
    }
    headline = (
        f"{figures['events']:,} events, {figures['lists']:,} lists in {len(windows)} windows of {_WINDOW}; from an "
        f"event to its row's list p50 {figures['latency_p50']:.1f} s, p99 {figures['latency_p99']:.1f} s"
    )
    print(f"\n{headline}")
    begins = sorted(late_by)
    parts = [
        report.section("From an event to its list", "An event waits for its window's end, and for scoring."),
        report.line_chart(
            [
                report.Series(
                    "median", [at - replay.begin for at in begins], [float(np.median(late_by[at])) for at in begins]
                ),
                report.Series("slowest", [at - replay.begin for at in begins], [max(late_by[at]) for at in begins]),
            ],
            "begin of the window (s)",
            "seconds",
            "Seconds from an event to the list that knows of it, by window.",
        ),
        report.section(
            "Windows",
            f"The second model was named after {replay.exchanged - replay.begin:.1f} s. New entries: how many of a "
            f"row's {_TOP_K} were not in its list before, on average.",
        ),
        report.table(("begin", "lists", "model step", "new entries", "median latency"), rows),
        *_examples(windows, replay),
    ]
    return report.page("nnsparse-stream: demo of a stream", headline, parts), figures


def _examples(windows: Sequence[_Window], replay: _Replay) -> list[str]:
    """How the lists of some rows change."""
    from nnsparse_stream.training import report

    listed: dict[str, list[tuple[_Window, list[str]]]] = {}
    for window in windows:
        for row, columns in window.lists.items():
            listed.setdefault(row, []).append((window, columns))
    parts = []
    for row in sorted(listed, key=lambda row: (-len(listed[row]), row))[:_SHOWN_USERS]:
        table = []
        before: list[str] = []
        for window, columns in listed[row]:
            new = [column for column in columns if column not in before]
            at, step = f"{window.begin - replay.begin:.0f} s", ", ".join(map(str, sorted(window.steps)))
            table.append((at, step, ", ".join(columns[:5]), ", ".join(new) if before else "-"))
            before = columns
        parts.append(report.section(row))
        parts.append(report.table(("begin", "model step", "the first five", "new in the list"), table))
    return parts
