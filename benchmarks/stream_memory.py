"""Memory of a stream: a million events over 100,000 rows and 400,000 pairs, in one process or on Flink.

The data set has 6,040 other rows (the size of MovieLens 1M); events lie there in files of 20,000, and a window has
50,000 of them. Each event's rating is predicted; with `--score` the rows that change get lists instead. `resident` is
a process's largest in each tenth of the run, sampled twice a second: of this one, or with `--flink` of each of the two
task managers' JVMs and of their Python workers, from the first window's file on. `state` is what lies in `_state/` at
the end, or what Flink's largest checkpoint holds.

    python benchmarks/stream_memory.py
    python benchmarks/stream_memory.py --flink /tmp/flink
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings

ROWS, PAIRS_OF_A_ROW, FILE, WINDOW_EVENTS = 100_000, 4, 20_000, 50_000
_BEGIN = 1_767_225_600


def write_events(directory: Path, items: np.ndarray, events: int) -> None:
    directory.mkdir()
    generator = np.random.default_rng(0)
    for number in range(events // FILE):
        users = generator.integers(0, ROWS, FILE)
        columns = (users * 7919 + generator.integers(0, PAIRS_OF_A_ROW, FILE) * 31) % len(items)
        times = _BEGIN + (number * FILE + np.arange(FILE)) / (WINDOW_EVENTS / 60)
        table = {"user": [f"u{user}" for user in users.tolist()], "item": items[columns], "timestamp": times}
        ratings = pa.array(generator.integers(1, 6, FILE), pa.float32())
        pq.write_table(pa.table({**table, "rating": ratings}), directory / f"{number:04d}.parquet")


def resident(pid: int) -> int:
    """Bytes of a process's resident memory (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def sample(child: subprocess.Popen[bytes], look: Callable[[], dict[str, int]]) -> dict[str, list[int]]:
    """The resident bytes of processes by their names, until a child ends; each in the order of time."""
    found: dict[str, list[int]] = defaultdict(list)
    while child.poll() is None:
        for name, pid in look().items():
            with contextlib.suppress(OSError, IndexError):  # it has ended
                found[name].append(resident(pid))
        time.sleep(0.5)
    assert child.returncode == 0
    return found


def run_here(command: list[str], live: Path) -> tuple[dict[str, list[int]], int]:
    """The samples of the stream in one process, and the bytes of its state."""
    child = subprocess.Popen(command)
    samples = sample(child, lambda: {"stream": child.pid})
    return samples, sum(path.stat().st_size for path in (live / "_state").iterdir())


def run_on_flink(command: list[str], live: Path, directory: Path) -> tuple[dict[str, list[int]], int]:
    """The samples of the servers of a cluster that is started for it, and the bytes of its largest checkpoint.

    The last one has no state any more: the job ends by itself, and Flink clears what no event can reach.
    """
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from deploy.engines.flink.cluster import FlinkCluster

    cluster = FlinkCluster(directory)
    cluster.install()
    cluster.start()

    def look() -> dict[str, int]:
        if not any(live.glob("windows/*/*.parquet")):
            return {}
        managers = {name: pid for name, pid in cluster.servers.running().items() if name.startswith("task-manager")}
        logs = sorted(cluster.servers.logs.glob("worker-*.log"))
        return managers | {log.stem: int(log.stem.partition("-")[2]) for log in logs}

    try:
        samples = sample(subprocess.Popen([*command, *cluster.streaming_flags()]), look)
        (job,) = cluster.rest("jobs")["jobs"]
        checkpoints: Any = cluster.rest(f"jobs/{job['id']}/checkpoints")
        return samples, checkpoints["summary"]["state_size"]["max"]
    finally:
        cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", action="store_true", help="lists of ten, instead of a prediction for each event")
    parser.add_argument("--flink", type=Path, metavar="DIRECTORY", help="on a cluster of this directory")
    parser.add_argument("--events", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        log = make_ratings(6040, 3706, 1_000_000, 0.5, seed=1).ratings
        pq.write_table(log, where / "log.parquet")
        data, run, live = (str(where / name) for name in ("data", "run", "live"))
        flags = ["--axis", "user", "--duplicates", "last"]
        assert cli.main(["prepare", "--input", str(where / "log.parquet"), "--output", data, *flags]) == 0
        assert cli.main(["train", "--data", data, "--output", run, "--hidden", "64", "--steps", "20"]) == 0
        items = log["item"].unique().to_numpy(zero_copy_only=False)
        write_events(where / "events", items, arguments.events)
        command = [sys.executable, "-m", "nnsparse_stream.pipelines", "stream", "--source", str(where / "events"),
                   "--data", data, "--model", run, "--output", live, "--timestamp_column", "timestamp",
                   "--until_idle", "1s", "--order", "name", *([] if arguments.score else ["--pairs"])]  # fmt: skip
        started = time.time()
        if arguments.flink is None:
            samples, state = run_here(command, Path(live))
        else:
            samples, state = run_on_flink(command, Path(live), arguments.flink)
        for name, sizes in samples.items():
            tenths = [max(sizes[len(sizes) * of // 10 : len(sizes) * (of + 1) // 10], default=0) for of in range(10)]
            print(f"{name} resident, MB: " + ", ".join(f"{size / 1e6:,.0f}" for size in tenths))
        times = sorted(path.stat().st_mtime for path in Path(live).glob("windows/*/*.parquet"))
        counted = sum(pq.read_metadata(path).num_rows for path in Path(live).glob("windows/*/*.parquet"))
        print(f"state {state / 1e6:,.0f} MB; first file after {times[0] - started:,.0f} s, last after "
              f"{times[-1] - started:,.0f} s; {counted:,} rows of files")  # fmt: skip


if __name__ == "__main__":
    main()
