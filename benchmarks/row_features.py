"""Validation errors with and without features of rows, on a log in which a fifth of the rows is made cold.

A cold row has 0, 1, 2, 5 or 9 of its ratings in the training fold, and up to 30 others in the validation fold; of the
other rows' ratings a tenth is validation. For MovieLens-1M:

    python benchmarks/row_features.py ml-1m.parquet --axis item --movies movies.dat
    python benchmarks/row_features.py ml-1m.parquet --axis user --users users.dat
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.pipelines import cli

KNOWN = (0, 1, 2, 5, 9)
JUDGED = 30
PRESETS = {"item": "best", "user": "best-user"}


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def write_log(ratings: pa.Table, axis: str, seed: int, where: Path) -> None:
    """Writes train.parquet and validation.parquet; nothing of a cold row's other ratings is in either."""
    random = np.random.default_rng(seed)
    row = ratings[axis].to_numpy()
    ids, index = np.unique(row, return_inverse=True)
    known = np.where(random.random(len(ids)) < 0.2, random.choice(KNOWN, len(ids)), -1)[index]
    # The place of each rating in a random order of those of its row.
    order = np.lexsort((random.random(len(row)), index))
    place = np.empty(len(row), dtype=np.int64)
    place[order] = np.arange(len(row)) - np.searchsorted(index[order], index[order])
    validation = np.where(known >= 0, (place >= known) & (place < known + JUDGED), random.random(len(row)) < 0.1)
    train = np.where(known >= 0, place < known, ~validation)
    for name, mask in (("train", train), ("validation", validation)):
        pq.write_table(ratings.filter(pa.array(mask)), where / f"{name}.parquet")


def write_movies(movies: Path, path: Path) -> Path:
    """Year and genres of films, from a file with the year at the end of the title."""
    lines = [line.split("::") for line in movies.read_text(encoding="latin-1").splitlines()]
    path.write_text("movie\tyear\tgenres\n" + "".join(f"{i}\t{title[-5:-1]}\t{of}\n" for i, title, of in lines))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--axis", choices=PRESETS, default="item")
    parser.add_argument("--movies", type=Path)
    parser.add_argument("--users", type=Path)
    parser.add_argument("--preset", help="by default best or best-user")
    parser.add_argument("--scales", type=float, nargs="+", help="of features; 0: without (default: 0 and the preset's)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    axis, preset = arguments.axis, arguments.preset or PRESETS[arguments.axis]
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        write_log(pq.read_table(arguments.ratings), axis, arguments.seed, where)
        features = arguments.users if axis == "user" else write_movies(arguments.movies, where / "movies.tsv")
        inputs = [f"--{fold}_input={where / fold}.parquet" for fold in ("train", "validation")]
        command("prepare", *inputs, "--axis", axis, "--output", str(where / "data"), "--row_features", str(features))
        found = {}
        for scale in arguments.scales or (0.0, None):
            run, said = where / f"run-{scale}", [] if scale is None else ["--feature_scale", str(scale)]
            flags = ["--preset", preset, "--threads", "1", *said]
            command("train", "--data", str(where / "data"), "--output", str(run), *flags)
            command(
                *("evaluate", "--data", str(where / "data"), "--model", str(run), "--fold", "validation"),
                *("--json", str(where / "figures.json")),
            )
            found[scale] = json.loads((where / "figures.json").read_text())
    print(f"\n{preset}, rows are {axis}s: RMSE by feature_scale (None: the preset's)")
    print("training ratings   judged " + "".join(f"{scale!s:>9}" for scale in found))
    for buckets in zip(*(figures["buckets"] for figures in found.values()), strict=True):
        low, high, count = (buckets[0][name] for name in ("min_ratings", "max_ratings", "count"))
        label = f"{low:,} to {high:,}" if high is not None else f"{low:,} and more"
        print(f"{label:<16} {count:>8} " + "".join(f"{bucket['rmse']:>9.4f}" for bucket in buckets))
    print(f"{'all':<24} " + "".join(f"{figures['rmse']:>9.4f}" for figures in found.values()))
    for baseline in next(iter(found.values()))["baselines"]:
        print(f"{baseline['name']:<24} {baseline['rmse']:>9.4f}")


if __name__ == "__main__":
    main()
