"""`nnsparse-stream stream`: events without end to lists of the rows that they change, by windows of time."""

from __future__ import annotations

import argparse
import copy
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.pipelines.options import (
    add_format_arguments,
    add_metrics_argument,
    add_worker_arguments,
    check_hints,
    chosen_dialect,
    duration,
    model_worker,
    positive_int,
)

if TYPE_CHECKING:
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.pipelines.metrics_file import MetricsFile
    from nnsparse_stream.streaming.source import EventSource
    from nnsparse_stream.streaming.windows import Windows

DESCRIPTION = """\
Follow events without end: keep what is known of each row, score the rows that change by the newest model, and write
their lists in windows of time.

Events are ratings or interactions, as prepare reads them; a rating that is empty takes the pair's rating back. A row's
known ratings are those of the data set (--data), overlaid by the events; of a pair the latest event counts. A window's
lists stand below OUTPUT/windows, one folder each, and are final once it holds _complete.json.

Without Beam's flags this process does it: stopped, killed or ended by --until_idle, the same command goes on where it
was, and every event counts once.

  nnsparse-stream stream --source events/ --data data/ml --model runs/ml --output live --timestamp_column timestamp
  nnsparse-stream stream --source kafka://broker:9092/ratings --data data/ml --model runs/ml --output s3://bucket/live
  nnsparse-stream stream --output live --compact latest
"""

_LOGGER = logging.getLogger(__name__)
_SECOND = 1_000_000
#: Seconds between two lines that say how the stream does.
TELL_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `stream`."""
    parser.add_argument(
        "--source",
        metavar="URL",
        help="a directory to which files of events are added; kafka://HOST:PORT/TOPIC; or redis://HOST:PORT/STREAM",
    )
    parser.add_argument("--data", metavar="URL", help="data set with what is known of the rows to begin with")
    parser.add_argument(
        "--model",
        metavar="URL",
        help="a run's directory (its newest whole checkpoint), one checkpoint's, or a file that holds the URL of one",
    )
    parser.add_argument("--output", required=True, metavar="URL", help="directory of the windows, and of the state")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--top_k", type=positive_int, default=10, metavar="K", help="columns of each row's list (default: 10)"
    )
    what.add_argument(
        "--pairs", action="store_true", help="instead of lists, predict the rating of each event from its row's others"
    )
    what.add_argument(
        "--compact",
        metavar="URL",
        help="only write the latest list of each row that lies in --output, to this directory, and end",
    )
    parser.add_argument(
        "--window", type=duration, default="60s", metavar="TIME", help="length of a window (default: 60s)"
    )
    parser.add_argument(
        "--out_of_order",
        type=duration,
        default="1s",
        metavar="TIME",
        help="how much later than others of a later time an event may come, and still be in time (default: 1s)",
    )
    parser.add_argument(
        "--allowed_lateness",
        type=duration,
        default="5m",
        metavar="TIME",
        help="how long after its end a window gets new files for events that come late; those that come later still "
        "count in the next window that ends (default: 5m)",
    )
    parser.add_argument(
        "--model_refresh",
        type=duration,
        default="30s",
        metavar="TIME",
        help="look so often for a newer model (default: 30s)",
    )
    parser.add_argument(
        "--until_idle",
        type=duration,
        metavar="TIME",
        help="end when no event has come for so long, as for a schedule's runs (default: never)",
    )
    parser.add_argument(
        "--order",
        choices=("time", "name"),
        default="time",
        help="in which order a directory's files are read: as they were written, or by name (default: time)",
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew, and remove what lies in --output")
    add_worker_arguments(parser)
    add_metrics_argument(parser)
    add_format_arguments(parser, events=True)


def run(args: argparse.Namespace, beam_flags: list[str]) -> dict[str, Any]:
    """Follows the events, and returns what was done.

    Raises:
        InputError: the user's input or flags are at fault.
        StoppedError: a signal ended it; what was read is committed.
    """
    if args.compact is not None:
        return _compact(args)
    missing = [f"`{name}`" for name in ("source", "data", "model") if getattr(args, name) is None]
    if missing:
        raise InputError(f"{' and '.join(missing)} missing: where events, known ratings and the model come from")
    if args.window <= 0 or args.window % 1_000:
        raise InputError("`window` is a whole number of milliseconds, one at least")
    if beam_flags:
        return _run_job(args, beam_flags)
    check_hints(args, beam_flags)
    return _run_here(args)


def _compact(args: argparse.Namespace) -> dict[str, Any]:
    from nnsparse_stream.storage.matching import check_apart
    from nnsparse_stream.streaming.window_files import compact

    check_apart(args.compact, [args.output])
    manifest = compact(args.output, args.compact, args.overwrite)
    print(f"{args.compact} holds {manifest['rows']:,} scores, the latest of {manifest['windows']:,} windows")
    return manifest


def _run_here(args: argparse.Namespace) -> dict[str, Any]:
    """The stream in this process."""
    from nnsparse_stream.pipelines.cli import StoppedError
    from nnsparse_stream.pipelines.train import set_by_signal

    started = time.monotonic()
    stop = threading.Event()
    with set_by_signal(stop):  # before what takes a second to import
        from nnsparse_stream.pipelines.command_metrics import streamed
        from nnsparse_stream.pipelines.metrics_file import MetricsFile
        from nnsparse_stream.streaming.base_rows import BaseRows
        from nnsparse_stream.streaming.events import event_schema
        from nnsparse_stream.streaming.live_model import LiveModel
        from nnsparse_stream.streaming.local_stream import stream_here
        from nnsparse_stream.streaming.stream_output import open_output, sole_writer

        source, windows, manifest = _planned(args)
        base, metrics = BaseRows(args.data), MetricsFile(args.metrics_file, "stream")
        with sole_writer(args.output) as renew:
            going_on = open_output(args.output, _settings(args, manifest, base.num_shards), args.overwrite)
            live = LiveModel(args.model, args.data, args.device, args.model_refresh / _SECOND)
            current = live.get()
            print(
                f"{'going on with' if going_on else 'writing to'} {args.output}, by the model of step {current.step:,}"
            )
            done = stream_here(
                source,
                event_schema(manifest.row_id_type, manifest.column_id_type),
                base,
                live,
                args.output,
                windows,
                top_k=None if args.pairs else args.top_k,
                until_idle=None if args.until_idle is None else args.until_idle / _SECOND,
                stop=stop.is_set,
                told=_Teller(metrics).tell,
                renew=renew,
            )
            live.close()
    metrics.write(streamed(done))
    _report(done, args.output, time.monotonic() - started)
    if done["stopped"]:
        raise StoppedError("stopped; what was read is committed, and the same command goes on from there")
    return done


def _run_job(args: argparse.Namespace, beam_flags: list[str]) -> dict[str, Any]:
    """The stream as a job of an engine."""
    from nnsparse_stream.pipelines.running import engine_of, run_pipeline

    if engine_of(beam_flags) is None:
        raise InputError(
            "Beam's runner in this process reads nothing that has no end: leave out --runner, and this process follows "
            "the events without Beam; or name an engine"
        )
    if args.metrics_file is not None:
        raise InputError(
            "`metrics_file` is for a stream in this process: an engine has the metrics of its job, and this process "
            "has not; leave it out"
        )
    from nnsparse_stream.pipelines.metrics_file import MetricsFile
    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.streaming.base_rows import BaseRows
    from nnsparse_stream.streaming.stream_output import open_output
    from nnsparse_stream.transforms.stream import StreamJob, build_stream, ended_file

    worker = model_worker(args, beam_flags)
    source, windows, manifest = _planned(args)
    num_shards = BaseRows(args.data).num_shards
    restored = any(flag.startswith("--savepoint_path") for flag in beam_flags)
    open_output(args.output, _settings(args, manifest, num_shards), args.overwrite, go_on=restored)
    job = StreamJob(
        data=args.data,
        model=args.model,
        output=args.output,
        windows=windows,
        num_shards=num_shards,
        row_type=manifest.row_id_type,
        column_type=manifest.column_id_type,
        top_k=None if args.pairs else args.top_k,
        model_refresh=args.model_refresh / _SECOND,
        worker=worker,
        until_idle=None if args.until_idle is None else args.until_idle / _SECOND,
    )
    streaming = [] if "--streaming" in beam_flags else ["--streaming"]
    ended = ended_file(args.output)
    storage.remove_file(ended)
    teller = _Teller(MetricsFile(None, "stream"))
    result = run_pipeline(
        lambda pipeline: build_stream(pipeline, source, job),
        [*beam_flags, *streaming],
        lambda: storage.exists(ended),
        teller.tell_of_job,
    )
    teller.tell_of_job(result, at_once=True)
    return {}


def _planned(args: argparse.Namespace) -> tuple[EventSource, Windows, Manifest]:
    """Where events come from, their windows, and the data set's manifest.

    Raises:
        InputError: the user's input or flags are at fault.
    """
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.pipelines.feedback_options import chosen_feedback
    from nnsparse_stream.ratings.layout import FieldNames
    from nnsparse_stream.storage.matching import check_apart
    from nnsparse_stream.streaming.open_source import EventFormat, open_source
    from nnsparse_stream.streaming.windows import Windows

    feedback = chosen_feedback(args)
    local = [args.source] if not args.source.startswith(("kafka://", "redis://")) else []
    check_apart(args.output, [args.data, args.model, *local])
    manifest = Manifest.read(args.data)
    if feedback.feedback != manifest.feedback:
        raise InputError(
            f"the events are {feedback.feedback} feedback, and what {args.data} holds is {manifest.feedback}: pass the "
            "flags that it was prepared with, as `feedback`, `weight_column` or `positive_from`"
        )
    names = FieldNames(args.user_column, args.item_column, feedback.column, args.timestamp_column)
    event_format = EventFormat(
        axis=manifest.axis,
        row_type=manifest.row_id_type,
        column_type=manifest.column_id_type,
        names=names,
        file_format=args.format,
        dialect=chosen_dialect(args).checked(),
        timestamp_unit=args.timestamp_unit,
        out_of_order=args.out_of_order,
        positive_from=feedback.positive_from,
        order=args.order,
    )
    return open_source(args.source, event_format), Windows(args.window, args.allowed_lateness), manifest


def _settings(args: argparse.Namespace, manifest: Manifest, num_shards: int) -> dict[str, Any]:
    """What must be the same when a stream goes on: what its state and its files were made by."""
    from nnsparse_stream.storage.matching import canonical

    is_local = not args.source.startswith(("kafka://", "redis://"))
    return {
        "source": canonical(args.source) if is_local else args.source,
        "data": canonical(args.data),
        "window": f"{args.window / _SECOND:g}s",
        "pairs": args.pairs,
        "axis": manifest.axis,
        "num_shards": num_shards,
    }


class _Teller:
    """Prints a line, and writes the metrics, every ten seconds."""

    def __init__(self, metrics: MetricsFile) -> None:
        self._metrics = metrics
        self._due = time.monotonic() + TELL_SECONDS

    def tell(self, figures: dict[str, Any]) -> None:
        """Tells the figures as they stand, where it is time to."""
        from nnsparse_stream.pipelines.command_metrics import streamed

        if self._is_due():
            self._print(figures)
            try:
                self._metrics.write(streamed(figures))
            except (InputError, StoreError) as error:  # lists are worth more; that the file grows old is seen
                _LOGGER.warning("no metrics: %s", error)

    def tell_of_job(self, result: Any, at_once: bool = False) -> None:
        """The same of a job, where its engine says how it does: lag is the mean since its begin."""
        if not (self._is_due() or at_once):
            return
        from apache_beam.metrics import MetricsFilter

        try:
            # Of a copy: a result of Beam keeps the metrics that it was first asked for.
            found = copy.copy(result).metrics().query(MetricsFilter().with_namespace("stream"))
        except Exception:  # whatever it is that a runner cannot
            return
        values = {of.key.metric.name: of.result for kind in found.values() for of in kind}
        if not values:
            return
        names = {"events": "events", "late": "late", "dead": "dead_letters", "rows": "rows_scored"}
        lag = values.get("lag_ms")
        figures = {name: values.get(of) or 0 for name, of in names.items()}
        step = getattr(values.get("model_step"), "value", values.get("model_step"))
        self._print({**figures, "lag": lag.mean / 1_000 if lag and lag.count else None, "model_step": step})

    def _is_due(self) -> bool:
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + TELL_SECONDS
        return True

    @staticmethod
    def _print(figures: dict[str, Any]) -> None:
        lag, step = figures["lag"], figures["model_step"]
        print(
            f"events {figures['events']:,}, late {figures['late']:,}, dead {figures['dead']:,}, "
            f"rows scored {figures['rows']:,}, lag {'-' if lag is None else f'{lag:.1f} s'}, "
            f"model step {'-' if step is None else f'{step:,}'}",
            flush=True,
        )


def _report(done: dict[str, Any], url: str, seconds: float) -> None:
    of_windows = f"{done['files']:,} files, {done['windows']:,} windows complete"
    lines = [
        ("windows", f"{url.rstrip('/')}/windows"),
        ("events", f"{done['events']:,}, {done['late']:,} of them late"),
        ("rows scored", f"{done['rows']:,} ({of_windows}) in {seconds:.1f} s"),
    ]
    if done["dead"]:
        lines.append(("no events", f"{done['dead']:,} records (see {url.rstrip('/')}/_dead_letters)"))
    if done["unknown"]:
        lines.append(("left out", f"{done['unknown']:,} known ratings of columns that the model does not know"))
    if done["model_step"] is not None:
        lines.append(("model", f"step {done['model_step']:,} ({done['model']})"))
    if done["waiting"]:
        lines.append(("waiting", f"{done['waiting']:,} events of windows that have not ended; the next run has them"))
    print("\n".join(f"{name:<13} {text}" for name, text in lines))


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("stream")
