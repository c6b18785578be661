"""What feeds training: entries a second, with one reader and several, and with the training fold in memory.

A TrainingStream over the shards of a data set on the local disk; its minibatches are counted and dropped. The files are
in the system's cache: they have just been written. For each way of feeding, in turn, the best of some epochs after the
first, and of the processor's time the least:

- ns/entry: of all threads together, so many nanoseconds of the processor for an entry;
- one thread: of these, what the thread that knows the order and the one that takes the minibatches need, which is all
  that is not done side by side;
- cores: that were busy, on average.

    python benchmarks/loader.py ml-1m.parquet --times 16 --json loader.json

Rows are users; `--times` repeats them so often, each time as other users. Without a rating file, a synthetic one is
made. On a GPU, minibatches end in its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.threads import usable_cores
from nnsparse_stream.feeding.fold_cache import PLACES
from nnsparse_stream.feeding.stream import TrainingStream
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings


class TimedStream(TrainingStream):
    """Knows how long its thread that knows the order has computed."""

    ordered = 0.0

    def _tasks(self, *arguments: Any) -> Generator[Any, None, None]:
        try:
            yield from super()._tasks(*arguments)
        finally:
            self.ordered = time.thread_time()


def prepared(ratings: str | None, entries: int, times: int, where: Path) -> Dataset:
    table = pq.read_table(ratings) if ratings else make_ratings(6_000, 4_000, entries, 0.7, seed=0).ratings
    names = pc.cast(table["user"], pa.string())
    parts = [table.set_column(table.schema.get_field_index("user"), "user", names)]
    parts += [
        table.set_column(0, "user", pc.binary_join_element_wise(names, str(k), "-")).select(parts[0].column_names)
        for k in range(1, times)
    ]
    pq.write_table(pa.concat_tables(parts), where / "repeated.parquet")
    flags = ["--input", str(where / "repeated.parquet"), "--output", str(where / "data"), "--axis", "user"]
    assert cli.main(["prepare", *flags]) == 0
    return Dataset(str(where / "data"))


def drain(stream: TimedStream, epoch: int) -> dict[str, float]:
    """The figures of one epoch."""
    started, processor, taken = time.perf_counter(), time.process_time(), time.thread_time()
    entries = sum(minibatch.rows.num_entries for minibatch in stream.epochs(epoch, epoch) if minibatch)
    if stream.device.type == "cuda":
        torch.cuda.synchronize()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    return {
        "entries_per_second": entries / seconds,
        "processor_ns_per_entry": processor / entries * 1e9,
        "one_thread_ns_per_entry": (time.thread_time() - taken + stream.ordered) / entries * 1e9,
        "cores": processor / seconds,
    }


def best(epochs: list[dict[str, float]]) -> dict[str, float]:
    fastest = max(epochs, key=lambda figures: figures["entries_per_second"])
    least = {name: min(figures[name] for figures in epochs) for name in fastest if "_ns_" in name}
    return {**fastest, **least}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file (Parquet); synthetic where none is given")
    parser.add_argument("--entries", type=int, default=1_000_000, help="ratings of the synthetic file, about")
    parser.add_argument("--times", type=int, default=16, help="how often the ratings are repeated")
    parser.add_argument("--batch_rows", type=int, nargs="+", default=[128, 4_096])
    parser.add_argument("--batch_entries", type=int, default=1 << 20)
    parser.add_argument("--epochs", type=int, default=4, help="of each; the best after the first counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as training does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        dataset = prepared(arguments.ratings, arguments.entries, arguments.times, Path(scratch))
        print(
            f"\n{'rows':>6} {'cache':>7} {'readers':>8} {'entries/s':>10} {'ns/entry':>9} {'one thread':>11} "
            f"{'cores':>6}"
        )
        for rows in arguments.batch_rows:
            batchifier = Batchifier(rows, arguments.batch_entries)
            kinds = [
                (cache, readers) for cache in reversed(PLACES) for readers in sorted({1, 2, min(16, usable_cores())})
            ]
            streams = {
                (cache, readers): TimedStream(dataset, 0, batchifier, device, cache, readers)
                for cache, readers in kinds
                if cache != "device" or device.type == "cuda"
            }
            figures: dict[tuple[str, int], list[dict[str, float]]] = {kind: [] for kind in streams}
            for epoch in range(1, arguments.epochs + 1):
                for kind, stream in streams.items():
                    figures[kind].append(drain(stream, epoch))
            for (cache, readers), epochs in figures.items():
                found = best(epochs[1:])
                results.append({"rows": rows, "cache": cache, "readers": readers, **found})
                print(
                    f"{rows:>6} {cache:>7} {readers:>8} {found['entries_per_second'] / 1e6:>8.1f} M "
                    f"{found['processor_ns_per_entry']:>9.1f} {found['one_thread_ns_per_entry']:>11.2f} "
                    f"{found['cores']:>6.2f}"
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
