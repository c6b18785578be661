"""Streams on Flink: events a second of the state alone, rows a second with scoring, and seconds from event to list.

A cluster of two task managers (one slot each) is started on this machine, with a data set of the size of MovieLens 1M
(6,040 rows, 3,706 columns, a million ratings) and a model of 700 units; 5 s windows, lists of ten.

- `state`: events that lie there in files are read and kept, and the rows that change in each window are formed, but
  not scored. From the first window's end to the last one's.
- `rows`: the same with scoring and files, of fewer events.
- `latency`: 300 events a second are added in files, twice a second; from an event's time to that of the file that holds
  its row's list. What was written in the first 30 s is left out.

    python benchmarks/stream.py --directory /tmp/stream --json stream.json
    python benchmarks/stream.py --directory /tmp/stream --cases latency
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

ROWS, COLUMNS, RATINGS, UNITS = 6040, 3706, 1_000_000, 700
WINDOW = 5
CASES = ("state", "rows", "latency")
#: Events of the cases whose events lie there, and their windows.
EVENTS = {"state": 1_000_000, "rows": 40_000}
WINDOWS = 20
_BEGIN = 1_767_225_600
_RATE, _SECONDS, _WARM = 300, 90, 30


def prepare(directory: Path) -> None:
    """Makes the data set and the model, unless they are there."""
    from nnsparse_stream.pipelines import cli
    from nnsparse_stream.ratings.synthetic import make_ratings

    data, run = directory / "data", directory / "run"
    if not data.exists():
        pq.write_table(make_ratings(ROWS, COLUMNS, RATINGS, 0.5, seed=1).ratings, directory / "log.parquet")
        flags = ["--input", str(directory / "log.parquet"), "--output", str(data), "--axis", "user"]
        assert cli.main(["prepare", *flags, "--duplicates", "last"]) == 0
    if not run.exists():
        flags = ["--data", str(data), "--output", str(run), "--hidden", str(UNITS), "--steps", "20"]
        assert cli.main(["train", *flags]) == 0


def events(log: Path, times: np.ndarray, generator: np.random.Generator) -> pa.Table:
    """Events of users and items of the log, at these times (seconds)."""
    table = pq.read_table(log, columns=["user", "item"])
    users, items = (table[of].unique() for of in ("user", "item"))
    return pa.table(
        {
            "user": users.take(pa.array(generator.integers(0, len(users), len(times)))),
            "item": items.take(pa.array(generator.integers(0, len(items), len(times)))),
            "rating": generator.integers(1, 6, len(times)).astype(np.float32),
            "timestamp": (times * 1e6).astype(np.int64),
        }
    )


class Job:
    """A stream of the benchmark on a cluster: its source, and what it is to do."""

    def __init__(self, directory: Path, name: str) -> None:
        from nnsparse_stream.data.manifest import Manifest
        from nnsparse_stream.ratings.layout import FieldNames
        from nnsparse_stream.streaming.base_rows import BaseRows
        from nnsparse_stream.streaming.event_format import EventFormat
        from nnsparse_stream.streaming.open_source import open_source
        from nnsparse_stream.streaming.windows import Windows
        from nnsparse_stream.transforms.model_worker import ModelWorker
        from nnsparse_stream.transforms.stream import StreamJob

        self.events, self.output = directory / f"{name}-{os.getpid()}-in", directory / f"{name}-{os.getpid()}-out"
        self.events.mkdir()
        data = str(directory / "data")
        kinds = Manifest.read(data).row_id_type, Manifest.read(data).column_id_type
        names = FieldNames(timestamp="timestamp")
        self.source = open_source(str(self.events), EventFormat("user", *kinds, names=names))
        self.base = BaseRows(data)
        windows = Windows(WINDOW * 1_000_000, 60_000_000)
        self.job = StreamJob(
            data,
            str(directory / "run"),
            str(self.output),
            windows,
            self.base.num_shards,
            *kinds,
            worker=ModelWorker("cpu"),
        )

    def build(self, pipeline: Any) -> None:
        """The whole stream."""
        from nnsparse_stream.transforms.stream import build_stream

        build_stream(pipeline, self.source, self.job)

    def build_state(self, pipeline: Any) -> None:
        """Its state alone; a flush becomes an empty file."""
        import apache_beam as beam

        from nnsparse_stream.streaming.events import event_schema
        from nnsparse_stream.transforms.keep_ratings import KeepRatings
        from nnsparse_stream.transforms.read_events import ReadEvents

        job, output = self.job, str(self.output)

        def touch(flush: Any) -> None:
            directory = os.path.join(output, "windows", str(flush.window))
            os.makedirs(directory, exist_ok=True)
            with open(os.path.join(directory, f"part-{flush.shard}"), "w"):
                pass

        kept = pipeline | ReadEvents(self.source, job.num_shards, job.windows, job.output)
        flushes = kept | KeepRatings(self.base, job.windows, event_schema(job.row_type, job.column_type))
        _ = flushes | beam.Map(touch).with_output_types(None)

    def parts(self) -> Iterator[Path]:
        """The files of all windows."""
        return self.output.glob("windows/*/part-*")

    def run(self, cluster: Any, build: Callable[[Any], None], has_ended: Callable[[], bool]) -> None:
        """Runs the job until it has done what it was to do, and ends it."""
        from nnsparse_stream.pipelines.running import run_pipeline

        run_pipeline(build, cluster.streaming_flags(), has_ended)
        for job in cluster.rest("jobs")["jobs"]:
            if job["status"] == "RUNNING":
                cluster.cancel(job["id"])


def throughput(directory: Path, cluster: Any, case: str) -> dict[str, float]:
    """Events, or rows, a second of events that lie there."""
    job, count = Job(directory, case), EVENTS[case]
    times = _BEGIN + np.sort(np.random.default_rng(0).uniform(0, WINDOW * WINDOWS, count))
    table = events(directory / "log.parquet", times, np.random.default_rng(1))
    for number in range(WINDOWS):
        path = job.events / f"{number:04d}.csv"
        pyarrow.csv.write_csv(table.slice(number * count // WINDOWS, count // WINDOWS), path)
        os.utime(path, (_BEGIN + 1000 + number,) * 2)
    wanted = WINDOWS * job.job.num_shards
    job.run(cluster, job.build_state if case == "state" else job.build, lambda: len(list(job.parts())) >= wanted)
    ends: dict[str, float] = {}
    rows: dict[str, int] = {}
    for part in job.parts():
        window = part.parent.name
        ends[window] = max(ends.get(window, 0.0), part.stat().st_mtime)
        if case == "rows":
            rows[window] = rows.get(window, 0) + pq.read_metadata(part).num_rows // 10
    first, *others = sorted(ends)
    seconds = max(ends.values()) - ends[first]
    done = count * (WINDOWS - 1) / WINDOWS if case == "state" else sum(rows[window] for window in others)
    return {"events" if case == "state" else "rows": done, "seconds": seconds, "per_second": done / seconds}


def latency(directory: Path, cluster: Any) -> dict[str, float]:
    """From an event's time to its row's list, seconds."""
    from nnsparse_stream.data.grouping import partition

    job, generator = Job(directory, "latency"), np.random.default_rng(2)
    kept: list[pa.Table] = []

    def write() -> None:
        while not ends[0] or time.time() < ends[0]:
            if not ends[0] and any(job.output.glob("windows/*/_complete.json")):
                ends[0] = time.time() + _SECONDS
            begun = time.time()
            time.sleep(0.5)
            table = events(directory / "log.parquet", np.linspace(begun, time.time(), _RATE // 2), generator)
            kept.append(table)
            half = job.events / f"{len(kept):06d}.csv.tmp"
            pyarrow.csv.write_csv(table, half)
            half.rename(half.with_suffix(""))

    ends = [0.0]
    writer = threading.Thread(target=write)
    writer.start()
    job.run(cluster, job.build, lambda: not writer.is_alive() and time.time() > ends[0] + 2 * WINDOW)
    written = {part: part.stat().st_mtime for part in job.parts()}
    since = min(written.values()) + _WARM
    table = pa.concat_tables(kept).combine_chunks()
    block = pa.record_batch([table["user"].chunk(0), table["timestamp"].chunk(0)], names=["row", "time"])
    lags = []
    for shard, piece in partition(block, "row", job.job.num_shards):
        times = piece["time"].to_numpy()
        for begin in np.unique(job.job.windows.begin_of(times)):
            within = times[(times >= begin) & (times < begin + job.job.windows.size)]
            name = job.job.windows.name(int(begin))
            at = [written[path] for path in written if path.match(f"{name}/part-{shard:05d}-*-pane-0000.parquet")]
            if at and at[0] > since:
                lags.append(at[0] - within / 1e6)
    all_lags = np.concatenate(lags)
    return {
        "events": len(all_lags),
        **{f"p{part}": float(np.percentile(all_lags, part)) for part in (50, 99)},
        "max": float(all_lags.max()),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="of what is made; kept")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    args.directory.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from deploy.engines.flink.cluster import FlinkCluster

    prepare(args.directory)
    cluster = FlinkCluster(args.directory / "flink")
    cluster.install()
    cluster.start()
    found = {}
    try:
        for case in args.cases:
            found[case] = (
                latency(args.directory, cluster) if case == "latency" else throughput(args.directory, cluster, case)
            )
            print(case, json.dumps({name: round(value, 2) for name, value in found[case].items()}), flush=True)
    finally:
        cluster.stop()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
