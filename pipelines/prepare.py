"""`nnsparse-stream prepare`: rating files to a sharded sparse data set."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.feedback_options import ChosenFeedback, chosen_feedback
from nnsparse_stream.pipelines.options import (
    add_format_arguments,
    add_metrics_argument,
    chosen_dialect,
    positive_int,
    urls,
)
from nnsparse_stream.pipelines.prepare_job import SUMMARY, prepare_by_beam
from nnsparse_stream.pipelines.prepare_options import (
    FILE_FLAGS,
    add_selection_arguments,
    check_fold_flags,
    chosen_folds,
    chosen_selection,
    timed_flag,
)
from nnsparse_stream.pipelines.row_features import (
    add_row_features_argument,
    described_features,
    row_features,
    with_features,
)

if TYPE_CHECKING:
    from nnsparse_stream.data.local_run import Sizes
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.ratings.folds import Folds, TimeShares
    from nnsparse_stream.ratings.input_plan import InputPlan
    from nnsparse_stream.ratings.selection import Selection

DESCRIPTION = """\
Turn rating files into a data set: shards of sparse rows, a vocabulary of the columns, and a manifest.

The same ratings give the same shards, byte for byte, in whatever files and order they come. A run that was killed
leaves a directory that the same command recognises and begins anew.

  nnsparse-stream prepare --input ratings.csv --output data/mine --axis user
  nnsparse-stream prepare --train_input u1.base --test_input u1.test --output data/u1 --axis item
  nnsparse-stream prepare --input ratings.dat --output data/dat --axis user --test_from 2001-01-01
  nnsparse-stream prepare --input clicks.csv --output data/clicks --axis user --feedback implicit --test_rows 10
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare`."""
    parser.add_argument(
        "--input",
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="rating files, globs, or directories with all that is in them; instead, --train_input and the like",
    )
    parser.add_argument("--output", required=True, metavar="URL", help="directory of the data set")
    parser.add_argument(
        "--axis",
        required=True,
        choices=("user", "item"),
        help="what a row is: user (columns are items) or item (columns are users)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that lies in --output")
    parser.add_argument(
        "--num_shards", type=positive_int, metavar="N", help="shards (default: one for every 500,000 ratings)"
    )
    parser.add_argument(
        "--vocabulary",
        metavar="URL",
        help="an earlier data set: its column ids keep their indices, and new ones come after them (default: indices "
        "by count)",
    )
    add_row_features_argument(
        parser,
        "file of what else is known of the rows: Parquet, or CSV, TSV or '::' in --encoding; the id first. A column of "
        "categories, of tags (with | between them) or of numbers each becomes a field of features",
    )
    add_selection_arguments(parser)
    add_format_arguments(parser)
    add_metrics_argument(parser)


def run(args: argparse.Namespace, beam_flags: list[str]) -> Manifest | None:
    """Prepares a data set, prints what was done, and returns its manifest; None where a job does it later.

    Raises:
        InputError: the user's input or flags are at fault; nothing is left at the output.
    """
    started = time.time()  # which the worker that finishes the job of a template knows, too
    inputs, feedback = _inputs(args), chosen_feedback(args)

    from nnsparse_stream.pipelines.command_metrics import prepared
    from nnsparse_stream.pipelines.metrics_file import MetricsFile
    from nnsparse_stream.pipelines.prepare_report import report
    from nnsparse_stream.pipelines.running import written_by_job
    from nnsparse_stream.ratings.input_plan import plan_inputs
    from nnsparse_stream.ratings.layout import FieldNames
    from nnsparse_stream.storage.matching import check_apart
    from nnsparse_stream.storage.output_directory import OutputDirectory

    metrics = MetricsFile(args.metrics_file, "prepare", beam_flags)
    output = OutputDirectory(args.output, contents=contents(), overwrite=args.overwrite)
    for some in inputs.values() if isinstance(inputs, Mapping) else [inputs]:
        check_apart(args.output, some)
    output.check()
    plan = plan_inputs(
        inputs,
        FieldNames(args.user_column, args.item_column, feedback.column, args.timestamp_column),
        file_format=args.format,
        dialect=chosen_dialect(args),
        id_type=args.id_type,
        duplicates=feedback.duplicates,
        timed_for=timed_flag(args),
        timestamp_unit=args.timestamp_unit,
    )
    check_apart(args.output, [file.url for file in plan.files])  # what globs matched
    base = _base(args, plan)
    features = row_features(args, plan, base)
    folds, selection = chosen_folds(args, plan), chosen_selection(args, plan, feedback.positive_from)
    with written_by_job(output, beam_flags):
        settings = _settings(args, plan, feedback, folds, selection, base)

        def finish(summary: dict[str, Any], sizes: dict[str, Sizes]) -> tuple[Manifest, dict[str, Sizes]]:
            manifest = with_features(args.output, _manifest(args, plan, feedback, selection, base, summary), features)
            output.complete(manifest.to_json())
            return manifest, sizes

        def tell(done: tuple[Manifest, dict[str, Sizes]]) -> None:
            manifest, sizes = done
            metrics.write(prepared(manifest))
            report(manifest, args.output, plan, sizes, described_features(features), time.time() - started)

        if beam_flags:
            done = prepare_by_beam(args, plan, settings, finish, tell, beam_flags)
        else:
            done = finish(*_run_here(args, plan, settings))
    if done is None:
        return None
    tell(done)
    return done[0]


def contents() -> tuple[str, ...]:
    """Patterns of the files that `prepare` writes; see `OutputDirectory`."""
    from nnsparse_stream.data.assembly import CONTENTS

    return (*CONTENTS, SUMMARY)


def _inputs(args: argparse.Namespace) -> Sequence[str] | Mapping[int, Sequence[str]]:
    """The input URLs, or those of each fold."""
    by_fold = {fold: getattr(args, flag) for fold, flag in enumerate(FILE_FLAGS) if getattr(args, flag)}
    if args.input and by_fold:
        raise InputError(f"--input and --{FILE_FLAGS[min(by_fold)]} contradict each other; give one of them")
    check_fold_flags(args)
    if args.input:
        return list(args.input)
    if 0 not in by_fold:
        raise InputError("there is no input: pass --input, or --train_input with --test_input or --validation_input")
    return by_fold


def _base(args: argparse.Namespace, plan: InputPlan) -> Manifest | None:
    """The manifest of the data set whose vocabulary goes on."""
    if args.vocabulary is None:
        return None
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.storage.matching import check_apart

    if args.min_column_ratings > 1:
        raise InputError("--vocabulary keeps every earlier column, so --min_column_ratings contradicts it; drop one")
    check_apart(args.output, [args.vocabulary])
    base = Manifest.read(args.vocabulary)
    if base.axis != args.axis:
        raise InputError(
            f"--vocabulary {args.vocabulary} has rows by {base.axis}: its columns are not those of --axis {args.axis}"
        )
    column = "item" if args.axis == "user" else "user"
    found = getattr(plan.schema, column)
    if found != base.column_id_type:
        raise InputError(
            f"--vocabulary {args.vocabulary} holds {column} ids of type {base.column_id_type}, and the input {found}; "
            f"pass --id_type {'string' if base.column_id_type == 'string' else 'int'}, or prepare without --vocabulary"
        )
    return base


def _earlier_vocabularies(base: Manifest | None) -> tuple[dict[str, Any], ...]:
    from nnsparse_stream.data.manifest import vocabulary_fingerprint

    if base is None:
        return ()
    return (
        *base.earlier_vocabularies,
        {"fingerprint": vocabulary_fingerprint(base), "num_columns": base.num_columns},
    )


def _settings(
    args: argparse.Namespace,
    plan: InputPlan,
    feedback: ChosenFeedback,
    folds: Folds | TimeShares | None,
    selection: Selection,
    base: Manifest | None,
) -> dict[str, Any]:
    """What is made of the ratings: keyword arguments of `prepare_here`, and of `PrepareShards`."""
    from nnsparse_stream.data.vocabulary_files import built_vocabulary
    from nnsparse_stream.ratings.reading import describe_pair

    return {
        "selection": selection,
        "duplicates": feedback.duplicates,
        "folds": folds,
        "num_shards": args.num_shards,
        "min_row_ratings": args.min_row_ratings,
        "min_column_ratings": args.min_column_ratings,
        "base": None if base is None else built_vocabulary(args.vocabulary, base),
        # Splits grow with the ratings, and with them the most ids that there can be.
        "partitions": min(max(16, len(plan.splits)), 4096),
        "describe_pair": functools.partial(describe_pair, plan.files, plan.schema, selection=selection),
    }


def _run_here(
    args: argparse.Namespace, plan: InputPlan, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Sizes]]:
    """Prepares in this process; returns what was counted, and sizes of what went between the steps."""
    from nnsparse_stream.data.local_run import prepare_here
    from nnsparse_stream.pipelines.prepare_report import STEPS
    from nnsparse_stream.storage.files import join

    done = prepare_here(plan, join(args.output, "dead_letters"), args.output, args.axis, **settings)
    summary = {
        "read": done.read,
        "filtered": done.filtered,
        "folds": done.folds,
        "vocabulary": done.vocabulary,
        "shards": done.shards,
    }
    return summary, dict(zip(STEPS.values(), (done.read_blocks, done.partitioned_blocks), strict=True))


def _manifest(
    args: argparse.Namespace,
    plan: InputPlan,
    feedback: ChosenFeedback,
    selection: Selection,
    base: Manifest | None,
    summary: dict[str, Any],
) -> Manifest:
    from nnsparse_stream.data.assembly import assemble_manifest, filters_to_json
    from nnsparse_stream.ratings.dead_letters import check_bad_records, span_of_times
    from nnsparse_stream.ratings.times import check_bounds

    read, bad = check_bad_records(summary["read"], args.max_bad_fraction)
    if len(summary["read"]) != len(plan.splits):
        raise RuntimeError(f"the runner lost or repeated splits: {len(plan.splits)} became {len(summary['read'])}")
    folds: Folds | None = summary["folds"]
    check_bounds(span_of_times(summary["read"]), selection.times, folds, plan.calendar)
    return assemble_manifest(
        axis=args.axis,
        user_type=plan.schema.user,
        item_type=plan.schema.item,
        folds=folds,
        feedback=feedback.feedback,
        duplicates=feedback.duplicates,
        filters=filters_to_json(selection, args.min_row_ratings, args.min_column_ratings),
        read=read,
        bad=bad,
        filtered=summary["filtered"],
        vocabulary=summary["vocabulary"],
        shards=summary["shards"],
        earlier_vocabularies=_earlier_vocabularies(base),
        input=plan.described(),
    )


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("prepare")
