"""`nnsparse-stream prepare`: rating files to a sharded sparse data set."""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from pipelines.options import add_format_arguments, positive_int, urls

if TYPE_CHECKING:
    import apache_beam as beam

    from nnsparse_stream.dataset import Manifest
    from nnsparse_stream.grouping import HashFolds
    from nnsparse_stream.inputs import InputPlan

DESCRIPTION = """\
Turn rating files into a data set: shards of sparse rows, a vocabulary of the columns, and a manifest.

The same ratings give the same shards, byte for byte, in whatever files and order they come. A run that was killed
leaves a directory that the same command recognises and begins anew.

  nnsparse-stream prepare --input ratings.csv --output data/mine --axis user
  nnsparse-stream prepare --train_input u1.base --test_input u1.test --output data/u1 --axis item
"""

_SUMMARY = "_summary.json"
_FOLD_FLAGS = ("train_input", "validation_input", "test_input")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare`."""
    parser.add_argument(
        "--input",
        type=urls,
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
    folds = parser.add_argument_group("folds")
    folds.add_argument(
        "--folds",
        type=_percent,
        metavar="T,V,E",
        help="percent of the ratings for train, validation and test, by a hash of user, item and seed (default: "
        "90,0,10)",
    )
    folds.add_argument("--fold_seed", type=int, default=0, metavar="N", help="of that hash (default: 0)")
    for flag in _FOLD_FLAGS:
        folds.add_argument(f"--{flag}", type=urls, metavar="URL[,URL...]", help=f"rating files of the {flag[:-6]} fold")
    add_format_arguments(parser)


def _percent(text: str) -> tuple[float, float, float]:
    wanted = "three percentages of train, validation and test that sum to 100, as 80,10,10"
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
    if len(parts) != 3 or any(not 0 <= part <= 100 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    if abs(sum(parts) - 100) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} sums to {sum(parts):g}, and is to be {wanted}")
    train, validation, test = (int(part) if part == int(part) else part for part in parts)
    return train, validation, test


def run(args: argparse.Namespace, beam_flags: list[str]) -> Manifest:
    """Prepares a data set, prints what was done, and returns its manifest.

    Raises:
        InputError: the user's input or flags are at fault; nothing is left at the output.
    """
    started = time.monotonic()
    inputs = _inputs(args)

    from nnsparse_stream.formats import FieldNames
    from nnsparse_stream.grouping import HashFolds
    from nnsparse_stream.inputs import plan_inputs
    from nnsparse_stream.output import OutputDirectory
    from nnsparse_stream.storage import check_apart
    from pipelines.running import run_pipeline

    output = OutputDirectory(
        args.output,
        contents=("columns/part-*.parquet", "rows/shard-*.parquet", "dead_letters/*.jsonl", _SUMMARY),
        overwrite=args.overwrite,
    )
    for some in inputs.values() if isinstance(inputs, Mapping) else [inputs]:
        check_apart(args.output, some)
    output.check()
    plan = plan_inputs(
        inputs,
        FieldNames(args.user_column, args.item_column, args.rating_column, args.timestamp_column),
        file_format=args.format,
        id_type=args.id_type,
        duplicates=args.duplicates,
    )
    check_apart(args.output, [file.url for file in plan.files])  # what globs matched
    base = _base(args, plan)
    folds = HashFolds(args.folds or (90, 0, 10), args.fold_seed) if args.input else None
    output.begin()
    try:
        run_pipeline(functools.partial(_build, args=args, plan=plan, folds=folds, base=base), beam_flags)
        manifest = _manifest(args, plan, folds, base)
        output.remove(_SUMMARY)
        output.complete(manifest.to_json())
    except BaseException:
        output.abort()
        raise
    _report(manifest, args.output, len(plan.files), time.monotonic() - started)
    return manifest


def _inputs(args: argparse.Namespace) -> Sequence[str] | Mapping[int, Sequence[str]]:
    """The input URLs, or those of each fold."""
    by_fold = {fold: getattr(args, flag) for fold, flag in enumerate(_FOLD_FLAGS) if getattr(args, flag)}
    if args.input and by_fold:
        raise InputError(f"--input and --{_FOLD_FLAGS[min(by_fold)]} contradict each other; give one of them")
    if args.input:
        return list(args.input)
    if 0 not in by_fold:
        raise InputError("there is no input: pass --input, or --train_input with --test_input or --validation_input")
    if args.folds:
        raise InputError("--folds and --train_input contradict each other; give one of them")
    return by_fold


def _base(args: argparse.Namespace, plan: InputPlan) -> Manifest | None:
    """The manifest of the data set whose vocabulary goes on."""
    if args.vocabulary is None:
        return None
    from nnsparse_stream.dataset import Manifest
    from nnsparse_stream.storage import check_apart

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
    from nnsparse_stream.dataset import vocabulary_fingerprint

    if base is None:
        return ()
    return (
        *base.earlier_vocabularies,
        {"fingerprint": vocabulary_fingerprint(base), "num_columns": base.num_columns},
    )


def _build(
    pipeline: beam.Pipeline, args: argparse.Namespace, plan: InputPlan, folds: HashFolds | None, base: Manifest | None
) -> None:
    import apache_beam as beam

    from nnsparse_stream.reading import describe_pair
    from nnsparse_stream.storage import join
    from transforms import BuildVocabulary, ReadRatings, SparsifyRatings, WriteShards
    from transforms.vocabulary import built_vocabulary

    column = "item" if args.axis == "user" else "user"
    read = pipeline | "ReadRatings" >> ReadRatings(plan, join(args.output, "dead_letters"))
    vocabulary = read.ratings | "BuildVocabulary" >> BuildVocabulary(
        column,
        getattr(plan.schema, column),
        args.output,
        base=None if base is None else built_vocabulary(args.vocabulary, base),
        # Splits grow with the ratings, and with them the most ids that there can be.
        partitions=min(max(16, len(plan.splits)), 4096),
    )
    shards = (
        read.ratings
        | "SparsifyRatings"
        >> SparsifyRatings(
            args.axis,
            vocabulary,
            plan.empty_block(),
            duplicates=args.duplicates,
            folds=folds,
            num_shards=args.num_shards,
            describe_pair=functools.partial(describe_pair, plan.files, plan.schema),
        )
        | "WriteShards" >> WriteShards(args.output)
    )
    _ = (
        pipeline
        | "Once" >> beam.Impulse()
        | "Summarise"
        >> beam.Map(
            _write_summary,
            args.output,
            beam.pvalue.AsList(read.summaries),
            beam.pvalue.AsSingleton(vocabulary),
            beam.pvalue.AsList(shards),
        )
    )


def _write_summary(
    _: bytes, url: str, read: list[dict[str, Any]], vocabulary: dict[str, Any], shards: list[dict[str, Any]]
) -> None:
    """Brings the small results of all workers to the driver, on any runner: through the output's own storage."""
    from nnsparse_stream.storage import join, write_file

    write_file(join(url, _SUMMARY), json.dumps({"read": read, "vocabulary": vocabulary, "shards": shards}).encode())


def _manifest(args: argparse.Namespace, plan: InputPlan, folds: HashFolds | None, base: Manifest | None) -> Manifest:
    from nnsparse_stream.dataset import ColumnsFile, Manifest, ShardFile
    from nnsparse_stream.folds import FOLDS
    from nnsparse_stream.rating_statistics import RatingStatistics, add_statistics
    from nnsparse_stream.storage import join, read_file
    from transforms.read import check_bad_records

    summary = json.loads(read_file(join(args.output, _SUMMARY)))
    read, bad = check_bad_records(summary["read"], args.max_bad_fraction)
    if bad == read:
        raise InputError("there is no rating in the input")
    shards = sorted(summary["shards"], key=lambda shard: shard["shard"])
    files = tuple(ShardFile(**shard["file"]) for shard in shards)
    statistics = add_statistics(
        RatingStatistics(tuple(entries), *numbers) for entries, *numbers in (shard["statistics"] for shard in shards)
    )
    columns = tuple(ColumnsFile(**file) for file in summary["vocabulary"]["files"])
    row_type, column_type = plan.schema.user, plan.schema.item
    if args.axis == "item":
        row_type, column_type = column_type, row_type
    return Manifest(
        axis=args.axis,
        row_id_type=row_type,
        column_id_type=column_type,
        num_columns=sum(file.rows for file in columns),
        num_rows=sum(file.rows for file in files),
        num_entries=sum(file.entries for file in files),
        fold_entries=dict(zip(FOLDS, statistics.fold_entries, strict=True)),
        folds={"method": "hash", "percent": list(folds.percent), "seed": folds.seed} if folds else {"method": "files"},
        ratings=statistics.to_json(),
        records={"read": read, "bad": bad, "duplicates": sum(shard["merged"] for shard in shards)},
        duplicates=args.duplicates,
        columns=columns,
        shards=files,
        earlier_vocabularies=_earlier_vocabularies(base),
    )


def _report(manifest: Manifest, url: str, num_files: int, seconds: float) -> None:
    records, size = manifest.records, sum(shard.bytes for shard in manifest.shards)
    column = "item" if manifest.axis == "user" else "user"
    folds = ", ".join(f"{fold} {count:,}" for fold, count in manifest.fold_entries.items())
    lines = [
        ("data set", url),
        ("records read", f"{records['read']:,} from {num_files:,} file{'s' if num_files > 1 else ''}"),
        ("bad records", f"{records['bad']:,}" + (f" (see {url.rstrip('/')}/dead_letters)" if records["bad"] else "")),
        ("duplicates", f"{records['duplicates']:,} merged (policy: {manifest.duplicates})"),
        ("rows", f"{manifest.num_rows:,} {manifest.axis}s ({manifest.row_id_type} ids)"),
        ("columns", f"{manifest.num_columns:,} {column}s ({manifest.column_id_type} ids)"),
        ("entries", f"{manifest.num_entries:,}: {folds}"),
        ("shards", f"{len(manifest.shards):,}, {size / 1e6:,.1f} MB"),
        ("time", f"{seconds:.1f} s, {records['read'] / max(seconds, 1e-9):,.0f} records/s"),
    ]
    print("\n".join(f"{name:<13} {text}" for name, text in lines))


if __name__ == "__main__":
    from pipelines.cli import run_module

    run_module("prepare")
