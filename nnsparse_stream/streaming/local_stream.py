"""A stream in this process, without a runner: reads what is new, keeps the state in files, writes the windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyarrow as pa

from nnsparse_stream.data.grouping import partition
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.events import SECOND, Letter
from nnsparse_stream.streaming.letter_files import letters_path, write_letters
from nnsparse_stream.streaming.live_model import LiveModel
from nnsparse_stream.streaming.live_scores import Scored, score_flushes
from nnsparse_stream.streaming.shard_state import Flush, ShardState
from nnsparse_stream.streaming.source import EventSource
from nnsparse_stream.streaming.state_files import StateFiles
from nnsparse_stream.streaming.window_files import complete_window, flush_path, is_complete, write_flush
from nnsparse_stream.streaming.windows import Windows

#: Seconds between two looks for events where nothing was there.
POLL_SECONDS = 0.5
#: Seconds of reading after which what was read is committed, and rows that are scored at once.
_TURN_SECONDS, _ROWS_AT_ONCE = 2.0, 1024
#: The watermark before anything was read.
_BEGIN = -(1 << 63)


class _Place(NamedTuple):
    """How far a partition is read: its position, and its watermark, microseconds since 1970."""

    position: str
    watermark: int


def stream_here(
    source: EventSource,
    schema: pa.Schema,
    base: BaseRows,
    live: LiveModel,
    output: str,
    windows: Windows,
    *,
    top_k: int | None,
    rules: ListRules = ListRules(),  # noqa: B008 (immutable)
    until_idle: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[dict[str, Any]], None] = lambda _: None,
    renew: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Goes on with a stream from its last commit.

    Every event is in the state once, whenever the process is killed: what was written after the last commit is removed,
    and made again. Windows that have not ended stay in the state, for the next run.

    Args:
        source: the events.
        schema: `events.event_schema` of them.
        base: what is known of the rows beside the events.
        live: the model.
        output: URL of an output that `stream_output.open_output` has opened and nobody else writes to.
        windows: of event time.
        top_k: columns of each list; None to predict the ratings of the events.
        rules: what lists hold.
        until_idle: seconds without an event after which it ends; None for never.
        stop: says whether to end now; it is asked twice a second or more.
        told: is given the figures as they stand, as often.
        renew: called before each change of a file, and every few seconds, as `sole_writer` asks for.

    Returns:
        The figures of this run: `events` read, `late` among them, `dead` records; `rows` scored, `files` written, and
        `windows` that are complete; `entries` known of these rows, and `unknown`, those of them whose columns the
        model does not know;
        `waiting` events of windows that are open; `lag`, seconds from the last event of the newest window that was
        written to its writing, or None; `model_step` and `model` (its fingerprint; both None where nothing was
        scored); `stopped`.

    Raises:
        InputError: the source cannot be read, or what is there of the state.
        StoreError: a store, a broker or the network failed.
    """
    loop = _Loop(source, schema, base, live, output, windows, top_k, rules, renew)
    news_at = time.monotonic()
    while True:
        stopped = stop()
        news = not stopped and loop.turn(stop)
        now = time.monotonic()
        news_at = now if news else news_at
        told(loop.figures())
        if stopped or (until_idle is not None and not news and now - news_at >= until_idle):
            return {**loop.figures(), "stopped": stopped}
        if not news:
            left = POLL_SECONDS if until_idle is None else until_idle - (now - news_at)
            time.sleep(min(POLL_SECONDS, left))


class _Loop:
    def __init__(
        self,
        source: EventSource,
        schema: pa.Schema,
        base: BaseRows,
        live: LiveModel,
        output: str,
        windows: Windows,
        top_k: int | None,
        rules: ListRules,
        renew: Callable[[], None],
    ) -> None:
        self._source, self._schema, self._base, self._live = source, schema, base, live
        self._output, self._windows, self._top_k, self._rules, self._renew = output, windows, top_k, rules, renew
        self._files = StateFiles(output, schema)
        states, rest = self._files.load(windows)
        self._states = {
            shard: states.get(shard) or ShardState(shard, windows, schema) for shard in range(base.num_shards)
        }
        places = {name: _Place(*place) for name, place in rest.get("places", {}).items()}
        self._places = {name: places.get(name) or _Place(source.begin(name), _BEGIN) for name in source.partitions()}
        # Shards whose windows are still to be closed by the watermark; the others' have been written.
        self._left: list[int] = rest.get("left", [])
        # What was written of windows that `_complete.json` is still to name.
        self._written: dict[int, list[dict[str, Any]]] = {int(name): of for name, of in rest.get("written", {}).items()}
        self._counts = dict.fromkeys(("events", "late", "dead", "rows", "files", "windows", "entries", "unknown"), 0)
        self._lag: float | None = None
        self._model: tuple[int, str] | None = None
        self._complete()
        self._files.finish()

    def figures(self) -> dict[str, Any]:
        waiting = sum(len(block) for state in self._states.values() for block in state.pending)
        step, model = self._model or (None, None)
        return {**self._counts, "waiting": waiting, "lag": self._lag, "model_step": step, "model": model}

    def turn(self, stop: Callable[[], bool]) -> bool:
        """Reads and writes the windows that end, for some seconds or until nothing more is there, and commits.

        Returns:
            Whether anything was new.
        """
        self._renew()
        until = time.monotonic() + _TURN_SECONDS
        before, files = self._positions(), self._counts["files"]
        idle = over = False
        while not (idle or over):
            # Where windows are closed hangs on what was read, and not on how long anything took: a run that was killed
            # goes on as it would have.
            if not self._left:
                idle = self._read()
                self._left = list(self._states)
            over = self._close(lambda: stop() or time.monotonic() >= until)
        if not self._left and (before, files) == (self._positions(), self._counts["files"]):
            return False
        self._renew()
        places = {name: list(place) for name, place in self._places.items()}
        written = {str(window): of for window, of in self._written.items()}
        self._files.commit(self._states, {"places": places, "left": self._left, "written": written})
        self._complete()
        self._files.finish()
        return True

    def _positions(self) -> dict[str, str]:
        return {name: place.position for name, place in self._places.items()}

    def _read(self) -> bool:
        """Reads each partition once; says whether nothing more was there."""
        idle = True
        for name, place in self._places.items():
            reading = self._source.read(name, place.position)
            for block in reading.events:
                self._counts["events"] += len(block)
                for shard, events in partition(block, "row", self._base.num_shards):
                    self._states[shard].add(events)
            if reading.letters:
                self._bury(name, place.position, reading.letters)
            self._places[name] = _Place(reading.after, max(place.watermark, reading.watermark))
            idle &= reading.idle
        return idle

    def _bury(self, name: str, position: str, letters: list[Letter]) -> None:
        self._counts["dead"] += len(letters)
        self._announce([letters_path(name, position)])
        write_letters(self._output, name, position, letters)

    def _close(self, over: Callable[[], bool]) -> bool:
        """Closes the windows that end by the watermark, and writes them, until it is over; says whether it is.

        All shards are closed, also those for which nothing waits: what comes of this time later is late.
        """
        watermark = min((place.watermark for place in self._places.values()), default=_BEGIN)
        flushes: list[Flush] = []
        is_over = False
        while self._left and not is_over:
            flushes += self._states[self._left.pop(0)].close(watermark, self._base)
            if sum(len(flush.rows) for flush in flushes) >= _ROWS_AT_ONCE or not self._left:
                self._write(flushes)
                flushes, is_over = [], over()
        return is_over

    def _write(self, flushes: list[Flush]) -> None:
        """Scores rows and writes their files."""
        if not flushes:
            return
        num_shards = self._base.num_shards
        self._announce(flush_path(flush, num_shards) for flush in flushes)
        current = self._live.get()
        scores = score_flushes(flushes, current, self._top_k, self._rules)
        for flush, scored in zip(flushes, scores, strict=True):
            written = write_flush(self._output, flush, num_shards, scored)
            if flush.pane == 0:
                self._written.setdefault(flush.window, []).append(written)
            elif flush.window not in self._written and not is_complete(self._output, flush.window):
                self._written[flush.window] = []  # nothing of it was in time
            self._count(flush, scored)
        self._model = current.step, current.fingerprint

    def _count(self, flush: Flush, scored: Scored) -> None:
        of_flush = {"files": 1, "rows": len(flush.rows), "late": flush.late, "unknown": scored.unknown}
        of_flush["entries"] = len(flush.rows["columns"].flatten())
        for name, number in of_flush.items():
            self._counts[name] += number
        if len(flush.pairs):
            self._lag = time.time() - flush.pairs["time"].to_numpy().max() / SECOND

    def _announce(self, names: Iterable[str]) -> None:
        self._renew()
        self._files.announce(names)

    def _complete(self) -> None:
        """Says of the windows that the last commit has closed in all shards that they are complete."""
        if self._left:
            return
        for window, written in self._written.items():
            complete_window(self._output, window, window + self._windows.size, written)
            self._counts["windows"] += 1
        self._written = {}
