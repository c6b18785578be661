"""Features of rows, as `prepare` makes them of a file and `score` reads them by a model's vocabulary."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nnsparse_stream.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from nnsparse_stream.checkpoints.state import CheckpointState
    from nnsparse_stream.data.features import FeatureVocabulary
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.ratings.input_plan import InputPlan


def add_row_features_argument(parser: argparse.ArgumentParser, explanation: str) -> None:
    """Adds the flag that names a file of features."""
    parser.add_argument("--row_features", metavar="URL", help=explanation)


def row_features(
    args: argparse.Namespace, plan: InputPlan, base: Manifest | None
) -> tuple[FeatureVocabulary, pa.Table] | None:
    """The vocabulary of the rows' features, and those of each record; None where no file is named.

    Args:
        args: the flags of `prepare`.
        plan: of the ratings.
        base: of the data set whose vocabularies go on.

    Raises:
        InputError: the file cannot be used, or it is missing and the earlier data set has features.
    """
    if args.row_features is None:
        if base is not None and base.features is not None:
            raise InputError(f"--vocabulary {args.vocabulary} has features of its rows; pass --row_features, too")
        return None
    from nnsparse_stream.data.features import FeatureVocabulary
    from nnsparse_stream.ratings.side_table import read_side_table
    from nnsparse_stream.storage.matching import check_apart

    check_apart(args.output, [args.row_features])
    records = read_side_table(args.row_features, getattr(plan.schema, args.axis), args.encoding)
    if base is not None and base.features is not None:
        vocabulary = FeatureVocabulary.read(args.vocabulary, base.features)
    else:
        vocabulary = FeatureVocabulary.of(records)
    return vocabulary, vocabulary.encode(records, args.row_features)


def with_features(url: str, manifest: Manifest, features: tuple[FeatureVocabulary, pa.Table] | None) -> Manifest:
    """Writes what `row_features` gave to a data set whose shards are there; returns its manifest."""
    from nnsparse_stream.data.assembly import write_row_features

    return manifest if features is None else write_row_features(url, manifest, *features)


def described_features(features: tuple[FeatureVocabulary, pa.Table] | None) -> list[tuple[str, str]]:
    """The report's line of them."""
    if features is None:
        return []
    from nnsparse_stream.data.features import describe_fields

    vocabulary, lists = features
    return [("row features", f"{describe_fields(vocabulary)}; {len(lists):,} records")]


def scored_features(args: argparse.Namespace, checkpoint: CheckpointState) -> pa.Table | None:
    """The features of the rows of raw files, by the model's vocabulary of them; None where it reads none.

    Args:
        args: the flags of `score`.
        checkpoint: the model.

    Raises:
        InputError: they are needed and not given, or given and not read.
    """
    from nnsparse_stream.data.features import FeatureVocabulary
    from nnsparse_stream.ratings.side_table import read_side_table

    wanted = checkpoint.features if args.input else None
    if wanted is None:
        if args.row_features:
            reason = f"the model in {checkpoint.url} reads no features" if args.input else "--data has its own features"
            raise InputError(f"{reason}; leave out --row_features")
        return None
    if not args.row_features:
        raise InputError(f"the model in {checkpoint.url} reads features of rows: pass --row_features")
    records = read_side_table(args.row_features, checkpoint.state["row_id_type"], args.encoding)
    return FeatureVocabulary.read(checkpoint.run, wanted).encode(records, args.row_features)
