"""Memory of a stream in one process: a million events over 100,000 rows and 400,000 pairs.

The data set has 6,040 other rows (the size of MovieLens 1M); events lie there in files of 20,000, and a window has
50,000 of them. `resident` is the process's largest in each tenth of the run, sampled twice a second; `state` is what
lies in `_state/` at the end. Each event's rating is predicted; with `--score` the rows that change get lists instead.

    python benchmarks/stream_memory.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings

EVENTS, ROWS, PAIRS_OF_A_ROW, FILE, WINDOW_EVENTS = 1_000_000, 100_000, 4, 20_000, 50_000
_BEGIN = 1_767_225_600


def write_events(directory: Path, items: np.ndarray) -> None:
    directory.mkdir()
    generator = np.random.default_rng(0)
    for number in range(EVENTS // FILE):
        users = generator.integers(0, ROWS, FILE)
        columns = (users * 7919 + generator.integers(0, PAIRS_OF_A_ROW, FILE) * 31) % len(items)
        times = _BEGIN + (number * FILE + np.arange(FILE)) / (WINDOW_EVENTS / 60)
        table = {"user": [f"u{user}" for user in users.tolist()], "item": items[columns], "timestamp": times}
        ratings = pa.array(generator.integers(1, 6, FILE), pa.float32())
        pq.write_table(pa.table({**table, "rating": ratings}), directory / f"{number:04d}.parquet")


def resident(pid: int) -> int:
    """Bytes of a process's resident memory (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", action="store_true", help="lists of ten, instead of a prediction for each event")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        log = make_ratings(6040, 3706, 1_000_000, 0.5, seed=1).ratings
        pq.write_table(log, where / "log.parquet")
        data, run = str(where / "data"), str(where / "run")
        flags = ["--axis", "user", "--duplicates", "last"]
        assert cli.main(["prepare", "--input", str(where / "log.parquet"), "--output", data, *flags]) == 0
        assert cli.main(["train", "--data", data, "--output", run, "--hidden", "64", "--steps", "20"]) == 0
        write_events(where / "events", log["item"].unique().to_numpy(zero_copy_only=False))
        command = [sys.executable, "-m", "nnsparse_stream.pipelines", "stream", "--source", str(where / "events"),
                   "--data", data, "--model", run, "--output", str(where / "live"), "--timestamp_column", "timestamp",
                   "--until_idle", "1s", "--order", "name", *([] if arguments.score else ["--pairs"])]  # fmt: skip
        started = time.monotonic()
        child = subprocess.Popen(command)
        samples = []
        while child.poll() is None:
            samples.append(resident(child.pid))
            time.sleep(0.5)
        seconds = time.monotonic() - started
        assert child.returncode == 0
        tenths = [max(samples[len(samples) * of // 10 : len(samples) * (of + 1) // 10]) for of in range(10)]
        print("resident, MB: " + ", ".join(f"{size / 1e6:,.0f}" for size in tenths))
        state = sum(path.stat().st_size for path in (where / "live" / "_state").iterdir())
        print(f"state {state / 1e6:,.0f} MB; {EVENTS / seconds:,.0f} events/s, all counted")


if __name__ == "__main__":
    main()
