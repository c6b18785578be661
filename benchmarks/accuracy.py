"""Test errors of the presets and their blend on random folds, beside the baselines: the mean of several fold seeds.

Everything is chosen on validation cuts of other splits; the test fold is only judged. For MovieLens-1M:

    python benchmarks/accuracy.py ml-1m.parquet --seeds 5 --json accuracy.json
    python benchmarks/accuracy.py --train u1.base --test u1.test --seeds 3
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from nnsparse_stream.baselines import evaluate_baselines
from nnsparse_stream.blending import judge_blend, predict_fold
from nnsparse_stream.checkpoint import load_model
from nnsparse_stream.dataset import Dataset
from pipelines import cli

MODELS = (("cfn", "item"), ("cfn", "user"), ("best", "item"), ("best-user", "user"))
BLEND = {("best", "item"): 0.7, ("best-user", "user"): 0.3}
TEST = 2


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def predictions(data: str, run: str, axis: str, position: int) -> list:
    checkpoint = load_model(run)
    return [
        predict_fold(checkpoint.model, checkpoint.vocabulary, axis, batch, TEST, position)
        for batch in Dataset(data).batches()
    ]


def one_seed(arguments: argparse.Namespace, seed: int, where: Path) -> dict[str, dict[str, float]]:
    data = {axis: str(where / f"{axis}-{seed}") for axis in ("user", "item")}
    for axis, url in data.items():
        if arguments.ratings:
            source = ["--input", arguments.ratings, "--fold_seed", str(seed)]
        else:
            source = ["--train_input", arguments.train, "--test_input", arguments.test]
        command("prepare", "--output", url, "--axis", axis, *source)
    results = {}
    for name, sums in evaluate_baselines(Dataset(data["user"]), TEST).items():
        results[name] = {"rmse": sums.rmse, "mae": sums.mae}
    blocks = []
    for preset, axis in MODELS:
        run = str(where / f"{preset}-{axis}-{seed}")
        started = time.perf_counter()
        command(
            "train", "--data", data[axis], "--output", run, "--preset", preset, "--seed", str(seed), "--threads", "1"
        )
        seconds = time.perf_counter() - started
        sums = judge_blend(predictions(data[axis], run, axis, 0), [1.0], axis)
        results[f"{preset}, rows are {axis}s"] = {"rmse": sums.rmse, "mae": sums.mae, "seconds": seconds}
        if (preset, axis) in BLEND:
            blocks += predictions(data[axis], run, axis, list(BLEND).index((preset, axis)))
    sums = judge_blend(blocks, list(BLEND.values()), "item")
    results["0.7 best + 0.3 best-user"] = {"rmse": sums.rmse, "mae": sums.mae}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file; or --train and --test")
    parser.add_argument("--train", help="training ratings")
    parser.add_argument("--test", help="test ratings")
    parser.add_argument("--seeds", type=int, default=5, help="fold and training seeds 0 to N - 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = [one_seed(arguments, seed, Path(scratch)) for seed in range(arguments.seeds)]
    print(f"\n{'predictor':<28} {'RMSE':>8} {'(sd)':>8} {'MAE':>8}   RMSE by seed")
    for name in runs[0]:
        errors, absolute = ([run[name][figure] for run in runs] for figure in ("rmse", "mae"))
        print(
            f"{name:<28} {np.mean(errors):>8.4f} {np.std(errors):>8.4f} {np.mean(absolute):>8.4f}   "
            + " ".join(f"{error:.4f}" for error in errors)
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
