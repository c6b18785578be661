"""Preparing a rating log: against DuckDB and Polars, at ten times the ratings, with one heavy row, and on an engine.

The others do the same work, each as a process of its own: read the log, count the columns and number them by count,
encode, fold by a hash of user and item, group by row in shards by a hash of the row, sort rows by id and entries by
column, write each shard as Parquet (zstd 1) with lists of columns, values and folds. What they leave out, and `prepare`
does: duplicates (they look for none), bad records, checksums, statistics and the manifest. The hash functions are each
library's own. A figure has everything in it: start of the process, imports, writing. Peak memory is VmHWM of the
process, on Linux only. What is compared runs several times, in turn, and the best time counts; the files are in the
system's cache.

    pip install -e '.[bench]'
    python benchmarks/prepare.py --json prepare.json
    python benchmarks/prepare.py --cases engine --prism ~/.cache/nnsparse-stream/engines/prism-2.77.0/prism
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
from typing import TYPE_CHECKING, Any

# What is measured imports for itself what it needs.
if TYPE_CHECKING:
    import pyarrow as pa

SIDES = ("prepare", "duckdb", "polars")
RATINGS_PER_SHARD = 500_000
FORMATS = ("parquet", "csv")
#: The kinds of logs: how ids are written, and the share of ratings whose pair was rated before.
LOGS = {"int": (None, 0.0), "int dup": (None, 0.1), "str": ("{}{:07d}", 0.0), "str dup": ("{}{:07d}", 0.1)}
#: How many times the ratings.
SCALE = 10
#: The share of all ratings that one row has, duplicates among them.
HEAVY = 0.2
_GROUP = 1 << 18


def make_log(
    ratings: int,
    users: int,
    items: int,
    heavy: float = 0.0,
    seed: int = 0,
    repeated: float = 0.0,
    spelling: str | None = None,
) -> pa.Table:
    """Ratings in random order; items' popularity is a power law.

    Args:
        ratings, users, items: how many.
        heavy: share of the ratings that are all of one user, duplicates among them; the other pairs are distinct.
        seed: of the random numbers; the ids of users begin at seed x users.
        repeated: share of the ratings whose pair is that of another rating.
        spelling: how string ids are made of "u" or "i" and a number; None for integers.
    """
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(seed)
    popularity = np.arange(1, items + 1) ** -0.8
    activity = random.lognormal(0, 0.8, users)
    extra = int(ratings * heavy)
    pairs = np.empty(0, dtype=np.int64)
    while len(pairs) < ratings - extra:
        more = ratings - extra - len(pairs) + ratings // 10
        user = np.searchsorted(np.cumsum(activity / activity.sum()), random.random(more)).clip(max=users - 1)
        item = np.searchsorted(np.cumsum(popularity / popularity.sum()), random.random(more)).clip(max=items - 1)
        pairs = np.unique(np.concatenate([pairs, user * items + item]))
    pairs = random.permutation(pairs)[: ratings - extra]
    if repeated:
        again = int(len(pairs) * repeated)
        pairs[:again] = random.choice(pairs[again:], again)
        random.shuffle(pairs)
    user, item = pairs // items, np.random.default_rng(0).permutation(items)[pairs % items]
    if extra:
        user = np.concatenate([user, np.full(extra, users // 2)])
        item = np.concatenate([item, random.integers(0, items, extra)])
        order = random.permutation(ratings)
        user, item = user[order], item[order]
    stars = random.integers(1, 11, ratings).astype(np.float32) / 2
    user, item = pa.array(user + seed * users), pa.array(item)
    if spelling:
        user, item = _spelled(user, "u", spelling), _spelled(item, "i", spelling)
    return pa.table({"user": user, "item": item, "rating": stars})


def _spelled(ids: pa.Array, axis: str, spelling: str) -> pa.Array:
    import pyarrow as pa

    coded = ids.dictionary_encode()
    return pa.array([spelling.format(axis, number) for number in coded.dictionary.to_pylist()]).take(coded.indices)


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
    rating = {"rating": pl.Float32}
    frame = pl.read_csv(log, schema_overrides=rating) if log.endswith(".csv") else pl.read_parquet(log)
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
    """By the console command's own entry point."""
    from nnsparse_stream.pipelines import cli

    command = ["prepare", "--input", log, "--output", out, "--axis", "user", "--num_shards", str(shards), *flags]
    sys.argv = ["nnsparse-stream", *command]
    try:
        cli.console()
    except SystemExit as ended:
        if ended.code:
            raise


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


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """The fastest run, with the largest peak of all."""
    return {**min(runs, key=lambda run: run["seconds"]), "peak_bytes": max(run["peak_bytes"] for run in runs)}


def show(what: str, side: str, run: dict[str, float]) -> None:
    print(
        f"{what:<24} {side:<8} {run['seconds']:>8.2f} {run['user_seconds']:>7.2f} {run['system_seconds']:>7.2f} "
        f"{run['peak_bytes'] / 1e6:>8.0f}",
        flush=True,
    )


def in_turn(cases: dict[str, tuple[str, Path, int, list[str]]], rounds: int) -> dict[str, dict[str, float]]:
    """Runs what is to be compared in turn; the best of each."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            runs[name].append(measure(*case))
    found = {name: best(some) for name, some in runs.items()}
    for name, run in found.items():
        show(name, cases[name][0], run)
    return found


def others(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    import pyarrow.csv
    import pyarrow.parquet as pq

    shards = -(-arguments.ratings // RATINGS_PER_SHARD)
    results: dict[str, Any] = {}
    for name in arguments.logs.split(","):
        spelling, repeated = LOGS[name]
        table = make_log(arguments.ratings, arguments.users, arguments.items, repeated=repeated, spelling=spelling)
        pq.write_table(table, scratch / "log.parquet", row_group_size=_GROUP)
        pyarrow.csv.write_csv(table, scratch / "log.csv", pyarrow.csv.WriteOptions(quoting_style="none"))
        del table
        flags = ["--duplicates", "last"] if repeated else []
        for kind in FORMATS:
            sides = {
                f"{kind} {name} {side}": (side, scratch / f"log.{kind}", shards, flags if side == "prepare" else [])
                for side in SIDES
            }
            found = in_turn(sides, arguments.rounds)
            ours, *theirs = (run["seconds"] for run in found.values())
            results[f"{kind} {name}"] = {"runs": found, "ratio": ours / min(theirs)}
    print("log, of the faster of the others:")
    for name, result in results.items():
        print(f"{name:<16} {result['ratio']:.2f}", flush=True)
    return results


def scale(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    small, large = scratch / "small.parquet", scratch / "large.parquet"
    with pq.ParquetWriter(large, make_log(1, 2, 2).schema) as writer:
        # Users of their own for each part: so all pairs are distinct.
        for part in range(SCALE):
            table = make_log(arguments.ratings, arguments.users, arguments.items, seed=part)
            writer.write_table(table, row_group_size=_GROUP)
            if part == 0:
                pq.write_table(table, small, row_group_size=_GROUP)
    shards = -(-arguments.ratings // RATINGS_PER_SHARD)
    one, ten = f"{arguments.ratings:,}", f"{SCALE * arguments.ratings:,}"
    cases = {one: ("prepare", small, shards, []), ten: ("prepare", large, SCALE * shards, [])}
    found = in_turn(cases, arguments.rounds)
    seconds, peak = (found[ten][name] / found[one][name] for name in ("seconds", "peak_bytes"))
    print(f"scale: {seconds:.1f} times the time, {peak:.2f} times the peak, {found[ten]['peak_bytes'] / 1e9:.2f} GB")
    return {"runs": found, "seconds_ratio": seconds, "peak_ratio": peak}


def heavy(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    shards = -(-arguments.ratings // RATINGS_PER_SHARD)
    cases: dict[str, tuple[str, Path, int, list[str]]] = {}
    for name, share in (("even", 0.0), ("heavy", HEAVY)):
        path = scratch / f"{name}.parquet"
        table = make_log(arguments.ratings, arguments.users, arguments.items, share)
        pq.write_table(table, path, row_group_size=_GROUP)
        cases[name] = ("prepare", path, shards, ["--duplicates", "mean"])
    found = in_turn(cases, arguments.rounds)
    ratio = found["heavy"]["seconds"] / found["even"]["seconds"]
    print(f"one row with {HEAVY:.0%} of all ratings: {ratio:.2f} times an even log")
    return {"runs": found, "ratio": ratio}


def engine(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """By Prism, whose workers are threads of the driver: what a rating costs more, beside what a start costs."""
    import pyarrow.parquet as pq

    flags = ["--runner=PrismRunner", f"--prism_location={arguments.prism}", "--environment_type=LOOPBACK"]
    numbers = (arguments.ratings // 10, arguments.ratings)
    cases: dict[str, tuple[str, Path, int, list[str]]] = {}
    for number in numbers:
        path = scratch / f"{number}.parquet"
        # Small row groups: as many splits, and so bundles, for one as for the other.
        pq.write_table(make_log(number, arguments.users, arguments.items), path, row_group_size=_GROUP)
        for name, some in (("here", []), ("prism", flags)):
            cases[f"{name} {number:,}"] = ("prepare", path, -(-number // RATINGS_PER_SHARD), some)
    found = in_turn(cases, arguments.rounds)
    results: dict[str, Any] = {"runs": found}
    for name in ("here", "prism"):
        few, many = (found[f"{name} {number:,}"]["seconds"] for number in numbers)
        each = (many - few) / (numbers[1] - numbers[0])
        results[name] = {"seconds_a_rating": each, "seconds_to_start": few - each * numbers[0]}
        print(f"{name}: {each * 1e9:.0f} ns a rating, {few - each * numbers[0]:.1f} s beside them")
    return results


CASES = {"others": others, "scale": scale, "heavy": heavy, "engine": engine}


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
    parser.add_argument("--rounds", type=int, default=3, help="runs of what is compared; the best counts")
    parser.add_argument(
        "--cases", default="others,scale,heavy", help=f"of {','.join(CASES)} (default: others,scale,heavy)"
    )
    parser.add_argument("--logs", default=",".join(LOGS), help="of the case others (default: %(default)s)")
    parser.add_argument("--prism", metavar="FILE", help="Prism's program, for the case engine")
    parser.add_argument("--scratch", metavar="DIR", help="where the logs and outputs go (default: the system's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    print(f"{'what':<24} {'side':<8} {'seconds':>8} {'user':>7} {'system':>7} {'peak MB':>8}")
    for case in arguments.cases.split(","):
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            results[case] = CASES[case](arguments, Path(scratch))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
