"""`nnsparse-stream score`: a model and ratings to top-K lists, or to predictions at given pairs."""

from __future__ import annotations

import argparse
import functools
import json
import time
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from pipelines.options import add_format_arguments, positive_int, urls

if TYPE_CHECKING:
    import apache_beam as beam

    from nnsparse_stream.checkpoint import Checkpoint
    from nnsparse_stream.inputs import InputPlan

DESCRIPTION = """\
Score with a trained model: the best unseen columns of each row, or the predicted rating of given pairs.

The rows' known ratings come from a data set (--data) or from raw rating files (--input), which are read with the
model's own vocabulary. Writes Parquet files with row_id, column_id, score, and for top-K rank (from 1).

  nnsparse-stream score --model runs/ml --data data/ml --output scores/ml --top_k 10
  nnsparse-stream score --model runs/ml --input tonight.csv --output scores/tonight --pairs pairs.csv
"""

_SUMMARY = "_summary.json"
_FOLDS = ("train", "validation", "test")
# Bytes of the files of raw ratings, for one shard. Gzip and Parquet hold some ten times of what they weigh, so what is
# grouped under one key stays near 20 MB, which every engine sorts in memory.
_BYTES_PER_SHARD = 2 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `score`."""
    parser.add_argument(
        "--model", required=True, metavar="URL", help="a run's directory (its last checkpoint) or one checkpoint's"
    )
    parser.add_argument("--data", metavar="URL", help="data set that holds the rows and their known ratings")
    parser.add_argument(
        "--input", type=urls, metavar="URL[,URL...]", help="instead of --data: rating files with the known ratings"
    )
    parser.add_argument("--output", required=True, metavar="URL", help="directory of the scores")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--top_k", type=positive_int, metavar="K", help="unseen columns for each row, the best first (default: 10)"
    )
    what.add_argument(
        "--pairs",
        type=urls,
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
        "rated in these. To judge scores on the test fold, pass train",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the scores that lie in --output")
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
    started = time.monotonic()
    if bool(args.data) == bool(args.input):
        raise InputError("pass either --data or --input: where the rows' known ratings come from")

    from nnsparse_stream import storage
    from nnsparse_stream.checkpoint import load_model
    from nnsparse_stream.dataset import Dataset
    from nnsparse_stream.output import OutputDirectory
    from pipelines.running import run_pipeline
    from transforms.read import check_bad_records

    # Whatever is not Parquet has a name that starts with "_", which readers of a directory of Parquet files pass over.
    output = OutputDirectory(
        args.output,
        contents=("part-*.parquet", "_dead_letters/*.jsonl", _SUMMARY),
        completing="_manifest.json",
        overwrite=args.overwrite,
    )
    storage.check_apart(args.output, [args.model, *([args.data] if args.data else args.input), *(args.pairs or [])])
    output.check()
    checkpoint = load_model(args.model)
    ratings = pairs = None
    if args.data:
        dataset = Dataset(args.data)
        checkpoint.check_data(dataset.manifest, args.data)
        num_shards = len(dataset.shards)
    else:
        ratings = _plan(args, args.input, checkpoint, with_rating=True)
        size = sum(storage.file_size(file.url) for file in ratings.files)
        num_shards = max(1, -(-size // _BYTES_PER_SHARD))
    if args.pairs:
        pairs = _plan(args, args.pairs, checkpoint, with_rating=False)
    matched = [file.url for plan in (ratings, pairs) if plan for file in plan.files]
    storage.check_apart(args.output, matched)  # what globs matched
    output.begin()
    try:
        build = functools.partial(
            _build, args=args, checkpoint=checkpoint, ratings=ratings, pairs=pairs, num_shards=num_shards
        )
        run_pipeline(build, beam_flags)
        summary = json.loads(storage.read_file(storage.join(args.output, _SUMMARY)))
        bad = [check_bad_records(summary[what], args.max_bad_fraction)[1] for what in ("ratings", "pairs")]
        output.remove(_SUMMARY)
        manifest = {
            "kind": "nnsparse-stream scores",
            "schema_version": 1,
            "axis": checkpoint.state["axis"],
            "model": {"step": checkpoint.state["step"], "vocabulary": checkpoint.state["vocabulary"]},
            "top_k": None if args.pairs else args.top_k or 10,
            "rows": sum(file["rows"] for file in summary["files"]),
            "files": sorted(summary["files"], key=lambda file: file["path"]),
            "bad_records": sum(bad),
            "ratings_of_unknown_columns": sum(summary["unknown"]),
        }
        output.complete(storage.to_json(manifest))
    except BaseException:
        output.abort()
        raise
    _report(manifest, args.output, time.monotonic() - started)
    return manifest


def _plan(args: argparse.Namespace, files: list[str], checkpoint: Checkpoint, with_rating: bool) -> InputPlan:
    """Plans to read files with ids of the model's types."""
    from nnsparse_stream.formats import FieldNames
    from nnsparse_stream.inputs import plan_inputs

    state = checkpoint.state
    types = {"user": state["row_id_type"], "item": state["column_id_type"]}
    if state["axis"] == "item":
        types = {"user": types["item"], "item": types["user"]}
    names = FieldNames(args.user_column, args.item_column)._replace(
        rating=args.rating_column if with_rating else None, timestamp=args.timestamp_column if with_rating else None
    )
    plan = plan_inputs(files, names, file_format=args.format, id_type=args.id_type, duplicates=args.duplicates)
    for field, wanted in types.items():
        if wanted == "int64" and getattr(plan.schema, field) == "string":
            raise InputError(
                f"{plan.files[0].url}: its {field} ids are strings, and those of the model integers; pass --id_type "
                f"int to count those that are no integers as bad records, or another --{field}_column"
            )
    # Ids that look like integers are read as the strings that they are to the model.
    return plan._replace(schema=plan.schema._replace(**types))


def _build(
    pipeline: beam.Pipeline,
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    ratings: InputPlan | None,
    pairs: InputPlan | None,
    num_shards: int,
) -> None:
    import apache_beam as beam

    from nnsparse_stream.folds import FOLDS
    from nnsparse_stream.storage import join
    from transforms import ReadRatings, ScoreRatings
    from transforms.score import KeyPairs, pair_block

    axis = checkpoint.state["axis"]
    dead_letters = join(args.output, "_dead_letters")
    blocks, read_ratings, read_pairs, unknown = [], [], [], []
    if ratings is None:
        if pairs is None:
            empty = _empty_rows(checkpoint)
            shards = [(shard, empty) for shard in range(num_shards)]
            blocks.append(pipeline | "Shards" >> beam.Create(shards).with_output_types(_keyed_block()))
    else:
        rows, summaries, left_out = _raw_rows(pipeline, args, checkpoint, ratings, num_shards)
        blocks += rows
        read_ratings, unknown = [summaries], [left_out]
    if pairs is not None:
        read = pipeline | "ReadPairs" >> ReadRatings(pairs, join(dead_letters, "pairs"))
        blocks.append(read.ratings | "KeyPairs" >> KeyPairs(axis, num_shards))
        # So that there is a file, with its columns, even where there is no pair.
        none = [(0, pair_block(pairs.empty_block(), axis))]
        blocks.append(pipeline | "NoPairs" >> beam.Create(none).with_output_types(_keyed_block()))
        read_pairs = [read.summaries]
    written = (
        blocks
        | "Blocks" >> beam.Flatten()
        | "ScoreRatings"
        >> ScoreRatings(
            checkpoint.url,
            args.output,
            num_shards,
            top_k=None if pairs is not None else args.top_k or 10,
            folds=[FOLDS.index(fold) for fold in args.history_folds],
            data=args.data,
        )
    )
    lists = [
        beam.pvalue.AsList(collections[0]) if collections else []
        for collections in ([written], read_ratings, read_pairs, unknown)
    ]
    _ = pipeline | "Once" >> beam.Impulse() | "Summarise" >> beam.Map(_write_summary, args.output, *lists)


def _raw_rows(
    pipeline: beam.Pipeline, args: argparse.Namespace, checkpoint: Checkpoint, plan: InputPlan, num_shards: int
) -> tuple[list[beam.PCollection], beam.PCollection, beam.PCollection]:
    """Raw ratings as keyed blocks of rows, the summaries of their reading, and counts of ratings of unknown columns."""
    import apache_beam as beam

    from nnsparse_stream.grouping import HashFolds, partition
    from nnsparse_stream.reading import describe_pair
    from nnsparse_stream.storage import join
    from transforms import ReadRatings, SparsifyRatings
    from transforms.score import KnownColumns

    axis = checkpoint.state["axis"]
    read = pipeline | "ReadRatings" >> ReadRatings(plan, join(args.output, "_dead_letters", "ratings"))
    known = read.ratings | "KnownColumns" >> KnownColumns(checkpoint.url, axis)
    vocabulary = pipeline | "Vocabulary" >> beam.Create([checkpoint.vocabulary_file()])
    rows = (
        known.ratings
        | "SparsifyRatings"
        >> SparsifyRatings(
            axis,
            vocabulary,
            plan.empty_block(),
            duplicates=args.duplicates,
            folds=HashFolds((100, 0, 0)),
            num_shards=num_shards,
            describe_pair=functools.partial(describe_pair, plan.files, plan.schema),
        )
        | "KeyRows" >> beam.Map(_key_rows).with_output_types(_keyed_block())
    )
    maybe_cold = known.rows | "KeyColdRows" >> beam.FlatMap(partition, "row", num_shards).with_output_types(
        _keyed_block()
    )
    return [rows, maybe_cold], read.summaries, known.unknown


def _key_rows(shard: tuple[int, int, Any, int]) -> tuple[int, Any]:
    return shard[0], shard[2]


def _keyed_block() -> Any:
    import pyarrow as pa

    return tuple[int, pa.RecordBatch]


def _empty_rows(checkpoint: Checkpoint) -> Any:
    import pyarrow as pa

    from nnsparse_stream.dataset import shard_schema

    kinds = {"int64": pa.int64(), "string": pa.string()}
    schema = shard_schema(kinds[checkpoint.state["row_id_type"]])
    return pa.RecordBatch.from_pylist([], schema=schema)


def _write_summary(
    _: bytes, url: str, files: list[Any], ratings: list[Any], pairs: list[Any], unknown: list[int]
) -> None:
    from nnsparse_stream.storage import join, to_json, write_file

    summary = {"files": files, "ratings": ratings, "pairs": pairs, "unknown": unknown}
    write_file(join(url, _SUMMARY), to_json(summary))


def _report(manifest: dict[str, Any], url: str, seconds: float) -> None:
    wanted = "predicted pairs" if manifest["top_k"] is None else f"top {manifest['top_k']} of each {manifest['axis']}"
    lines = [
        ("scores", url),
        ("rows written", f"{manifest['rows']:,} ({wanted}) in {len(manifest['files']):,} files"),
        ("time", f"{seconds:.1f} s"),
    ]
    if manifest["bad_records"]:
        lines.append(("bad records", f"{manifest['bad_records']:,} (see {url.rstrip('/')}/_dead_letters)"))
    if manifest["ratings_of_unknown_columns"]:
        count = manifest["ratings_of_unknown_columns"]
        lines.append(("left out", f"{count:,} ratings of columns that the model's vocabulary does not hold"))
    print("\n".join(f"{name:<13} {text}" for name, text in lines))


if __name__ == "__main__":
    from pipelines.cli import run_module

    run_module("score")
