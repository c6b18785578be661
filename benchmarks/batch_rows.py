"""Accuracy over the rows of a minibatch, by the rule of `nnsparse_stream.objectives.growth` and without it.

For MovieLens-1M, rows are items:

    python benchmarks/batch_rows.py ml-1m.parquet --axis item --preset deep --factors 1 4 --recipe epochs=20

For a synthetic log of 40,000 users, 4,000 items and 3.6 million ratings:

    python benchmarks/batch_rows.py --synthetic ratings --preset best-user --factors 1 4 8 --recipe hidden='[256]'

For one of 30,000 x 41,000 with .8M interactions:

    python benchmarks/batch_rows.py --synthetic interactions --preset ranking-sparse --metric ndcg@100 --factors 1 4 \
        --recipe epochs=8 sampled_columns=500 units=64 batch_rows=128

Each figure is the last epoch's on the validation fold (90/5/5, interactions 80/10/10), trained on the CPU with one
thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.objectives.growth import scaled
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_interactions, make_ratings
from nnsparse_stream.training.run import TrainingRequest
from nnsparse_stream.training.start import train


def variants(usual: StepRecipe, factors: list[int]) -> dict[str, StepRecipe]:
    """What is trained, by its name in the table."""
    found: dict[str, StepRecipe] = {}
    for factor in factors:
        found[f"x {factor}"] = scaled(usual, factor) if factor > 1 else usual
        if factor > 1:
            found[f"x {factor}, all else as it was"] = replace(usual, batch_rows=usual.batch_rows * factor)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file; or --synthetic")
    parser.add_argument("--synthetic", choices=("ratings", "interactions"), help="a log that is drawn")
    parser.add_argument("--axis", default="user")
    parser.add_argument("--preset", default="best-user")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 4, 8], help="of the recipe's batch_rows")
    parser.add_argument(
        "--recipe", nargs="*", default=[], metavar="FIELD=JSON", help="fields that are not the preset's"
    )
    parser.add_argument("--metric", default="rmse", help="rmse (the default), ndcg@100 or another one")
    parser.add_argument("--seeds", type=int, default=1, help="training seeds 0 to N - 1")
    arguments = parser.parse_args()
    given: dict[str, Any] = {name: json.loads(value) for name, value in (one.split("=") for one in arguments.recipe)}
    usual = recipe(arguments.preset, **{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})
    assert isinstance(usual, StepRecipe)
    interactions = arguments.synthetic == "interactions"
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.synthetic:
            arguments.ratings = str(Path(scratch) / "log.parquet")
            if interactions:
                log = make_interactions(30_000, 41_000, 1_040_000, num_groups=400, seed=0)
            else:
                log = make_ratings(40_000, 4_000, 4_400_000, 0.9, seed=0).ratings
            pq.write_table(log, arguments.ratings)
        data = str(Path(scratch) / "data")
        folds = ["80,10,10", "--feedback", "implicit"] if interactions else ["90,5,5"]
        source = ["--input", arguments.ratings, "--axis", arguments.axis, "--folds", *folds]
        assert cli.main(["prepare", "--output", data, *source]) == 0
        rows = Manifest.read(data).num_rows
        print(
            f"\n{'batch_rows':<30} {'rows':>6} {'an epoch':>9} {'rate':>9} {'seconds':>8} {arguments.metric:>9} by seed"
        )
        for name, chosen in variants(usual, arguments.factors).items():
            figures, started = [], time.perf_counter()
            for seed in range(arguments.seeds):
                request = TrainingRequest(
                    data=data, output=str(Path(scratch) / "run"), recipe=chosen, seed=seed, device="cpu", threads=1,
                    validation_metric=arguments.metric, overwrite=True,
                )  # fmt: skip
                figures.append(train(request)["metrics"]["validation"][arguments.metric])
            seconds = (time.perf_counter() - started) / arguments.seeds
            shown = " ".join(f"{figure:.4f}" for figure in figures)
            print(
                f"{name:<30} {chosen.batch_rows:>6} {rows / chosen.batch_rows:>9.0f} {chosen.learning_rate:>9.3g} "
                f"{seconds:>8.1f} {shown}",
                flush=True,
            )


if __name__ == "__main__":
    main()
