"""Preparing a rating log: `prepare` against DuckDB and Polars that do the same work, each as a process of its own.

The same work: read the log, count the columns and number them by count, encode, fold by a hash of user and item,
group by row in shards by a hash of the row, sort rows by id and entries by column, write each shard as Parquet (zstd 1)
with lists of columns, values and folds. What they leave out, and `prepare` does: duplicates (they look for none), bad
records, checksums, statistics and the manifest. The hash functions are each library's own. A figure has everything in
it: start of the process, imports, writing. Peak memory is VmHWM of the process; on Linux only. Every side runs several
times, in turn, and the best time counts; the files are in the system's cache for all of them.

    pip install -e '.[bench]'
    python benchmarks/prepare.py --json prepare.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

SIDES = ("prepare", "duckdb", "polars")
RATINGS_PER_SHARD = 500_000
#: Of the faster of the others, by the log's format.
BARS = {"parquet": 1.0, "csv": 1.2}


def write_logs(where: Path, ratings: int, users: int, items: int, heavy: float) -> None:
    """A log of distinct pairs in random order as Parquet and as CSV; items' popularity is a power law.

    Args:
        where: directory for log.parquet and log.csv.
        ratings, users, items: how many.
        heavy: share of additional ratings, duplicates among them, that are all of one user.
    """
    random = np.random.default_rng(0)
    popularity = np.arange(1, items + 1) ** -0.8
    activity = random.lognormal(0, 0.8, users)
    pairs = np.empty(0, dtype=np.int64)
    while len(pairs) < ratings:
        more = ratings - len(pairs) + ratings // 10
        user = np.searchsorted(np.cumsum(activity / activity.sum()), random.random(more)).clip(max=users - 1)
        item = np.searchsorted(np.cumsum(popularity / popularity.sum()), random.random(more)).clip(max=items - 1)
        pairs = np.unique(np.concatenate([pairs, user * items + item]))
    pairs = random.permutation(pairs)[:ratings]
    user, item = pairs // items, random.permutation(items)[pairs % items]
    if heavy:
        extra = int(ratings * heavy / (1 - heavy))
        user = np.concatenate([user, np.full(extra, users // 2)])
        item = np.concatenate([item, random.integers(0, items, extra)])
        order = random.permutation(len(user))
        user, item = user[order], item[order]
    stars = random.integers(1, 11, len(user)).astype(np.float32) / 2
    table = pa.table({"user": user, "item": item, "rating": stars})
    pq.write_table(table, where / "log.parquet", row_group_size=1 << 20)
    pyarrow.csv.write_csv(table, where / "log.csv")


def by_duckdb(log: str, out: str, shards: int) -> None:
    """All is sorted once, and lists are collected in that order: twice as fast as to sort within each list."""
    import duckdb

    Path(out).mkdir()
    base = duckdb.connect()
    base.execute("SET threads = 2")
    reader = f"read_csv('{log}')" if log.endswith(".csv") else f"read_parquet('{log}')"
    base.execute(
        f"""
        CREATE TABLE log AS SELECT "user", item, rating::FLOAT AS rating FROM {reader};
        CREATE TABLE vocabulary AS SELECT (row_number() OVER (ORDER BY count(*) DESC, item) - 1)::INTEGER AS index,
            item AS id, count(*) AS count FROM log GROUP BY item;
        COPY (FROM vocabulary ORDER BY index) TO '{out}/columns.parquet' (COMPRESSION zstd, COMPRESSION_LEVEL 1);
        CREATE TABLE encoded AS SELECT (hash("user") % {shards})::INTEGER AS shard, "user" AS row, index AS "column",
            rating AS value, CASE WHEN hash("user", item, 0) % 100 < 90 THEN 0 ELSE 2 END::UTINYINT AS fold
            FROM log JOIN vocabulary ON item = id ORDER BY shard, row, "column";
        DROP TABLE log;
        """
    )
    # With two threads, lists of rows that both meet come out of order.
    base.execute("SET threads = 1")
    for shard in range(shards):
        base.execute(
            f"""
            COPY (
                SELECT row, list("column") AS columns, list(value) AS values, list(fold) AS fold
                FROM (FROM encoded WHERE shard = {shard}) GROUP BY row ORDER BY row
            ) TO '{out}/shard-{shard:05d}.parquet' (COMPRESSION zstd, COMPRESSION_LEVEL 1)
            """
        )


def by_polars(log: str, out: str, shards: int) -> None:
    import polars as pl

    Path(out).mkdir()
    kinds = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float32}
    frame = pl.read_csv(log, schema=kinds) if log.endswith(".csv") else pl.read_parquet(log)
    vocabulary = (
        frame.group_by("item")
        .len("count")
        .sort(["count", "item"], descending=[True, False])
        .with_row_index("column")
        .with_columns(pl.col("column").cast(pl.Int32))
    )
    vocabulary.write_parquet(f"{out}/columns.parquet", compression="zstd", compression_level=1)
    fold = pl.when(pl.struct("user", "item").hash() % 100 < 90).then(0).otherwise(2).cast(pl.UInt8).alias("fold")
    encoded = (
        frame.lazy()
        .join(vocabulary.lazy().select("item", "column"), on="item")
        .select((pl.col("user").hash() % shards).cast(pl.UInt16).alias("shard"), "user", "column", "rating", fold)
        .collect()
    )
    del frame
    for (shard,), part in encoded.partition_by("shard", as_dict=True, include_key=False).items():
        rows = part.sort("user", "column").group_by("user", maintain_order=True).agg("column", "rating", "fold")
        rows.write_parquet(f"{out}/shard-{shard:05d}.parquet", compression="zstd", compression_level=1)


def by_prepare(log: str, out: str, shards: int, flags: list[str]) -> None:
    from pipelines import cli

    command = ["prepare", "--input", log, "--output", out, "--axis", "user", "--num_shards", str(shards), *flags]
    assert cli.main(command) == 0


def measure(side: str, log: Path, shards: int, flags: list[str]) -> dict[str, float]:
    """Runs one side in a process of its own: wall and processor seconds, and peak resident bytes."""
    with tempfile.TemporaryDirectory(dir=log.parent) as scratch:
        child = [sys.executable, __file__, "--side", side, str(log), f"{scratch}/out", str(shards), *flags]
        started = time.perf_counter()
        process = subprocess.Popen(child, stdout=subprocess.PIPE, env={**os.environ, "POLARS_MAX_THREADS": "2"})
        assert process.stdout is not None
        lines = process.stdout.read().split()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    assert status == 0, f"{side} failed"
    return {
        "seconds": seconds,
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "peak_bytes": int(lines[-1]),
    }


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        side, log, out, shards, *flags = sys.argv[2:]
        sys.path.insert(0, str(Path(__file__).parents[1]))
        if side == "prepare":
            by_prepare(log, out, int(shards), flags)
        else:
            {"duckdb": by_duckdb, "polars": by_polars}[side](log, out, int(shards))
        print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=70_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side; the best counts")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument(
        "--heavy", type=float, default=0.0, metavar="F", help="one user has this share of all ratings; prepare alone"
    )
    parser.add_argument("--scratch", metavar="DIR", help="where the logs and outputs go (default: the system's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    sides = ["prepare"] if arguments.heavy else arguments.sides.split(",")
    flags = ["--duplicates", "mean"] if arguments.heavy else []
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        write_logs(Path(scratch), arguments.ratings, arguments.users, arguments.items, arguments.heavy)
        shards = -(-arguments.ratings // RATINGS_PER_SHARD)
        print(f"{'log':<8} {'side':<8} {'seconds':>8} {'user':>6} {'system':>7} {'peak MB':>8}")
        for kind, bar in BARS.items():
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for _ in range(arguments.rounds):
                for side in sides:
                    runs[side].append(measure(side, Path(scratch) / f"log.{kind}", shards, flags))
            best = {side: min(found, key=lambda run: run["seconds"]) for side, found in runs.items()}
            for side, run in best.items():
                print(
                    f"{kind:<8} {side:<8} {run['seconds']:>8.2f} {run['user_seconds']:>6.2f} "
                    f"{run['system_seconds']:>7.2f} {run['peak_bytes'] / 1e6:>8.0f}",
                    flush=True,
                )
            results[kind] = {"best": best, "runs": runs}
            others = [run["seconds"] for side, run in best.items() if side != "prepare"]
            if "prepare" in best and others:
                results[kind]["ratio"] = best["prepare"]["seconds"] / min(others)
                print(f"{kind}: {results[kind]['ratio']:.2f} of the faster of the others (bar: {bar})")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
