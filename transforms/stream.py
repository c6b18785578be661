"""StreamScores: events without end to scores of the rows that change, in files by window."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.trigger import AccumulationMode, AfterWatermark
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.events import SECOND, event_schema
from nnsparse_stream.streaming.shard_state import Flush
from nnsparse_stream.streaming.source import EventSource
from nnsparse_stream.streaming.windows import Windows
from nnsparse_stream.transforms.event_times import TICK, beam_time
from nnsparse_stream.transforms.keep_ratings import KeepRatings
from nnsparse_stream.transforms.model_cache import LiveModelHandle
from nnsparse_stream.transforms.model_worker import ModelWorker
from nnsparse_stream.transforms.read_events import ReadEvents

#: Rows that are scored at once; what one bundle holds of them.
_ROWS = 512


class StreamJob(NamedTuple):
    """What a stream's job is to do.

    Attributes:
        data: URL of the data set that the events come on top of.
        model: URL of a run, or of a pointer file, see `nnsparse_stream.streaming.live_model`.
        output: URL of the directory that receives windows and dead letters.
        windows: of event time, whole milliseconds long.
        num_shards: stream shards, see `nnsparse_stream.streaming.base_rows`.
        row_type, column_type: of the ids, "int64" or "string".
        top_k: how many columns a row's list has; None to predict the events' own pairs.
        rules: what lists hold.
        model_refresh: seconds between two looks for a newer model.
        worker: what the step that runs the model asks for.
        until_idle: seconds after which a partition ends where nothing came; None for never.
    """

    data: str
    model: str
    output: str
    windows: Windows
    num_shards: int
    row_type: str
    column_type: str
    top_k: int | None = 10
    rules: ListRules = ListRules()
    model_refresh: float = 30.0
    worker: ModelWorker = ModelWorker()
    until_idle: float | None = None


def build_stream(pipeline: beam.Pipeline, source: EventSource, job: StreamJob) -> None:
    """Applies what reads events, keeps them, scores the rows that changed, and writes their lists by window.

    Where the job ends by itself (`until_idle`), `ended_file` is written when all else is: Flink's sources live on after
    that, and who waits for the job may end it then.
    """
    events = pipeline | ReadEvents(source, job.num_shards, job.windows, job.output, job.until_idle)
    flushes = events | KeepRatings(BaseRows(job.data), job.windows, event_schema(job.row_type, job.column_type))
    completed = flushes | WriteWindows(job)
    if job.until_idle is not None:
        _ = completed | _WriteEnd(job.output)


class WriteWindows(beam.PTransform):
    """Scores flushes, many at once, and writes them; when a window is over, its `_complete.json`.

    Args:
        job: what is to be scored, with what, and where it goes.

    Returns:
        Of a PCollection of `Flush`: a PCollection of the windows that are complete, by their begins.
    """

    def __init__(self, job: StreamJob) -> None:
        super().__init__()
        self._job = job

    def expand(self, flushes: beam.PCollection[Flush]) -> beam.PCollection[int]:
        """Applies the transform."""
        return (
            flushes
            | "Score" >> self._job.worker.runs(_Score(self._job)).with_output_types(tuple[int, bytes])
            | "Complete" >> beam.ParDo(_Complete(self._job.output, self._job.windows)).with_output_types(int)
        )


class _Score(beam.DoFn):
    def __init__(self, job: StreamJob) -> None:
        self._job = job
        self._model = LiveModelHandle(job.model, job.data, job.worker.device, job.model_refresh)
        self._waiting: list[tuple[Flush, Timestamp]] = []
        self._rows = Metrics.counter("stream", "rows_scored")
        self._unknown = Metrics.counter("stream", "unknown")
        self._lag = Metrics.distribution("stream", "lag_ms")
        self._step = Metrics.gauge("stream", "model_step")

    def start_bundle(self) -> None:
        self._waiting = []  # of a bundle that failed

    def process(
        self,
        flush: Flush,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[beam.window.TimestampedValue]:
        self._waiting.append((flush, timestamp))
        if sum(len(flush.rows) for flush, _ in self._waiting) >= _ROWS:
            for written, at in self._write():
                yield beam.window.TimestampedValue(written, at)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for written, at in self._write():
            yield WindowedValue(written, at, (GlobalWindow(),))

    def _write(self) -> Iterator[tuple[tuple[int, bytes], Timestamp]]:
        """Scores and writes what waits."""
        from nnsparse_stream.streaming.live_scores import score_flushes
        from nnsparse_stream.streaming.window_files import write_flush

        if not self._waiting:
            return
        flushes = [flush for flush, _ in self._waiting]
        current = self._model.get().get()
        self._step.set(current.step)
        scores = score_flushes(flushes, current, self._job.top_k, self._job.rules)
        for (flush, at), scored in zip(self._waiting, scores, strict=True):
            written = write_flush(self._job.output, flush, self._job.num_shards, scored)
            self._count(flush, scored.unknown)
            if flush.pane == 0:
                yield (flush.window, json.dumps(written).encode()), at
        self._waiting = []

    def _count(self, flush: Flush, unknown: int) -> None:
        self._rows.inc(len(flush.rows))
        self._unknown.inc(unknown)
        times = flush.pairs["time"].to_numpy()
        if len(times):
            now = int(time.time() * SECOND)
            for event in (times.min(), times.max()):
                self._lag.update((now - int(event)) // 1_000)


class _Complete(beam.DoFn):
    """Writes a window's `_complete.json` when it is over.

    A shard of which nothing was on time has its first file late: the file is then written again, with that too.
    """

    FILES = BagStateSpec("files", beam.coders.BytesCoder())
    OVER = TimerSpec("over", TimeDomain.WATERMARK)

    def __init__(self, output: str, windows: Windows) -> None:
        self._output, self._windows = output, windows

    def process(
        self,
        written: tuple[int, bytes],
        files: Any = beam.DoFn.StateParam(FILES),  # noqa: B008 (how Beam asks for it)
        over: Any = beam.DoFn.TimerParam(OVER),  # noqa: B008
    ) -> None:
        window, file = written
        files.add(file)
        # What is written of the window bears its end as its time, and all of that is here only a little later.
        over.set(beam_time(window + self._windows.size + TICK))

    @on_timer(OVER)
    def complete(
        self,
        window: Any = beam.DoFn.KeyParam,
        files: Any = beam.DoFn.StateParam(FILES),  # noqa: B008
    ) -> Iterator[int]:
        from nnsparse_stream.streaming.window_files import complete_window, completed_files

        written = [json.loads(file) for file in files.read()]
        if written:
            before = completed_files(self._output, window)
            complete_window(self._output, window, window + self._windows.size, [*before, *written])
            files.clear()
            yield window


class _WriteEnd(beam.PTransform):
    """Writes the file that says that a stream has ended, once nothing more can come."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def expand(self, completed: beam.PCollection[int]) -> beam.PCollection[None]:
        return (
            completed
            | "One key" >> beam.Map(_one).with_output_types(tuple[int, int])
            | "At the end"
            >> beam.WindowInto(GlobalWindows(), trigger=AfterWatermark(), accumulation_mode=AccumulationMode.DISCARDING)
            | "Windows" >> beam.CombinePerKey(sum)
            | "Write" >> beam.Map(_write_end, self._output).with_output_types(None)
        )


def _one(_window: int) -> tuple[int, int]:
    return 0, 1


def _write_end(windows: tuple[int, int], output: str) -> None:
    storage.write_file(ended_file(output), storage.to_json({"windows": windows[1]}))


def ended_file(output: str) -> str:
    """URL of the file that says that a stream has ended by itself, and of how many windows it wrote."""
    return storage.join(output, "_state", "ended.json")
