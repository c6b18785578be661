"""What a prepared data set's directory holds, and its manifest out of what the stages of preparation counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from nnsparse_stream.data.features import VOCABULARY, FeaturesFile, FeatureVocabulary, features_parquet
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.data.manifest import ColumnsFile, Manifest, ShardFile
from nnsparse_stream.data.statistics import RatingStatistics, add_statistics
from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.folds import Folds
from nnsparse_stream.ratings.selection import Feedback, Selection
from nnsparse_stream.storage import files as storage

#: Patterns of the files that preparation writes, beside the manifest; for `OutputDirectory`.
DATA_FILES = ("columns/part-#-of-#.parquet", "rows/shard-#-of-#.parquet", "features/part-#-of-#.parquet", VOCABULARY)
DEAD_LETTERS = ("dead_letters/#-#-#.jsonl",)
CONTENTS = (*DATA_FILES, *DEAD_LETTERS)


def filters_to_json(selection: Selection, min_row_ratings: int, min_column_ratings: int) -> dict[str, int | float]:
    """The manifest's "filters": those that leave anything out."""
    times, positive = selection.times, selection.positive_from
    if positive is not None and positive == int(positive):
        positive = int(positive)  # 4 and 4.0 are one filter, so they give the same bytes
    bounds = {"time_from": times.start, "time_to": times.end, "positive_from": positive}
    least = {"min_row_ratings": min_row_ratings, "min_column_ratings": min_column_ratings}
    return {
        **{name: bound for name, bound in bounds.items() if bound is not None},
        **{name: count for name, count in least.items() if count > 1},
    }


def assemble_manifest(
    *,
    axis: str,
    user_type: str,
    item_type: str,
    folds: Folds | None,
    feedback: Feedback,
    duplicates: str,
    filters: Mapping[str, int | float],
    read: int,
    bad: int,
    filtered: int,
    vocabulary: Mapping[str, Any],
    shards: Iterable[Mapping[str, Any]],
    earlier_vocabularies: tuple[dict[str, Any], ...] = (),
    input: tuple[dict[str, Any], ...] = (),
) -> Manifest:
    """Adds up what the stages counted, and checks that no rating was lost on the way.

    Args:
        axis: "user" or "item", the axis of the rows.
        user_type, item_type: of the ids: "int64" or "string".
        folds: how the ratings were folded; None where they came with their folds.
        feedback: what the values are: "explicit" or "implicit".
        duplicates: the policy.
        filters: from `filters_to_json`.
        read, bad: records that were read, and those of them that could not be read as ratings.
        filtered: ratings left out before the vocabulary was built.
        vocabulary: what `nnsparse_stream.data.vocabulary_files.describe_built` gave: `files` and `ratings`.
        shards: what `nnsparse_stream.data.shard_steps.write_grouped` gave for each shard, in any order.
        earlier_vocabularies, input: see `Manifest`.

    Raises:
        InputError: no rating is left, or none to train on.
        RuntimeError: the counts do not agree: the runner lost or repeated ratings.
    """
    if bad == read:
        raise InputError("there is no rating in the input")
    shards = sorted(shards, key=lambda shard: shard["shard"])
    files = tuple(ShardFile(**shard["file"]) for shard in shards)
    statistics = add_statistics(
        RatingStatistics(tuple(entries), *numbers) for entries, *numbers in (shard["statistics"] for shard in shards)
    )
    merged, left_out = (sum(shard[name] for shard in shards) for name in ("merged", "filtered"))
    counted = vocabulary["ratings"]
    num_entries = sum(file.entries for file in files)
    if read != bad + filtered + counted or counted != num_entries + merged + left_out:
        raise RuntimeError(
            f"the runner lost or repeated ratings: of {read - bad} read it left out {filtered} and counted {counted}; "
            f"of these it wrote {num_entries}, merged {merged} and left out {left_out}"
        )
    if not num_entries:
        raise InputError(f"no rating is left of {read - bad}: the filters {dict(filters)} leave all of them out")
    if folds and folds.timed and not statistics.fold_entries[0]:
        raise InputError(
            f"no rating comes before the first cut in time, so there is nothing to train on: {folds.to_json()}; where "
            "the time column holds integers, a date is taken for Unix seconds"
        )
    columns = tuple(ColumnsFile(**file) for file in vocabulary["files"])
    row_type, column_type = (user_type, item_type) if axis == "user" else (item_type, user_type)
    return Manifest(
        axis=axis,
        row_id_type=row_type,
        column_id_type=column_type,
        num_columns=sum(file.rows for file in columns),
        num_rows=sum(file.rows for file in files),
        num_entries=num_entries,
        fold_entries=statistics.entries_by_fold(),
        folds=folds.to_json() if folds else {"method": "files"},
        ratings=statistics.to_json(),
        records={"read": read, "bad": bad, "filtered": filtered + left_out, "duplicates": merged},
        duplicates=duplicates,
        columns=columns,
        shards=files,
        filters=dict(filters),
        feedback=feedback,
        earlier_vocabularies=earlier_vocabularies,
        input=input,
    )


def write_row_features(url: str, manifest: Manifest, vocabulary: FeatureVocabulary, lists: pa.Table) -> Manifest:
    """Writes the features of rows to a data set whose shards are there: the vocabulary, and a file for each shard.

    Args:
        url: the data set's directory.
        manifest: of the data set so far.
        vocabulary: of the features.
        lists: from `FeatureVocabulary.encode`; also of rows without a rating.

    Returns:
        The manifest with the features.
    """
    shards = manifest.shards
    files = write_features(url, len(shards), lists)
    data = vocabulary.to_parquet()
    storage.write_file(storage.join(url, VOCABULARY), data)
    return dataclasses.replace(
        manifest,
        shards=tuple(dataclasses.replace(shard, features=file) for shard, file in zip(shards, files, strict=True)),
        features=FeaturesFile(VOCABULARY, len(vocabulary), len(data), storage.sha256(data), vocabulary.fields),
    )


def write_features(url: str, num_shards: int, lists: pa.Table) -> list[ColumnsFile]:
    """Writes the features of rows, a file for each shard; the same features give the same bytes.

    Args:
        url: the data set's directory.
        num_shards: how many there are; a row's features are with its own shard.
        lists: from `FeatureVocabulary.encode`; also of rows without a rating.

    Returns:
        The manifest's entries for the files, by shard.
    """
    parts = dict(partition(lists.combine_chunks().to_batches()[0], "row", num_shards)) if len(lists) else {}
    files = []
    for shard in range(num_shards):
        part = pa.Table.from_batches([parts[shard]] if shard in parts else [], lists.schema)
        path, data = f"features/part-{shard:05d}-of-{num_shards:05d}.parquet", features_parquet(part)
        storage.write_file(storage.join(url, path), data)
        files.append(ColumnsFile(path, len(part), len(data), storage.sha256(data)))
    return files
