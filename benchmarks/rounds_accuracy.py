"""What training in rounds costs in accuracy: K workers against one, the same passes, by the commands.

Fold and training seeds 0 to N - 1; every number of workers sees the same folds. Workers take turns in one process, so
that one core is enough. For MovieLens-1M:

    python benchmarks/rounds_accuracy.py ml-1m.parquet --preset best --workers 1 4
    python benchmarks/rounds_accuracy.py ml-1m.parquet --preset ranking --folds 80,0,20 --metric ndcg@100 --workers 1 4

For a synthetic log of 20 million training ratings, drawn once:

    python benchmarks/rounds_accuracy.py --synthetic --preset best-user --train --hidden 128 --epochs 4
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings

_OF_ITEMS = ("best", "deep", "best-small")


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def one_seed(arguments: argparse.Namespace, seed: int, where: Path) -> dict[str, float]:
    """The metric on test by number of workers."""
    data, figures = str(where / f"data-{seed}"), where / "figures.json"
    axis = "item" if arguments.preset in _OF_ITEMS else "user"
    folds = ["--folds", arguments.folds, "--fold_seed", str(seed)]
    command("prepare", "--input", arguments.ratings, "--output", data, "--axis", axis, *folds)
    results: dict[str, float] = {}
    for workers in arguments.workers:
        run = str(where / f"run-{seed}-{workers}")
        shared = ["--workers", str(workers), "--runner=DirectRunner"] if workers > 1 else []
        if workers > 1 and arguments.rounds:
            shared += ["--rounds", str(arguments.rounds)]
        command(
            "train", "--data", data, "--output", run, "--preset", arguments.preset, "--seed", str(seed), "--threads",
            "1", *arguments.train, *shared,
        )  # fmt: skip
        asked = ["--metrics", arguments.metric, "--json", str(figures)]
        command("evaluate", "--data", data, "--model", run, *asked)
        results[str(workers)] = json.loads(figures.read_text())["metrics"][arguments.metric]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file; or --synthetic")
    parser.add_argument("--synthetic", action="store_true", help="a log that is drawn: 138,000 users x 27,000 items")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--metric", default="rmse")
    parser.add_argument("--folds", default="90,0,10")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, help="of an epoch (default: that of train)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="further flags of train; last of all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.synthetic:
            arguments.ratings = str(Path(scratch) / "log.parquet")
            pq.write_table(make_ratings(138_000, 27_000, 25_000_000, 0.9, seed=0).ratings, arguments.ratings)
        runs = [one_seed(arguments, seed, Path(scratch)) for seed in range(arguments.seeds)]
    print(f"\n{arguments.preset} {' '.join(arguments.train)}: {arguments.metric} by number of workers")
    for workers in runs[0]:
        values = [run[workers] for run in runs]
        less = np.mean(values) - np.mean([run[str(arguments.workers[0])] for run in runs])
        print(f"{workers:>4} {np.mean(values):>8.4f} {less:>+8.4f}   {' '.join(f'{value:.4f}' for value in values)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
