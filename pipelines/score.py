"""`nnsparse-stream score`: models and ratings to top-K lists, or to predictions at given pairs."""

from __future__ import annotations

import argparse
import functools
import json
import time
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.options import (
    add_format_arguments,
    add_metrics_argument,
    add_weights_argument,
    add_worker_arguments,
    chosen_dialect,
    model_worker,
    positive_int,
    urls,
)
from nnsparse_stream.pipelines.row_features import add_row_features_argument, scored_features
from nnsparse_stream.pipelines.scoring import DEFAULT_TOP_K, SUMMARY, build_scoring, list_rules

if TYPE_CHECKING:
    from nnsparse_stream.checkpoints.state import CheckpointState
    from nnsparse_stream.data.dataset import Dataset
    from nnsparse_stream.ratings.id_files import IdFile
    from nnsparse_stream.ratings.input_plan import InputPlan

DESCRIPTION = """\
Score with a trained model: the best unseen columns of each row, or the predicted rating of given pairs.

The rows' known ratings come from a data set (--data) or from raw rating files (--input), which are read with the
model's own vocabulary. Writes Parquet files with row_id, column_id, score, and for top-K rank (from 1).

Several models, each with its data set, give the weighted mean of their predictions; or name what `blend` made of them.
They may be of either axis; the rows of the output are those of the first model's data set.

  nnsparse-stream score --model runs/ml --data data/ml --output scores/ml --top_k 10
  nnsparse-stream score --model runs/ml --input tonight.csv --output scores/tonight --pairs pairs.csv
  nnsparse-stream score --model runs/users,runs/items --data data/users,data/items --weights 0.3,0.7 --output scores/ml
"""

_FOLDS = ("train", "validation", "test")
# Bytes of the files of raw ratings, for one shard. Gzip and Parquet hold some ten times of what they weigh, so what is
# grouped under one key stays near 20 MB, which every engine sorts in memory.
_BYTES_PER_SHARD = 2 << 20

#: The manifest of scores, and the records that were read and the bad ones among them: of ratings, and of pairs.
_Done = tuple[dict[str, Any], tuple[int, int], tuple[int, int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `score`."""
    parser.add_argument(
        "--model",
        required=True,
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="a run's directory (its last checkpoint), one checkpoint's or a blend's; several, each with its --data, "
        "score by their mean, the rows of the first",
    )
    parser.add_argument(
        "--data",
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="data set that holds the rows and their known ratings (default for a blend: those that it was made with)",
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--input",
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="instead of --data, with one model: rating files with the known ratings",
    )
    add_row_features_argument(
        parser,
        "with --input, for a model of a data set with features: file of what else is known of the rows, with the "
        "columns that `prepare --row_features` had (a data set has its own)",
    )
    parser.add_argument("--output", required=True, metavar="URL", help="directory of the scores")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--top_k",
        type=positive_int,
        metavar="K",
        help=f"unseen columns for each row, the best first (default: {DEFAULT_TOP_K})",
    )
    what.add_argument(
        "--pairs",
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="files of user and item ids, in the formats and with the column names of rating files; a rating column is "
        "not needed and not read",
    )
    parser.add_argument(
        "--history_folds",
        type=_folds,
        default=_FOLDS,
        metavar="F[,F...]",
        help="folds of --data that the model sees (default: train,validation,test); top-K lists columns that are not "
        "rated in these. To judge scores on the test fold, pass train; what is shown of rows that are held out "
        "altogether is always seen",
    )
    lists = parser.add_argument_group("lists", "what --top_k lists")
    lists.add_argument(
        "--exclude",
        choices=["known", "none"],
        help="columns that are never listed for a row: those known of it, or none (default: known)",
    )
    lists.add_argument(
        "--candidates",
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="list these columns only: files of ids, one a line, or rating files, of which only that field is read",
    )
    lists.add_argument(
        "--rows",
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="make lists for these rows only, whether they have ratings or not: files of ids as for --candidates",
    )
    lists.add_argument(
        "--min_column_ratings",
        type=positive_int,
        metavar="N",
        help="list only columns with so many training ratings (default: 1)",
    )
    lists.add_argument(
        "--explain",
        type=positive_int,
        metavar="N",
        help="name for each listed column the known entries, N at most, that gave most of its score: linear models can "
        "tell",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the scores that lie in --output")
    add_worker_arguments(parser)
    add_metrics_argument(parser)
    add_format_arguments(parser)


def _folds(text: str) -> tuple[str, ...]:
    folds = tuple(part.strip() for part in text.split(","))
    if any(fold not in _FOLDS for fold in folds):
        raise argparse.ArgumentTypeError(f"{text} names a fold that is none of {', '.join(_FOLDS)}")
    return folds


def run(args: argparse.Namespace, beam_flags: list[str]) -> dict[str, Any]:
    """Scores, prints what was done, and returns the manifest of the scores.

    Raises:
        InputError: the user's input or flags are at fault; nothing is left at the output.
    """
    started = time.time()  # which the worker that finishes the job of a template knows, too
    from nnsparse_stream.scoring.blend import is_blend, named_models

    _check_lists(args)
    worker = model_worker(args, beam_flags)
    if (args.data and args.input) or not (args.data or args.input or is_blend(args.model[0])):
        raise InputError("pass either --data or --input: where the rows' known ratings come from")

    from nnsparse_stream.data.assembly import write_features
    from nnsparse_stream.data.dataset import Dataset
    from nnsparse_stream.objectives.objectives import recipe_from_json
    from nnsparse_stream.pipelines.command_metrics import scored
    from nnsparse_stream.pipelines.feedback_options import chosen_feedback
    from nnsparse_stream.pipelines.metrics_file import MetricsFile
    from nnsparse_stream.pipelines.running import run_and_finish, written_by_job
    from nnsparse_stream.pipelines.score_report import report
    from nnsparse_stream.ratings.dead_letters import check_bad_records
    from nnsparse_stream.scoring.files import FEATURES
    from nnsparse_stream.scoring.manifest import NAME, scores_manifest
    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.storage.matching import check_apart
    from nnsparse_stream.storage.output_directory import OutputDirectory

    metrics = MetricsFile(args.metrics_file, "score", beam_flags)
    output = OutputDirectory(args.output, contents=contents(), completing=NAME, overwrite=args.overwrite)
    named = [url for some in (args.pairs, args.rows, args.candidates) for url in some or []]
    named += [args.row_features] if args.row_features else []
    check_apart(args.output, [*args.model, *(args.data or args.input or []), *named])
    output.check()
    models = named_models(args.model, args.data, args.weights)
    checkpoint = models.checkpoints[0]
    if args.input and len(models.checkpoints) > 1:
        raise InputError(
            "--input goes with one --model: prepare the files once for each axis (--axis user, --axis item), and name "
            "the data sets with --data"
        )
    if args.input:
        recipe_from_json(checkpoint.state["recipe"]).check_feedback(chosen_feedback(args).feedback, args.input[0])
    if args.explain and len(models.checkpoints) > 1:
        raise InputError("--explain goes with one model: a mean of several cannot explain its scores")
    ratings = pairs = None
    if not args.input:
        check_apart(args.output, models.data)
        datasets = [Dataset(url) for url in models.data]
        for dataset in datasets:
            _check_blend(datasets[0], dataset, args.history_folds)
        num_shards = len(datasets[0].shards)
    else:
        ratings = _plan(args, args.input, checkpoint, with_rating=True)
        size = sum(storage.file_size(file.url) for file in ratings.files)
        num_shards = max(1, -(-size // _BYTES_PER_SHARD))
    records = scored_features(args, checkpoint)
    if args.pairs:
        pairs = _plan(args, args.pairs, checkpoint, with_rating=False)
    rows, candidates = (_id_files(args, checkpoint, name) for name in ("rows", "candidates"))
    matched = [file.url for plan in (ratings, pairs) if plan for file in plan.files]
    matched += [file.url for files in (rows, candidates) for file in files or []]
    check_apart(args.output, matched)  # what globs matched
    with written_by_job(output, beam_flags):
        features = [] if records is None else write_features(storage.join(args.output, FEATURES), num_shards, records)
        build = functools.partial(
            build_scoring,
            args=args,
            models=models,
            ratings=ratings,
            pairs=pairs,
            rows=rows,
            candidates=candidates,
            num_shards=num_shards,
            features=features,
            worker=worker,
        )

        def finish(_: Any) -> _Done:
            summary = json.loads(storage.read_file(storage.join(args.output, SUMMARY)))
            ratings_read, pairs_read = (
                check_bad_records(summary[what], args.max_bad_fraction) for what in ("ratings", "pairs")
            )
            output.remove(SUMMARY)
            output.remove_matching(_codes())
            output.remove_matching(_features())
            manifest = scores_manifest(
                [held.state for held in models.checkpoints],
                models.combination,
                top_k=None if args.pairs else args.top_k or DEFAULT_TOP_K,
                rules=list_rules(args),
                files=summary["files"],
                candidates=None if candidates is None else summary["candidates"],
                bad_records=ratings_read[1] + pairs_read[1],
                ratings_of_unknown_columns=sum(summary["unknown"]),
            )
            output.complete(storage.to_json(manifest))
            return manifest, ratings_read, pairs_read

        def tell(done: _Done) -> None:
            entries = None if args.input else datasets[0].manifest.fold_entries
            metrics.write(scored(*done, entries, args.history_folds))
            report(done[0], args.output, time.time() - started)

        done = run_and_finish(build, finish, tell, beam_flags)
    if done is None:
        return {}
    tell(done)
    return done[0]


def _check_lists(args: argparse.Namespace) -> None:
    """Refuses flags of lists where there are none.

    Raises:
        InputError: that is so.
    """
    flags = ("exclude", "candidates", "rows", "min_column_ratings", "explain")
    given = [f"--{flag}" for flag in flags if getattr(args, flag) is not None]
    if args.pairs and given:
        raise InputError(f"{' and '.join(given)}: with --pairs there are no lists; drop one or the other")


def _id_files(args: argparse.Namespace, checkpoint: CheckpointState, flag: str) -> list[IdFile] | None:
    """How to read the files that --rows or --candidates names; None where it is not passed."""
    from nnsparse_stream.ratings.id_files import plan_ids
    from nnsparse_stream.ratings.layout import FieldNames

    files, state = getattr(args, flag), checkpoint.state
    if files is None:
        return None
    fields = ("user", "item") if state["axis"] == "user" else ("item", "user")
    field, id_type = (fields[0], "row_id_type") if flag == "rows" else (fields[1], "column_id_type")
    names = FieldNames(args.user_column, args.item_column)
    return plan_ids(files, field, names, chosen_dialect(args), state[id_type])


def contents() -> tuple[str, ...]:
    """Patterns of the files that `score` writes; see `OutputDirectory`."""
    # Whatever is not Parquet has a name that starts with "_", which readers of a directory of Parquet files pass over.
    letters = tuple(f"_dead_letters/{what}/#-#-#.jsonl" for what in ("pairs", "ratings"))
    return ("part-#-of-#.parquet", _codes(), _features(), *letters, SUMMARY)


def _codes() -> str:
    from nnsparse_stream.scoring.files import CODES

    return f"{CODES}/model-#/part-#-of-#.parquet"


def _features() -> str:
    from nnsparse_stream.scoring.files import FEATURES

    return f"{FEATURES}/features/part-#-of-#.parquet"


def _check_blend(first: Dataset, other: Dataset, history_folds: tuple[str, ...]) -> None:
    """Refuses a data set that cannot be blended with that of the first model.

    Raises:
        InputError: it holds other columns or shards, or ids of other types, or folds that would show the model ratings
            that are hidden from the first.
    """
    from nnsparse_stream.data.manifest import vocabulary_fingerprint

    one, two = first.manifest, other.manifest
    if one.axis == two.axis:
        if (vocabulary_fingerprint(one), len(one.shards)) != (vocabulary_fingerprint(two), len(two.shards)):
            raise InputError(
                f"{first.url} and {other.url} both have rows by {one.axis}, but differ in their vocabulary or in their "
                "number of shards: prepare them from the same input with the same --num_shards, or train both models "
                "on one data set"
            )
        ids = (two.row_id_type, two.column_id_type)
    else:
        ids = (two.column_id_type, two.row_id_type)
    if ids != (one.row_id_type, one.column_id_type):
        raise InputError(
            f"{first.url} and {other.url} hold ids of different types, integers and strings: prepare both from the "
            "same input with the same --id_type"
        )
    if set(history_folds) != set(_FOLDS) and one.folds != two.folds:
        raise InputError(
            f"{first.url} and {other.url} were cut into folds differently: with --history_folds, prepare both with the "
            "same flags of folds (--validation_last and --test_last cut the two axes differently)"
        )


def _plan(args: argparse.Namespace, files: list[str], checkpoint: CheckpointState, with_rating: bool) -> InputPlan:
    """Plans to read files with ids of the model's types."""
    from nnsparse_stream.pipelines.feedback_options import chosen_feedback
    from nnsparse_stream.ratings.input_plan import plan_inputs
    from nnsparse_stream.ratings.layout import FieldNames

    feedback = chosen_feedback(args)
    state = checkpoint.state
    types = {"user": state["row_id_type"], "item": state["column_id_type"]}
    if state["axis"] == "item":
        types = {"user": types["item"], "item": types["user"]}
    names = FieldNames(args.user_column, args.item_column)._replace(
        rating=feedback.column if with_rating else None, timestamp=args.timestamp_column if with_rating else None
    )
    plan = plan_inputs(
        files,
        names,
        file_format=args.format,
        dialect=chosen_dialect(args),
        id_type=args.id_type,
        duplicates=feedback.duplicates,
        timestamp_unit=args.timestamp_unit,
    )
    for field, wanted in types.items():
        if wanted == "int64" and getattr(plan.schema, field) == "string":
            raise InputError(
                f"{plan.files[0].url}: its {field} ids are strings, and those of the model integers; pass --id_type "
                f"int to count those that are no integers as bad records, or another --{field}_column"
            )
    # Ids that look like integers are read as the strings that they are to the model.
    return plan._replace(schema=plan.schema._replace(**types))


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("score")
