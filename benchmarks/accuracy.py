"""Test errors of the presets and their blends on random folds, beside the baselines: the mean of several fold seeds.

For MovieLens-1M, and for the published split of MovieLens-100K:

    python benchmarks/accuracy.py ml-1m.parquet --seeds 5 --json accuracy.json
    python benchmarks/accuracy.py --train u1.base --test u1.test --seeds 5

All goes through the commands. The learned blend's weights are fitted to a validation fold, cut off the training
ratings (2 of 90 percent, or 10 percent of the training file), by members trained on the rest; they are then given to
members that were trained on all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from nnsparse_stream.pipelines import cli

Member = tuple[str, str]

MODELS: tuple[Member, ...] = (
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
#: The weights were chosen on validation cuts, of MovieLens-1M and of u1.base.
BLENDS: tuple[dict[Member, float], ...] = (
    {("best", "item"): 0.7, ("best-user", "user"): 0.3},
    {("best-small", "item"): 0.6, ("best-small-user", "user"): 0.4},
)
#: Of the learned blends.
LEARNED: tuple[tuple[Member, ...], ...] = (
    (("deep", "item"), ("best", "item"), ("deep-user", "user"), ("best-user", "user")),
    (("deep", "item"), ("best-small", "item"), ("deep-user", "user"), ("best-small-user", "user")),
)


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def errors(where: Path, *flags: str) -> dict[str, float]:
    """The test errors of a model or blend."""
    path = where / "evaluation.json"
    command("evaluate", *flags, "--fold", "test", "--json", str(path))
    figures = json.loads(path.read_text())
    return {"rmse": figures["rmse"], "mae": figures["mae"]}


class Runs:
    """The data sets of one seed, for both axes, and the models trained on them."""

    def __init__(self, where: Path, seed: int, source: list[str]) -> None:
        self._where, self._seed, self._source = where, seed, source

    def data(self, axis: str) -> str:
        url = self._where / f"data-{axis}"
        if not url.exists():
            command("prepare", "--output", str(url), "--axis", axis, *self._source)
        return str(url)

    def model(self, preset: str, axis: str) -> str:
        url = self._where / f"{preset}-{axis}"
        if not url.exists():
            seed = str(self._seed)
            flags = ["--preset", preset, "--seed", seed, "--threads", "1"]
            command("train", "--data", self.data(axis), "--output", str(url), *flags)
        return str(url)

    def flags(self, members: tuple[Member, ...]) -> list[str]:
        models = ",".join(self.model(*member) for member in members)
        return ["--model", models, "--data", ",".join(self.data(axis) for _, axis in members)]


def one_seed(
    arguments: argparse.Namespace, models: list[Member], seed: int, where: Path
) -> dict[str, dict[str, float]]:
    if arguments.ratings:
        source = ["--input", arguments.ratings, "--fold_seed", str(seed), "--folds"]
        whole, cut = Runs(where / "whole", seed, [*source, "90,0,10"]), Runs(where / "cut", seed, [*source, "88,2,10"])
    else:
        files = ["--train_input", arguments.train, "--test_input", arguments.test]
        whole = Runs(where / "whole", seed, files)
        part = ["--input", arguments.train, "--folds", "90,10,0", "--fold_seed", str(seed)]
        cut = Runs(where / "cut", seed, part)
    results: dict[str, dict[str, float]] = {}
    for preset, axis in models:
        data = whole.data(axis)
        started = time.perf_counter()
        run = whole.model(preset, axis)
        seconds = time.perf_counter() - started
        figures = errors(where, "--data", data, "--model", run)
        if not results:
            baselines = json.loads((where / "evaluation.json").read_text())["baselines"]
            results |= {line["name"]: {"rmse": line["rmse"], "mae": line["mae"]} for line in baselines}
        results[f"{preset}, rows are {axis}s"] = {**figures, "seconds": seconds}
    for blend in BLENDS:
        if blend.keys() <= set(models):
            name = " + ".join(f"{weight} {preset}" for (preset, _), weight in blend.items())
            weights = ",".join(str(weight) for weight in blend.values())
            results[name] = errors(where, *whole.flags(tuple(blend)), "--weights", weights)
    for number, members in enumerate(LEARNED):
        if arguments.blends and set(members) <= set(models):
            fitted, taken = str(where / f"fitted-{number}"), str(where / f"taken-{number}")
            command("blend", *cut.flags(members), "--output", fitted)
            command("blend", *whole.flags(members), "--weights_of", fitted, "--output", taken)
            results["learned: " + " + ".join(preset for preset, _ in members)] = errors(where, "--model", taken)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file; or --train and --test")
    parser.add_argument("--train", help="training ratings")
    parser.add_argument("--test", help="test ratings")
    parser.add_argument("--seeds", type=int, default=5, help="fold and training seeds 0 to N - 1")
    parser.add_argument("--presets", nargs="+", help="these only")
    parser.add_argument("--blends", action="store_true", help="learned blends, too, which train their members twice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    models = [model for model in MODELS if arguments.presets is None or model[0] in arguments.presets]
    with tempfile.TemporaryDirectory() as scratch:
        runs = [one_seed(arguments, models, seed, Path(scratch, str(seed))) for seed in range(arguments.seeds)]
    print(f"\n{'predictor':<60} {'RMSE':>8} {'(sd)':>8} {'MAE':>8}   RMSE by seed")
    for name in runs[0]:
        squared, absolute = ([run[name][figure] for run in runs] for figure in ("rmse", "mae"))
        print(
            f"{name:<60} {np.mean(squared):>8.4f} {np.std(squared):>8.4f} {np.mean(absolute):>8.4f}   "
            + " ".join(f"{error:.4f}" for error in squared)
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
