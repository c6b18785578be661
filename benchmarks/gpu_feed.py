"""Data sets, and what feeds a GPU from them, for `gpu.py`: the loader alone, training that waits for it, an epoch.

Data sets are made by `prepare`, without Beam, in a process of their own: of a rating log (MovieLens-1M, or a synthetic
one of its size), and of the same log repeated, each time with other items. Rows are items.

    python benchmarks/gpu_feed.py --ratings ml-1m.parquet --times 100 --output DIRECTORY
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings

ONE, MANY = "one", "many"


def log_of(ratings: str | None, entries: int) -> pa.Table:
    """A rating log with columns user, item (int32) and rating; of about so many ratings where it is synthetic."""
    table = pq.read_table(ratings) if ratings else make_ratings(6_040, 3_706, entries, 0.7, seed=0).ratings
    for name in ("user", "item"):
        column = table[name].combine_chunks()
        if not pa.types.is_integer(column.type):
            column = column.dictionary_encode().indices
        table = table.set_column(table.schema.get_field_index(name), name, column.cast(pa.int32()))
    return table.select(["user", "item", "rating"])


def command(*argv: str) -> None:
    """A command of the product, in this process; what it prints is not shown."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        code = cli.main(list(argv))
    if code != 0:
        raise RuntimeError(f"nnsparse-stream {' '.join(argv)} ended with {code}")


def make(ratings: str | None, entries: int, times: int, where: Path) -> None:
    """Makes both data sets in `where`."""
    table = log_of(ratings, entries)
    stride = pc.max(table["item"]).as_py() + 1
    parts = where / "log"
    parts.mkdir(parents=True)
    pq.write_table(table, where / "one.parquet")

    def write(part: int) -> None:
        items = table["item"].combine_chunks().to_numpy() + np.int32(part * stride)
        pq.write_table(table.set_column(1, "item", pa.array(items)), parts / f"{part:05d}.parquet", compression="none")

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(times)))
    for log, name in ((where / "one.parquet", ONE), (parts / "*.parquet", MANY)):
        command("prepare", "--input", str(log), "--output", str(where / name), "--axis", "item")


class Making:
    """Both data sets, made by a process beside this one."""

    def __init__(self, ratings: str | None, entries: int, times: int, where: Path) -> None:
        self.where = where
        flags = ["--entries", str(entries), "--times", str(times), "--output", str(where)]
        flags += [] if ratings is None else ["--ratings", ratings]
        self._began = time.monotonic()
        self._errors = open(where.with_suffix(".errors"), "w+")  # noqa: SIM115 (for as long as the process)
        self._process = subprocess.Popen([sys.executable, __file__, *flags], stderr=self._errors)

    def wait(self, seconds: float) -> dict[str, Any]:
        """Waits for both, at most so long.

        Raises:
            RuntimeError: they are not there by then, or could not be made.
        """
        try:
            code = self._process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            self.stop()
            raise RuntimeError("the data sets were not made in time; ask for fewer --times") from None
        if code:
            self._errors.seek(0)
            raise RuntimeError(f"the data sets could not be made: {self._errors.read()[-500:]}")
        return {"seconds since the start": time.monotonic() - self._began}

    def stop(self) -> None:
        """Ends the process, where it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def loader(where: Path, device: Any, readers: list[int], batch_rows: int, over: Callable[[], bool]) -> dict[str, Any]:
    """Entries a second of the loader alone, minibatches counted and dropped, by readers and where the fold stays.

    The files are in the system's cache. With `none` it is the first epoch, with the others the second, for which the
    first has put the fold there.
    """
    import torch

    from nnsparse_stream.data.dataset import Dataset
    from nnsparse_stream.feeding.stream import TrainingStream
    from nnsparse_stream.nn.batchifier import Batchifier

    dataset = Dataset(str(where / MANY))
    found: list[dict[str, Any]] = []
    left_out: list[str] = []
    for cache, number in [*(("none", number) for number in sorted(readers, reverse=True)), ("device", max(readers))]:
        if over():
            left_out.append(f"cache {cache}, {number} readers")
            continue
        stream = TrainingStream(dataset, 0, Batchifier(batch_rows, 1 << 20), device, cache=cache, readers=number)
        for epoch in (1,) if cache == "none" else (1, 2):
            began, entries = time.perf_counter(), 0
            for minibatch in stream.epochs(epoch, epoch):
                entries += minibatch.rows.num_entries if minibatch else 0
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
        found.append({"cache": cache, "readers": number, "entries": entries, "entries/s": entries / seconds})
    return {"cores": os.cpu_count(), "runs": found, "left out": left_out}


def train(data: Path, run: Path, device: Any, epochs: int, *flags: str) -> dict[str, Any]:
    """A run of `train` with preset `best`, by its own figures; the first epoch apart, in which kernels compile."""
    command(
        "train", "--data", str(data), "--output", str(run), "--preset", "best", "--epochs", str(epochs),
        "--device", str(device), *flags,
    )  # fmt: skip
    first, *later = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [epoch["seconds"] for epoch in later]
    return {
        "ratings": first["ratings"],
        "first epoch, s": first["seconds"],
        "epoch, s": statistics.median(seconds),
        "ratings/s": statistics.median(epoch["ratings_per_second"] for epoch in later),
        "waiting": sum(epoch["seconds"] * epoch["waiting_for_data"] for epoch in later) / sum(seconds),
        "recipe": json.loads((run / "run.json").read_text())["recipe"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", help="rating log (Parquet: user, item, rating); synthetic where none is given")
    parser.add_argument("--entries", type=int, default=1_300_000, help="ratings drawn for the synthetic log")
    parser.add_argument("--times", type=int, default=100, help="how often the log is repeated")
    parser.add_argument("--output", type=Path, required=True, help="a new directory for the data sets")
    arguments = parser.parse_args()
    make(arguments.ratings, arguments.entries, arguments.times, arguments.output)


if __name__ == "__main__":
    main()
