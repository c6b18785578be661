"""The plots of docs/training.md, drawn from what train_step.py and training runs wrote.

The curve is of MovieLens-1M:

    nnsparse-stream prepare --input ml-1m.parquet --output data/ml --axis item --folds 90,5,5
    nnsparse-stream train --data data/ml --output runs/cfn --preset cfn
    nnsparse-stream train --data data/ml --output runs/best --preset best
    python benchmarks/train_step.py --json steps.json
    python benchmarks/plots.py --steps steps.json --runs cfn=runs/cfn best=runs/best --output docs
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nnsparse_stream.training.report import Series, line_chart_file

STEPS = {"dense": "dense torch, SGD", "adam": "here, Adam", "sgd": "here, SGD"}


def step_time(figures: Path) -> str:
    """Step time over columns, from the JSON file of train_step.py."""
    steps = json.loads(figures.read_text())["steps"]
    series = []
    for key, name in STEPS.items():
        found = [(step["columns"], step["milliseconds"][key]) for step in steps if key in step["milliseconds"]]
        columns, milliseconds = zip(*found, strict=True)
        series.append(Series(name, columns, milliseconds))
    return line_chart_file(series, "columns", "milliseconds a step", "Time of a training step by columns", True)


def learning_curve(runs: list[str]) -> str:
    """Validation RMSE over epochs, from the metrics of runs, each given as NAME=DIRECTORY."""
    series = []
    for run in runs:
        name, directory = run.split("=", 1)
        lines = [json.loads(line) for line in (Path(directory) / "metrics.jsonl").read_text().splitlines()]
        errors = [line["validation"]["rmse"] for line in lines]
        series.append(Series(name, [line["epoch"] for line in lines], errors))
    return line_chart_file(series, "epoch", "validation RMSE (stars)", "Validation RMSE by epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=Path, metavar="FILE", required=True, help="of train_step.py --json")
    parser.add_argument("--runs", nargs="+", metavar="NAME=DIRECTORY", required=True, help="with a validation fold")
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="DIRECTORY", help="(default: docs)")
    arguments = parser.parse_args()
    (arguments.output / "step-time.svg").write_text(step_time(arguments.steps))
    (arguments.output / "learning-curve.svg").write_text(learning_curve(arguments.runs))


if __name__ == "__main__":
    main()
