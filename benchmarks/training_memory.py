"""Peak resident memory of a training process on a synthetic data set, and on one with ten times as many rows.

Both have the same columns and rows of the same kind, and both processes train the same model the same number of steps:
one epoch of the larger data set, so ten of the smaller. The data sets are written shard by shard by the library's own
functions, those that `prepare` runs, in bounded memory. The peak is VmHWM of a process of its own, which trains by the
command line with one thread; on Linux only.

    python benchmarks/training_memory.py --json memory.json
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nnsparse_stream import storage
from nnsparse_stream.dataset import Manifest, write_shard, write_vocabulary
from nnsparse_stream.folds import FOLDS, hash_ids
from nnsparse_stream.grouping import HashFolds, encode_block, group_rows
from nnsparse_stream.rating_statistics import RatingStatistics, add_statistics
from nnsparse_stream.vocabulary import count_ids, merge_counts, order_counts

BAR = 1.1
SHARD_ENTRIES = 500_000
#: Ratings of a row, on average.
ROW_RATINGS = 100


def blocks(num_rows: int, num_columns: int, num_ratings: int) -> Iterator[pa.RecordBatch]:
    """Blocks of ratings, one a shard; both users' activity and items' popularity are skewed."""
    users = np.arange(num_rows, dtype=np.int64)
    num_shards = -(-num_ratings // SHARD_ENTRIES)
    shard_of = hash_ids(pa.array(users)) % np.uint64(num_shards)
    popularity = np.cumsum(np.arange(1, num_columns + 1) ** -0.5)
    for shard in range(num_shards):
        random = np.random.default_rng(shard)
        mine = users[shard_of == shard]
        activity = random.lognormal(0, 0.8, len(mine))
        lengths = np.clip(activity / activity.mean() * num_ratings / num_rows, 1, num_columns // 10).astype(np.int64)
        items = np.searchsorted(popularity, random.random(lengths.sum()) * popularity[-1])
        stars = random.integers(1, 11, len(items)).astype(np.float32) / 2
        yield pa.record_batch([np.repeat(mine, lengths), items, stars], names=["user", "item", "rating"])


def make(url: str, num_rows: int, num_columns: int, num_ratings: int) -> Manifest:
    """Writes a data set; rows are users."""
    # Twice the same blocks: the vocabulary comes first.
    counts = (count_ids(block["item"]) for block in blocks(num_rows, num_columns, num_ratings))
    vocabulary = order_counts(merge_counts(counts))
    folds = HashFolds()
    num_shards = -(-num_ratings // SHARD_ENTRIES)
    shards, statistics, duplicates = [], [], 0
    for shard, block in enumerate(blocks(num_rows, num_columns, num_ratings)):
        encoded = encode_block(block, "user", vocabulary)
        rows, merged = group_rows([encoded], "user", vocabulary, "mean", folds)
        shards.append(write_shard(url, shard, num_shards, rows))
        statistics.append(RatingStatistics.of(rows))
        duplicates += merged
    total = add_statistics(statistics)
    entries = sum(shard.entries for shard in shards)
    manifest = Manifest(
        axis="user",
        row_id_type="int64",
        column_id_type="int64",
        num_columns=len(vocabulary),
        num_rows=sum(shard.rows for shard in shards),
        num_entries=entries,
        fold_entries=dict(zip(FOLDS, total.fold_entries, strict=True)),
        folds={"method": "hash", "percent": list(folds.percent), "seed": folds.seed},
        ratings=total.to_json(),
        records={"read": entries + duplicates, "bad": 0, "duplicates": duplicates},
        duplicates="mean",
        columns=(write_vocabulary(url, vocabulary),),
        shards=tuple(shards),
    )
    storage.write_file(storage.join(url, "manifest.json"), manifest.to_json())
    return manifest


def train_here(data: str, flags: list[str]) -> None:
    """Trains in this process; prints its resident memory before training and its peak, in bytes."""
    logging.disable(logging.WARNING)  # Beam warns of a client library that nothing here needs
    import transforms.train  # noqa: F401  (Beam)
    from nnsparse_stream import training  # noqa: F401  (torch)
    from pipelines import cli

    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as scratch:
        assert cli.main(["train", "--data", data, "--output", f"{scratch}/run", "--threads", "1", *flags]) == 0
    print(json.dumps({"before_bytes": before, "peak_bytes": resident("VmHWM")}))


def resident(line: str) -> int:
    """Bytes of a line of this process's status: VmRSS, resident now, or VmHWM, the peak."""
    return int(Path("/proc/self/status").read_text().split(f"{line}:")[1].split()[0]) * 1024


def train(data: str, flags: list[str]) -> dict[str, float]:
    """Trains in a process of its own."""
    started = time.perf_counter()
    child = [sys.executable, __file__, "--train", data, *flags]
    lines = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {**json.loads(lines[-1]), "seconds": time.perf_counter() - started}


def main() -> None:
    if sys.argv[1:2] == ["--train"]:
        train_here(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=8_000_000, help="of the smaller data set, about")
    parser.add_argument("--factor", type=int, default=10, help="how many times as many rows the larger one has")
    parser.add_argument("--columns", type=int, default=20_000)
    parser.add_argument("--preset", default="best-user")
    parser.add_argument("--hidden", default="64", help="units; few, so that the model does not cover up the stream")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    model = ["--preset", arguments.preset, "--hidden", arguments.hidden]
    results: list[dict[str, Any]] = []
    print(f"{'rows':>9} {'columns':>8} {'entries':>11} {'before':>8} {'peak':>8}  (MB)  {'train':>7}  (s)")
    for factor in (1, arguments.factor):
        with tempfile.TemporaryDirectory() as scratch:
            ratings = factor * arguments.ratings
            manifest = make(scratch, ratings // ROW_RATINGS, arguments.columns, ratings)
            figures = train(scratch, [*model, "--epochs", str(arguments.factor // factor)])
        sizes = {"rows": manifest.num_rows, "columns": manifest.num_columns, "entries": manifest.num_entries}
        results.append(sizes | figures)
        before, peak = (figures[name] / 1e6 for name in ("before_bytes", "peak_bytes"))
        print(
            f"{sizes['rows']:>9,} {sizes['columns']:>8,} {sizes['entries']:>11,} {before:>8,.0f} {peak:>8,.0f}"
            f"{figures['seconds']:>15.0f}",
            flush=True,
        )
    assert results[0]["columns"] == results[1]["columns"]
    ratio = results[1]["peak_bytes"] / results[0]["peak_bytes"]
    above = [figures["peak_bytes"] - figures["before_bytes"] for figures in results]
    print(f"ratio of the peaks: {ratio:.3f} (bar: {BAR}); of what training adds: {above[1] / above[0]:.3f}")
    if arguments.json:
        summary = {"ratio": ratio, "ratio_of_what_training_adds": above[1] / above[0], "runs": results}
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
