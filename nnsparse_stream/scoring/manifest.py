"""The manifest of scores: what says that they are whole, and what they are of. docs/data-layout.md describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nnsparse_stream.scoring.combination import Combination
from nnsparse_stream.scoring.list_rules import ListRules

KIND = "nnsparse-stream scores"
SCHEMA_VERSION = 1
#: Readers of a directory of Parquet files pass over names that start with "_".
NAME = "_manifest.json"


def scores_manifest(
    states: Sequence[dict[str, Any]],
    combination: Combination,
    *,
    top_k: int | None,
    rules: ListRules,
    files: Sequence[dict[str, Any]],
    candidates: Sequence[tuple[int, int]] | None,
    bad_records: int,
    ratings_of_unknown_columns: int,
) -> dict[str, Any]:
    """What `_manifest.json` holds, as JSON values.

    Args:
        states: of the models' checkpoints, the first one's rows being those of the scores.
        combination: of the models' predictions.
        top_k: columns a row; None where pairs were predicted.
        rules: what lists hold.
        files: what `ScoreRatings` or `RankBlend` tell of each file, in any order.
        candidates: of the ids of columns that may be listed, in parts, how many there were and how many of these the
            vocabulary does not hold; None where all columns may be.
        bad_records: of the rating files and pairs.
        ratings_of_unknown_columns: how many ratings were left out, since the vocabulary does not hold their columns.
    """
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "axis": states[0]["axis"],
        **_models(states, combination),
        "top_k": top_k,
        "lists": None if top_k is None else _lists(rules, files, candidates),
        "pairs": None if top_k is not None else _pairs(files, len(states)),
        "rows": sum(file["rows"] for file in files),
        "files": sorted(
            ({name: file[name] for name in ("path", "rows", "bytes")} for file in files), key=lambda file: file["path"]
        ),
        "bad_records": bad_records,
        "ratings_of_unknown_columns": ratings_of_unknown_columns,
    }


def _lists(
    rules: ListRules, files: Sequence[dict[str, Any]], candidates: Sequence[tuple[int, int]] | None
) -> dict[str, Any]:
    """By which rules lists were made, how many, and how many of these for rows without a known rating."""
    ids, unknown = (sum(part[place] for part in candidates or []) for place in (0, 1))
    return {
        **asdict(rules),
        "candidates": None if candidates is None else {"ids": ids, "unknown": unknown},
        "rows": sum(file["lists"] for file in files),
        "rows_without_ratings": sum(file["cold"] for file in files),
    }


def _pairs(files: Sequence[dict[str, Any]], models: int) -> dict[str, list[int]]:
    """How many pairs are of rows, and of columns, that a model does not know: one number a model."""
    return {
        name: [sum(file[name][model] for file in files) for model in range(models)]
        for name in ("unknown_rows", "unknown_columns")
    }


def _models(states: Sequence[dict[str, Any]], combination: Combination) -> dict[str, Any]:
    """`model`, or of several `models`, `weights` and `intercept`."""
    if len(states) == 1:
        return {"model": {"step": states[0]["step"], "vocabulary": states[0]["vocabulary"]}}
    models = [{name: state[name] for name in ("axis", "step", "vocabulary")} for state in states]
    return {"models": models, "weights": list(combination.weights), "intercept": combination.intercept}
