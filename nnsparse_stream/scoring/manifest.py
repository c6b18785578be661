"""The manifest of scores: what says that they are whole, and what they are of. docs/data-layout.md describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsparse_stream.scoring.combination import Combination

KIND = "nnsparse-stream scores"
SCHEMA_VERSION = 1
#: Readers of a directory of Parquet files pass over names that start with "_".
NAME = "_manifest.json"


def scores_manifest(
    states: Sequence[dict[str, Any]],
    combination: Combination,
    *,
    top_k: int | None,
    files: Sequence[dict[str, Any]],
    bad_records: int,
    ratings_of_unknown_columns: int,
) -> dict[str, Any]:
    """What `_manifest.json` holds, as JSON values.

    Args:
        states: of the models' checkpoints, the first one's rows being those of the scores.
        combination: of the models' predictions.
        top_k: columns a row; None where pairs were predicted.
        files: `path`, `rows` and `bytes` of each file, in any order.
        bad_records: of the rating files and pairs.
        ratings_of_unknown_columns: how many ratings were left out, since the vocabulary does not hold their columns.
    """
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "axis": states[0]["axis"],
        **_models(states, combination),
        "top_k": top_k,
        "rows": sum(file["rows"] for file in files),
        "files": sorted(files, key=lambda file: str(file["path"])),
        "bad_records": bad_records,
        "ratings_of_unknown_columns": ratings_of_unknown_columns,
    }


def _models(states: Sequence[dict[str, Any]], combination: Combination) -> dict[str, Any]:
    """`model`, or of several `models`, `weights` and `intercept`."""
    if len(states) == 1:
        return {"model": {"step": states[0]["step"], "vocabulary": states[0]["vocabulary"]}}
    models = [{name: state[name] for name in ("axis", "step", "vocabulary")} for state in states]
    return {"models": models, "weights": list(combination.weights), "intercept": combination.intercept}
