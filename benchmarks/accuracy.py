"""Test errors of the presets and their blend on random folds, beside the baselines: the mean of several fold seeds.

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
import pyarrow as pa

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.pipelines import cli
from nnsparse_stream.scoring.blending import judge_blend, predict_fold
from nnsparse_stream.training.checkpoint import load_model

MODELS = (
    ("cfn", "item"),
    ("cfn", "user"),
    ("cfn-stacked", "item"),
    ("best", "item"),
    ("best-user", "user"),
    ("best-small", "item"),
    ("best-small-user", "user"),
)
#: The weights were chosen on validation cuts, of MovieLens-1M and of u1.base.
BLENDS = (
    {("best", "item"): 0.7, ("best-user", "user"): 0.3},
    {("best-small", "item"): 0.6, ("best-small-user", "user"): 0.4},
)
TEST = 2


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def predictions(data: str, run: str, axis: str) -> list[pa.RecordBatch]:
    checkpoint = load_model(run)
    return [
        predict_fold(checkpoint.model, checkpoint.vocabulary, axis, batch, TEST, 0) for batch in Dataset(data).batches()
    ]


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
    results = {}
    predicted = {}
    for preset, axis in models:
        run = str(where / f"{preset}-{axis}-{seed}")
        started = time.perf_counter()
        command(
            "train", "--data", data[axis], "--output", run, "--preset", preset, "--seed", str(seed), "--threads", "1"
        )
        seconds = time.perf_counter() - started
        if not predicted:
            figures = str(where / f"{seed}.json")
            command("evaluate", "--data", data[axis], "--model", run, "--json", figures)
            baselines = json.loads(Path(figures).read_text())["baselines"]
            results |= {line["name"]: {"rmse": line["rmse"], "mae": line["mae"]} for line in baselines}
        predicted[preset, axis] = predictions(data[axis], run, axis)
        sums = judge_blend(predicted[preset, axis], [1.0], axis)
        results[f"{preset}, rows are {axis}s"] = {"rmse": sums.rmse, "mae": sums.mae, "seconds": seconds}
    for blend in BLENDS:
        if blend.keys() <= predicted.keys():
            blocks = [
                block.set_column(block.schema.get_field_index("model"), "model", pa.array([position] * len(block)))
                for position, model in enumerate(blend)
                for block in predicted[model]
            ]
            sums = judge_blend(blocks, list(blend.values()), "item")
            name = " + ".join(f"{weight} {preset}" for (preset, _), weight in blend.items())
            results[name] = {"rmse": sums.rmse, "mae": sums.mae}
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
