"""The Beam pipeline of `score`: what is read, scored and written, and a summary of it for the driver."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import apache_beam as beam

    from nnsparse_stream.checkpoints.state import CheckpointState
    from nnsparse_stream.data.manifest import ColumnsFile
    from nnsparse_stream.ratings.id_files import IdFile
    from nnsparse_stream.ratings.input_plan import InputPlan
    from nnsparse_stream.scoring.blend import NamedModels
    from nnsparse_stream.scoring.list_rules import ListRules
    from nnsparse_stream.transforms.model_worker import ModelWorker

#: Where, in the output, the workers leave what the driver needs to know.
SUMMARY = "_summary.json"
DEFAULT_TOP_K = 10


def build_scoring(
    pipeline: beam.Pipeline,
    args: argparse.Namespace,
    models: NamedModels,
    ratings: InputPlan | None,
    pairs: InputPlan | None,
    rows: list[IdFile] | None,
    candidates: list[IdFile] | None,
    num_shards: int,
    features: Sequence[ColumnsFile],
    worker: ModelWorker,
) -> beam.PCollection[None]:
    """Applies everything that `score` does to a pipeline; leaves SUMMARY at the output.

    Args:
        pipeline: an empty one.
        args: the flags.
        models: the models, the first one's rows being those of the output.
        ratings: where the known ratings are raw files: how to read them.
        pairs: how to read the pairs that are to be predicted; None for top-K lists.
        rows: how to read the ids of the rows that are to have lists; None for all.
        candidates: how to read the ids of the columns that may be listed; None for all.
        num_shards: of the first model's rows.
        features: of the rows of raw files, see `ScoreRatings`.
        worker: what the steps that run a model ask for.

    Returns:
        One element, which is there when everything is written.
    """
    import apache_beam as beam

    from nnsparse_stream.ratings.folds import FOLD_NAMES, SHOWN
    from nnsparse_stream.storage.files import join
    from nnsparse_stream.transforms import ReadRatings
    from nnsparse_stream.transforms.read_ids import Candidates, KeySelected, ReadIds

    # What is shown of a row that is held out is there for the model to see, whichever fold is judged.
    folds = [FOLD_NAMES.index(fold) for fold in (*args.history_folds, *SHOWN)]
    read_pairs = read_ratings = unknown = None
    if pairs is not None:
        read_pairs = pipeline | "ReadPairs" >> ReadRatings(pairs, join(args.output, "_dead_letters", "pairs"))
    selected = listed = counts = None
    if rows is not None:
        selected = pipeline | "ReadRows" >> ReadIds(rows) | "KeyRows of lists" >> KeySelected(num_shards)
    if candidates is not None:
        ids = pipeline | "ReadCandidates" >> ReadIds(candidates)
        named = ids | "Candidates" >> Candidates(models.checkpoints[0].url)
        listed, counts = named.columns, named.counts
    lists: dict[str, Any] = {"rules": list_rules(args), "candidates": listed, "worker": worker}
    if len(models.checkpoints) > 1:
        written = _blended(pipeline, args, models, read_pairs, folds, lists, selected)
    else:
        written, read_ratings, unknown = _scored(
            pipeline, args, models, ratings, pairs, read_pairs, num_shards, folds, lists, selected, features
        )
    collections = (written, read_ratings, None if read_pairs is None else read_pairs.summaries, unknown, counts)
    sides = [[] if collection is None else beam.pvalue.AsList(collection) for collection in collections]
    return pipeline | "Once" >> beam.Impulse() | "Summarise" >> beam.Map(_write_summary, args.output, *sides)


def list_rules(args: argparse.Namespace) -> ListRules:
    """What lists hold, by the flags."""
    from nnsparse_stream.scoring.list_rules import ListRules

    return ListRules(args.exclude != "none", args.min_column_ratings or 1, args.explain or 0)


def _blended(
    pipeline: beam.Pipeline,
    args: argparse.Namespace,
    models: NamedModels,
    read_pairs: Any,
    folds: list[int],
    lists: dict[str, Any],
    selected: beam.PCollection | None,
) -> beam.PCollection:
    """The files of several models' scores."""
    from nnsparse_stream.transforms import BlendPairs, RankBlend

    what = ([checkpoint.url for checkpoint in models.checkpoints], models.data, models.combination, args.output)
    if read_pairs is not None:
        return read_pairs.ratings | "BlendPairs" >> BlendPairs(*what, folds=folds, worker=lists["worker"])
    rank = RankBlend(*what, top_k=args.top_k or DEFAULT_TOP_K, folds=folds, selected=selected, **lists)
    return pipeline | "RankBlend" >> rank


def _scored(
    pipeline: beam.Pipeline,
    args: argparse.Namespace,
    models: NamedModels,
    ratings: InputPlan | None,
    pairs: InputPlan | None,
    read_pairs: Any,
    num_shards: int,
    folds: list[int],
    lists: dict[str, Any],
    selected: beam.PCollection | None,
    features: Sequence[ColumnsFile],
) -> tuple[beam.PCollection, beam.PCollection | None, beam.PCollection | None]:
    """The files of one model's scores and, of raw ratings, summaries of their reading and counts of unknown columns."""
    import apache_beam as beam

    from nnsparse_stream.scoring.blocks import pair_block
    from nnsparse_stream.transforms import ScoreRatings
    from nnsparse_stream.transforms.score import KeyPairs, ShardsToScore

    (checkpoint,) = models.checkpoints
    axis = checkpoint.state["axis"]
    blocks, summaries, unknown = [], None, None
    if ratings is not None:
        rows, summaries, unknown = _raw_rows(pipeline, args, checkpoint, ratings, num_shards)
        blocks += rows
    else:
        blocks.append(pipeline | "Shards" >> ShardsToScore(models.data[0]))
    if selected is not None:
        blocks.append(selected)
    if pairs is not None:
        blocks.append(read_pairs.ratings | "KeyPairs" >> KeyPairs(axis, num_shards))
        # So that there is a file, with its columns, even where there is no pair.
        none = [(0, pair_block(pairs.empty_block(), axis))]
        blocks.append(pipeline | "NoPairs" >> beam.Create(none).with_output_types(_keyed_block()))
    written = (
        blocks
        | "Blocks" >> beam.Flatten()
        | "ScoreRatings"
        >> ScoreRatings(
            checkpoint.url,
            args.output,
            num_shards,
            top_k=None if pairs is not None else args.top_k or DEFAULT_TOP_K,
            folds=folds,
            only_selected=selected is not None,
            features=features,
            **lists,
        )
    )
    return written, summaries, unknown


def _raw_rows(
    pipeline: beam.Pipeline, args: argparse.Namespace, checkpoint: CheckpointState, plan: InputPlan, num_shards: int
) -> tuple[list[beam.PCollection], beam.PCollection, beam.PCollection]:
    """Raw ratings as keyed blocks of rows, the summaries of their reading, and counts of ratings of unknown columns."""
    import apache_beam as beam

    from nnsparse_stream.data.grouping import partition
    from nnsparse_stream.pipelines.feedback_options import chosen_feedback
    from nnsparse_stream.ratings.folds import HashFolds
    from nnsparse_stream.ratings.reading import describe_pair
    from nnsparse_stream.ratings.selection import Selection
    from nnsparse_stream.storage.files import join
    from nnsparse_stream.transforms import FilterRatings, ReadRatings, SparsifyRatings
    from nnsparse_stream.transforms.score import KnownColumns

    axis = checkpoint.state["axis"]
    feedback = chosen_feedback(args)
    selection = Selection(positive_from=feedback.positive_from)
    read = pipeline | "ReadRatings" >> ReadRatings(plan, join(args.output, "_dead_letters", "ratings"))
    kept = read.ratings | "FilterRatings" >> FilterRatings(selection)
    known = kept.ratings | "KnownColumns" >> KnownColumns(checkpoint.url, axis)
    vocabulary = pipeline | "Vocabulary" >> beam.Create([checkpoint.vocabulary_file()])
    rows = (
        known.ratings
        | "SparsifyRatings"
        >> SparsifyRatings(
            axis,
            vocabulary,
            plan.empty_block(),
            duplicates=feedback.duplicates,
            folds=HashFolds((100, 0, 0)),
            num_shards=num_shards,
            describe_pair=functools.partial(describe_pair, plan.files, plan.schema, selection=selection),
        )
        | "KeyRows" >> beam.Map(_key_rows).with_output_types(_keyed_block())
    )
    maybe_cold = known.rows | "KeyColdRows" >> beam.FlatMap(partition, "row", num_shards).with_output_types(
        _keyed_block()
    )
    return [rows, maybe_cold], read.summaries, known.unknown


def _key_rows(shard: tuple[int, int, Any, int, int]) -> tuple[int, Any]:
    return shard[0], shard[2]


def _keyed_block() -> Any:
    import pyarrow as pa

    return tuple[int, pa.RecordBatch]


def _write_summary(
    _: bytes,
    url: str,
    files: list[Any],
    ratings: list[Any],
    pairs: list[Any],
    unknown: list[int],
    candidates: list[Any],
) -> None:
    from nnsparse_stream.storage.files import join, to_json, write_file

    summary = {"files": files, "ratings": ratings, "pairs": pairs, "unknown": unknown, "candidates": candidates}
    write_file(join(url, SUMMARY), to_json(summary))
