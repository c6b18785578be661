"""`nnsparse-stream evaluate`: a model's RMSE and MAE on one fold of a data set, beside those of baselines."""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

from nnsparse_stream.pipelines.options import add_weights_argument, urls

DESCRIPTION = """\
Judge a model on one fold of a data set: RMSE and MAE over all its ratings, and by how many training ratings a row has.

The model is given the training fold's ratings of each row and predicts those of the judged fold. Beside it
stand baselines, fitted to the training fold: the mean of all ratings, and mean + row's bias + column's bias.

  nnsparse-stream evaluate --data data/ml --model runs/ml --fold test --json test.json
  nnsparse-stream evaluate --data data/items,data/users --model runs/items,runs/users --weights 0.7,0.3
"""

# Of an evaluation's file, in bytes, with room to spare.
_LONGEST_EVALUATION = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `evaluate`."""
    parser.add_argument(
        "--data",
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="the data set that the model was trained on (default for a blend: those that it was made with)",
    )
    parser.add_argument(
        "--model",
        required=True,
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="a run's directory, one checkpoint's or a blend's; several, each with its --data, are judged by their "
        "mean",
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--fold", choices=("train", "validation", "test"), default="test", help="what to judge (default: test)"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the figures there, too (a URL that workers can write to, where they run elsewhere)",
    )


def run(args: argparse.Namespace, beam_flags: list[str]) -> dict[str, Any]:
    """Evaluates, prints a table, and returns the figures.

    Raises:
        InputError: the user's input or flags are at fault.
    """
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.errors import InputError
    from nnsparse_stream.pipelines.running import run_pipeline
    from nnsparse_stream.scoring.blend import is_blend, named_models
    from nnsparse_stream.storage import files as storage

    if args.json:
        storage.check_regular(args.json)
        if storage.exists(args.json) and not _is_evaluation(args.json):
            raise InputError(f"--json {args.json} exists and holds no evaluation; name another file")
        storage.check_writable(args.json)
    if not (args.data or is_blend(args.model[0])):
        raise InputError("--data is missing: the data set that the model was trained on; only a blend knows its own")
    models = named_models(args.model, args.data, args.weights)
    for data in models.data:
        if not Manifest.read(data).fold_entries[args.fold]:
            raise InputError(f"{data} has no rating in its {args.fold} fold; judge another --fold")

    import apache_beam as beam

    from nnsparse_stream.transforms.evaluate import EvaluateBlend, EvaluateRatings

    with tempfile.TemporaryDirectory() as scratch:
        result = args.json or storage.join(scratch, "evaluation.json")

        def build(pipeline: beam.Pipeline) -> None:
            checkpoints = [checkpoint.url for checkpoint in models.checkpoints]
            if len(checkpoints) == 1:
                report = pipeline | EvaluateRatings(checkpoints[0], models.data[0], args.fold)
            else:
                axis = models.checkpoints[0].state["axis"]
                report = pipeline | EvaluateBlend(checkpoints, models.data, models.combination, args.fold, axis)
            _ = report | beam.Map(_write, result)

        run_pipeline(build, beam_flags)
        if not storage.exists(result):
            raise InputError("the workers run elsewhere: pass --json with a URL that they and this process can reach")
        figures: dict[str, Any] = json.loads(storage.read_file(result))
    print(table(figures))
    return figures


def _is_evaluation(url: str) -> bool:
    """Whether a file is one that `evaluate --json` wrote, which may be replaced."""
    from nnsparse_stream.storage import files as storage

    if storage.file_size(url) > _LONGEST_EVALUATION:
        return False
    try:
        return {"fold", "count", "rmse", "mae", "buckets", "baselines"} == set(json.loads(storage.read_file(url)))
    except (ValueError, TypeError):
        return False


def _write(figures: dict[str, Any], url: str) -> None:
    from nnsparse_stream.storage import files as storage

    storage.write_file(url, storage.to_json(figures))


def table(figures: dict[str, Any]) -> str:
    """The figures as a text table, and whether the model is worth its while."""
    from nnsparse_stream.evaluation.comparison import not_beaten

    lines = [f"{'training ratings':>17} {'rows':>9} {'ratings':>11} {'RMSE':>8} {'MAE':>8}"]
    for bucket in figures["buckets"]:
        bound = "" if bucket["max_ratings"] is None else f"{bucket['max_ratings']:,}"
        label = f"{bucket['min_ratings']:,}" + ("+" if not bound else "" if bound == "0" else f" - {bound}")
        lines.append(
            f"{label:>17} {bucket['rows']:>9,} {bucket['count']:>11,} {bucket['rmse']:>8.4f} {bucket['mae']:>8.4f}"
        )
    rows = sum(bucket["rows"] for bucket in figures["buckets"])
    lines.append(
        f"{figures['fold'] + ', all':>17} {rows:>9,} {figures['count']:>11,} {figures['rmse']:>8.4f} "
        f"{figures['mae']:>8.4f}"
    )
    lines += [f"{line['name']:>39} {line['rmse']:>8.4f} {line['mae']:>8.4f}" for line in figures["baselines"]]
    better = not_beaten(figures)
    if better:
        names = " and the ".join(better)
        lines.append(f"The model is NOT better than the {names} (by RMSE): train it differently, or do without it.")
    return "\n".join(lines)


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("evaluate")
