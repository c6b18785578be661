"""Test errors of learned blends: weights fitted on a validation cut, for models trained on all but the test fold.

    python benchmarks/blend.py --ratings ml-1m.parquet --presets deep best deep-user best-user --directory DIR
    python benchmarks/blend.py --train u1.base --test u1.test --presets best-small best-small-user --directory DIR

For each seed: the log cut 88/2/10 (u1.base 90/10) for both axes, each preset trained, `blend`; then the same presets
trained without a validation fold, and `blend --weights_of`. What lies in DIR already is not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from nnsparse_stream.pipelines import cli

AXES = ("item", "user")


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def axis_of(preset: str) -> str:
    return "user" if preset.endswith("-user") else "item"


def sources(arguments: argparse.Namespace, seed: int, where: Path) -> dict[str, list[str]]:
    """The flags of `prepare` that cut the log: with a validation fold, and without."""
    if arguments.ratings:
        log = ["--input", arguments.ratings, "--fold_seed", str(seed)]
        return {"cut": [*log, "--folds", "88,2,10"], "whole": [*log, "--folds", "90,0,10"]}
    lines = np.array(Path(arguments.train).read_text().splitlines(keepends=True))
    held = np.random.default_rng(seed).random(len(lines)) < 0.1
    for name, part in (("train", lines[~held]), ("validation", lines[held])):
        (where / name).write_text("".join(part))
    test = ["--test_input", arguments.test]
    cut = ["--train_input", str(where / "train"), "--validation_input", str(where / "validation")]
    return {"cut": [*cut, *test], "whole": ["--train_input", arguments.train, *test]}


def one_seed(arguments: argparse.Namespace, seed: int, where: Path) -> dict[str, float]:
    where.mkdir(parents=True, exist_ok=True)
    results = {}
    for stage, flags in sources(arguments, seed, where).items():
        data = {axis: str(where / stage / axis) for axis in AXES}
        for axis, url in data.items():
            if not Path(url, "manifest.json").exists():
                command("prepare", "--output", url, "--axis", axis, *flags)
        runs = {preset: str(where / stage / preset) for preset in arguments.presets}
        for preset, run in runs.items():
            if not Path(run, "run.json").exists():
                what = ["--data", data[axis_of(preset)], "--preset", preset, "--seed", str(seed), "--threads", "1"]
                command("train", "--output", run, "--overwrite", *what)
        output = str(where / stage / "blend")
        members = ["--model", ",".join(runs.values()), "--data", ",".join(data[axis_of(preset)] for preset in runs)]
        weights = [] if stage == "cut" else ["--weights_of", str(where / "cut" / "blend")]
        command("blend", *members, *weights, "--output", output, "--overwrite")
        for name, model in (*runs.items(), ("blend", output)):
            known = [] if name == "blend" else ["--data", data[axis_of(name)]]
            command("evaluate", "--model", model, *known, "--json", str(where / "figures.json"))
            results[f"{name}, {stage}"] = json.loads((where / "figures.json").read_text())["rmse"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", help="rating file; or --train and --test")
    parser.add_argument("--train", help="training ratings, tab separated")
    parser.add_argument("--test", help="test ratings")
    parser.add_argument("--presets", nargs="+", required=True, help="those that end in -user have rows of users")
    parser.add_argument("--seeds", type=int, default=5, help="fold and training seeds 0 to N - 1")
    parser.add_argument("--directory", type=Path, required=True, help="keeps data sets and runs")
    arguments = parser.parse_args()
    found = [one_seed(arguments, seed, arguments.directory / str(seed)) for seed in range(arguments.seeds)]
    print(f"\n{'predictor':<28} {'RMSE':>8} {'(sd)':>8}   RMSE by seed")
    for name in found[0]:
        errors = [figures[name] for figures in found]
        by_seed = " ".join(f"{error:.4f}" for error in errors)
        print(f"{name:<28} {np.mean(errors):>8.4f} {np.std(errors):>8.4f}   {by_seed}")


if __name__ == "__main__":
    main()
