"""`nnsparse-stream evaluate`: a model's metrics on one fold of a data set, beside those of baselines."""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

from nnsparse_stream.pipelines.options import (
    add_metrics_argument,
    add_weights_argument,
    add_worker_arguments,
    model_worker,
    urls,
)

DESCRIPTION = """\
Judge a model on one fold of a data set: over all its entries, and by how many entries of a row the model knows.

The model is given the training fold's entries of each row, and what is shown of a row that is held out; it predicts
those of the judged fold, and lists columns that it was not given. Beside it stand baselines, fitted to the training
fold: for ratings the mean of all, and mean + row's bias + column's bias; for lists the columns with the most entries.
The last lines say by what the model is better. A data set may have columns more than the model (prepare --vocabulary):
the model is not shown their ratings, and has no opinion of its own on them.

  nnsparse-stream evaluate --data data/ml --model runs/ml --fold test --json test.json
  nnsparse-stream evaluate --data data/ml --model runs/ml --metrics ndcg@100,recall@20,coverage@20
  nnsparse-stream evaluate --data data/items,data/users --model runs/items,runs/users --weights 0.7,0.3
"""

# Of an evaluation's file, in bytes, with room to spare.
_LONGEST_EVALUATION = 1 << 20


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
        "--metrics",
        type=_names,
        action="extend",
        metavar="NAME[,NAME...]",
        help="what to judge by: rmse, mae; of lists of any length K ndcg@K, ndcg_graded@K, recall@K, recall_all@K, "
        "precision@K, hit@K, mrr@K, map@K, coverage@K, popularity@K, gini@K (default: those of the model's objective)",
    )
    add_worker_arguments(parser)
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the figures there, too (a URL that workers can write to, where they run elsewhere)",
    )
    add_metrics_argument(parser)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def run(args: argparse.Namespace, beam_flags: list[str]) -> dict[str, Any]:
    """Evaluates, prints a table, and returns the figures.

    Raises:
        InputError: the user's input or flags are at fault.
    """
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.errors import InputError
    from nnsparse_stream.evaluation.judging import check_metrics
    from nnsparse_stream.evaluation.metrics import metrics_of_model
    from nnsparse_stream.objectives.objectives import objective_of, recipe_from_json
    from nnsparse_stream.pipelines.command_metrics import evaluated
    from nnsparse_stream.pipelines.metrics_file import MetricsFile
    from nnsparse_stream.pipelines.running import is_only_described, run_and_finish
    from nnsparse_stream.scoring.blend import is_blend, named_models
    from nnsparse_stream.storage import files as storage

    worker = model_worker(args, beam_flags)
    metrics_file = MetricsFile(args.metrics_file, "evaluate", beam_flags)
    if args.json:
        storage.check_regular(args.json)
        if storage.exists(args.json) and not _is_evaluation(args.json):
            raise InputError(f"--json {args.json} exists and holds no evaluation; name another file")
        storage.check_writable(args.json)
    if not (args.data or is_blend(args.model[0])):
        raise InputError("--data is missing: the data set that the model was trained on; only a blend knows its own")
    models = named_models(args.model, args.data, args.weights, more_columns=True)
    for data in models.data:
        if not Manifest.read(data).fold_entries[args.fold]:
            raise InputError(f"{data} has no rating in its {args.fold} fold; judge another --fold")
    usual = [objective_of(recipe_from_json(held.state["recipe"])).metrics for held in models.checkpoints]
    asked = metrics_of_model(args.metrics or (), usual[0])
    metrics = [metric.name for metric in asked]
    for of_another in usual[1:]:
        metrics_of_model(metrics, of_another)
    check_metrics(asked, args.fold)

    columns = Manifest.read(models.data[0]).num_columns
    lacking = columns - models.checkpoints[0].config.num_columns

    import apache_beam as beam

    from nnsparse_stream.transforms.evaluate import EvaluateBlend, EvaluateRatings

    with tempfile.TemporaryDirectory() as scratch:
        result = args.json or storage.join(scratch, "evaluation.json")

        def build(pipeline: beam.Pipeline) -> beam.PCollection[None]:
            checkpoints = [checkpoint.url for checkpoint in models.checkpoints]
            if len(checkpoints) == 1:
                report = pipeline | EvaluateRatings(checkpoints[0], models.data[0], args.fold, metrics, worker)
            else:
                axis = models.checkpoints[0].state["axis"]
                report = pipeline | EvaluateBlend(
                    checkpoints, models.data, models.combination, args.fold, axis, metrics, worker
                )
            return report | beam.Map(_write, result)

        def finish(_: Any) -> dict[str, Any]:
            if not storage.exists(result):
                raise InputError(
                    "the workers run elsewhere: pass --json with a URL that they and this process can reach"
                )
            figures: dict[str, Any] = json.loads(storage.read_file(result))
            return figures

        def tell(figures: dict[str, Any]) -> None:
            metrics_file.write(evaluated(figures))
            print(table(figures, metrics))
            if lacking:
                print(
                    f"The model has not {lacking:,} of the {columns:,} columns: their ratings were not shown to it, "
                    "and are predicted as those of any column that it does not know."
                )

        if is_only_described(beam_flags) and not args.json:
            raise InputError("the figures have nowhere to go to: pass --json with a URL that workers can write to")
        figures = run_and_finish(build, finish, tell, beam_flags)
    if figures is None:
        return {}
    tell(figures)
    return figures


def _is_evaluation(url: str) -> bool:
    """Whether a file is one that `evaluate --json` wrote, which may be replaced."""
    from nnsparse_stream.storage import files as storage

    if storage.file_size(url) > _LONGEST_EVALUATION:
        return False
    try:
        return {"fold", "count", "rmse", "mae", "buckets", "baselines"} <= set(json.loads(storage.read_file(url)))
    except (ValueError, TypeError):
        return False


def _write(figures: dict[str, Any], url: str) -> None:
    from nnsparse_stream.storage import files as storage

    storage.write_file(url, storage.to_json(figures))


def table(figures: dict[str, Any], names: list[str]) -> str:
    """The figures, by metrics of these names, as a text table, and by which the model is worth its while."""
    from nnsparse_stream.evaluation.comparison import not_beaten

    def line(label: str, rows: str, count: str, metrics: dict[str, float | None]) -> list[str]:
        # What a baseline or a bucket is not judged by stays empty.
        values = [(metrics.get(name), name in metrics) for name in names]
        return [label, rows, count, *("" if not there else "-" if v is None else f"{v:,.4f}" for v, there in values)]

    lines = [["known entries", "rows", "judged", *(name.upper() for name in names)]]
    for bucket in figures["buckets"]:
        bound = "" if bucket["max_ratings"] is None else f"{bucket['max_ratings']:,}"
        label = f"{bucket['min_ratings']:,}" + ("+" if not bound else "" if bound == "0" else f" - {bound}")
        lines.append(line(label, f"{bucket['rows']:,}", f"{bucket['count']:,}", bucket["metrics"]))
    rows = sum(bucket["rows"] for bucket in figures["buckets"])
    lines.append(line(figures["fold"] + ", all", f"{rows:,}", f"{figures['count']:,}", figures["metrics"]))
    lines += [line(baseline["name"], "", "", baseline["metrics"]) for baseline in figures["baselines"]]
    widths = [17, 9, 11] + [max(8, *(len(cells[column + 3]) for cells in lines)) for column in range(len(names))]
    text = [_set_right(cells, widths) for cells in lines]
    better = [name for name in names if figures["better"][name]]
    if better:
        text.append(f"The model is better than the baselines by {', '.join(better)}.")
    text += [
        f"The model is NOT better than {baseline} by {', '.join(sorted(worse, key=names.index))}: "
        "train it differently, or do without it."
        for baseline, worse in not_beaten(figures).items()
        if worse
    ]
    return "\n".join(text)


def _set_right(cells: list[str], widths: list[int]) -> str:
    """A line of the table; a label without numbers of rows and ratings takes their place, too."""
    if not cells[1] and not cells[2]:
        cells, widths = [cells[0], *cells[3:]], [sum(widths[:3]) + 2, *widths[3:]]
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("evaluate")
