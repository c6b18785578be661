"""Lists of presets on random folds, by the commands, beside popularity and plain EASE: the mean of fold seeds.

For MovieLens-1M, rows are users, every rating an interaction:

    python benchmarks/lists_accuracy.py ml-1m.parquet --presets linear ranking --seeds 5 --json lists.json

For a synthetic log of 30,000 x 41,000 with .8M interactions (`ratings.synthetic.make_interactions`):

    python benchmarks/lists_accuracy.py --synthetic --presets ranking --ease 100 --seeds 1

`EASE N` is the objective `linear` with L2 of N (`--ease`), no hidden input and rows of one weight (Steck 2019).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_interactions

METRICS = ("ndcg@100", "recall@20", "recall_all@20", "ndcg@20")
POPULARITY = "popularity"


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def models(arguments: argparse.Namespace, data: str) -> dict[str, list[str]]:
    """The flags of `train` of each model, by the name in the table."""
    manifest = Dataset(data).manifest
    # The recipe counts L2 in mean training entries of a row; random folds leave hardly a row without one.
    row = manifest.fold_entries["train"] / manifest.num_rows
    plain = ["--preset", "linear", "--hide_ratio", "0", "--row_power", "0"]
    ease = {f"EASE {l2:g}": [*plain, "--l2", repr(l2 / row)] for l2 in arguments.ease}
    return {**ease, **{preset: ["--preset", preset] for preset in arguments.presets}}


def one_seed(arguments: argparse.Namespace, seed: int, where: Path) -> dict[str, dict[str, float]]:
    """Metrics and seconds of each model, by its name."""
    data = str(where / f"data-{seed}")
    folds = ["--folds", arguments.folds, "--fold_seed", str(seed)]
    command("prepare", "--input", arguments.ratings, "--output", data, "--axis", "user", *folds, *arguments.prepare)
    results: dict[str, dict[str, float]] = {}
    for name, flags in models(arguments, data).items():
        run, figures = str(where / f"{name}-{seed}"), where / f"{name}-{seed}.json"
        started = time.perf_counter()
        command("train", "--data", data, "--output", run, "--seed", str(seed), "--threads", "1", *flags)
        seconds = time.perf_counter() - started
        command(
            "evaluate", "--data", data, "--model", run, "--fold", arguments.fold, "--metrics", ",".join(METRICS),
            "--json", str(figures),
        )  # fmt: skip
        found = json.loads(figures.read_text())
        results[name] = {**found["metrics"], "seconds": seconds}
        results |= {line["name"]: line["metrics"] for line in found["baselines"] if line["name"] == POPULARITY}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file; or --synthetic")
    parser.add_argument("--synthetic", action="store_true", help="a log that is drawn")
    parser.add_argument("--presets", nargs="*", default=["linear"], help="what to train (default: linear)")
    parser.add_argument("--ease", nargs="*", type=float, default=[1000.0], help="L2 of plain EASE (default: 1000)")
    parser.add_argument("--folds", default="80,0,20")
    parser.add_argument("--fold", default="test", help="the judged fold (default: test)")
    parser.add_argument("--prepare", nargs=argparse.REMAINDER, default=[], help="further flags of prepare; last of all")
    parser.add_argument("--seeds", type=int, default=5, help="fold and training seeds 0 to N - 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.synthetic:
            arguments.ratings = str(Path(scratch) / "log.parquet")
            pq.write_table(make_interactions(30_000, 41_000, 1_040_000, num_groups=400, seed=0), arguments.ratings)
            arguments.prepare = ["--feedback", "implicit", *arguments.prepare]
        runs = [one_seed(arguments, seed, Path(scratch)) for seed in range(arguments.seeds)]
    heads = " ".join(f"{metric:>14}" for metric in METRICS)
    print(f"\n{'model':<20} {heads} {'seconds':>8}   {METRICS[0]} by seed")
    for name in sorted(runs[0], key=lambda name: runs[0][name][METRICS[0]]):
        means = " ".join(f"{np.mean([run[name][metric] for run in runs]):>14.4f}" for metric in METRICS)
        seconds = np.mean([run[name].get("seconds", np.nan) for run in runs])
        by_seed = " ".join(f"{run[name][METRICS[0]]:.4f}" for run in runs)
        print(f"{name:<20} {means} {seconds:>8.1f}   {by_seed}")
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
