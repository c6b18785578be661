"""Peak resident memory of a training process on a synthetic data set, and on one with ten times as many rows.

Both have the same columns and rows of the same kind, and both processes train the same model on as many ratings: one
epoch of the larger data set, ten of the smaller, and read them anew in each (--cache none). Before them, one epoch of a
very small data set shows what any run takes. The data sets are written shard by shard by the library's own functions,
those that `prepare` runs, in bounded memory. The peak is VmHWM of a process of its own, which trains by the command
line with one thread; on Linux only.

    python benchmarks/training_memory.py --json memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nnsparse_stream.data.dataset import write_shard, write_vocabulary
from nnsparse_stream.data.grouping import encode_block, group_rows
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.statistics import RatingStatistics, add_statistics
from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.ids.vocabulary import count_ids, merge_counts, order_counts
from nnsparse_stream.ratings.folds import HashFolds
from nnsparse_stream.storage import files as storage

SHARD_ENTRIES = 500_000
ROW_RATINGS = 100
#: So few that a process which trains on them holds little but the libraries, Beam's runner and the kernels.
FIXED_RATINGS = 100_000


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
        fold_entries=total.entries_by_fold(),
        folds=folds.to_json(),
        ratings=total.to_json(),
        records={"read": entries + duplicates, "bad": 0, "filtered": 0, "duplicates": duplicates},
        duplicates="mean",
        columns=(write_vocabulary(url, vocabulary),),
        shards=tuple(shards),
    )
    storage.write_file(storage.join(url, "manifest.json"), manifest.to_json())
    return manifest


def train_here(data: str, flags: list[str]) -> None:
    """Trains in this process and prints the peak of its resident memory, in bytes."""
    from nnsparse_stream.pipelines import cli

    with tempfile.TemporaryDirectory() as scratch:
        assert cli.main(["train", "--data", data, "--output", f"{scratch}/run", "--threads", "1", *flags]) == 0
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)


def train(data: str, flags: list[str]) -> dict[str, float]:
    """Trains in a process of its own: the peak in bytes, and how long it took."""
    started = time.perf_counter()
    child = [sys.executable, __file__, "--train", data, *flags]
    lines = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {"peak_bytes": int(lines[-1]), "seconds": time.perf_counter() - started}


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
    model = ["--preset", arguments.preset, "--hidden", arguments.hidden, "--cache", "none"]
    runs: list[dict[str, Any]] = []
    print(f"{'rows':>9} {'columns':>8} {'entries':>11} {'peak':>7}  (MB) {'train':>6}  (s)")
    for ratings, epochs in (
        (FIXED_RATINGS, 1),
        (arguments.ratings, arguments.factor),
        (arguments.ratings * arguments.factor, 1),
    ):
        with tempfile.TemporaryDirectory() as scratch:
            manifest = make(scratch, ratings // ROW_RATINGS, arguments.columns, ratings)
            figures = train(scratch, [*model, "--epochs", str(epochs)])
        sizes = {"rows": manifest.num_rows, "columns": manifest.num_columns, "entries": manifest.num_entries}
        runs.append(sizes | figures)
        print(
            f"{sizes['rows']:>9,} {sizes['columns']:>8,} {sizes['entries']:>11,} {figures['peak_bytes'] / 1e6:>7,.0f}"
            f"{figures['seconds']:>13.0f}",
            flush=True,
        )
    fixed, smaller, larger = (run["peak_bytes"] for run in runs)
    assert runs[1]["columns"] == runs[2]["columns"]
    ratio, above = larger / smaller, (larger - fixed) / (smaller - fixed)
    print(f"ratio of the last two: {ratio:.3f}; of what they take above the first: {above:.3f}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"ratio": ratio, "ratio_above_fixed": above, "runs": runs}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
