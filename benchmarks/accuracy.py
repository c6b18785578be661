"""Test errors of the presets on random folds, beside the baselines: the mean of several fold seeds.

For MovieLens-1M:

    python benchmarks/accuracy.py ml-1m.parquet --seeds 5 --json accuracy.json
    python benchmarks/accuracy.py --train u1.base --test u1.test --seeds 5
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from nnsparse_stream.pipelines import cli

MODELS = (
    ("cfn", "item"),
    ("cfn", "user"),
    ("cfn-stacked", "item"),
    ("best", "item"),
    ("best-user", "user"),
    ("best-small", "item"),
    ("best-small-user", "user"),
    ("deep", "item"),
    ("deep-user", "user"),
)


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def one_seed(
    arguments: argparse.Namespace, models: list[tuple[str, str]], seed: int, where: Path
) -> dict[str, dict[str, float]]:
    data = {axis: str(where / f"{axis}-{seed}") for axis in ("user", "item")}
    for axis, url in data.items():
        if arguments.ratings:
            source = ["--input", arguments.ratings, "--fold_seed", str(seed)]
        else:
            source = ["--train_input", arguments.train, "--test_input", arguments.test]
        command("prepare", "--output", url, "--axis", axis, *source)
    results: dict[str, dict[str, float]] = {}
    for preset, axis in models:
        run = str(where / f"{preset}-{axis}-{seed}")
        started = time.perf_counter()
        command(
            "train", "--data", data[axis], "--output", run, "--preset", preset, "--seed", str(seed), "--threads", "1"
        )
        seconds = time.perf_counter() - started
        command("evaluate", "--data", data[axis], "--model", run, "--json", str(where / "figures.json"))
        figures = json.loads((where / "figures.json").read_text())
        results |= {line["name"]: {"rmse": line["rmse"], "mae": line["mae"]} for line in figures["baselines"]}
        results[f"{preset}, rows are {axis}s"] = {"rmse": figures["rmse"], "mae": figures["mae"], "seconds": seconds}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file; or --train and --test")
    parser.add_argument("--train", help="training ratings")
    parser.add_argument("--test", help="test ratings")
    parser.add_argument("--seeds", type=int, default=5, help="fold and training seeds 0 to N - 1")
    parser.add_argument("--presets", nargs="+", help="these only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    models = [model for model in MODELS if arguments.presets is None or model[0] in arguments.presets]
    with tempfile.TemporaryDirectory() as scratch:
        runs = [one_seed(arguments, models, seed, Path(scratch)) for seed in range(arguments.seeds)]
    print(f"\n{'predictor':<40} {'RMSE':>8} {'(sd)':>8} {'MAE':>8}   RMSE by seed")
    for name in runs[0]:
        errors, absolute = ([run[name][figure] for run in runs] for figure in ("rmse", "mae"))
        print(
            f"{name:<40} {np.mean(errors):>8.4f} {np.std(errors):>8.4f} {np.mean(absolute):>8.4f}   "
            + " ".join(f"{error:.4f}" for error in errors)
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
