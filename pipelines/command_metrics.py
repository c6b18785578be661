"""What each command's metrics file says, of what the command made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnsparse_stream.pipelines.metrics_file import Sample

if TYPE_CHECKING:
    from nnsparse_stream.data.manifest import Manifest


def prepared(manifest: Manifest) -> list[Sample]:
    """Of a data set that `prepare` has written."""
    records, earlier = manifest.records, manifest.earlier_vocabularies
    outcomes = {"read": "read", "bad": "bad", "filtered": "filtered", "duplicate": "duplicates"}
    return [
        *(Sample("records", records[name], {"outcome": outcome}) for outcome, name in outcomes.items()),
        Sample("rows", manifest.num_rows),
        Sample("columns", manifest.num_columns),
        Sample("new_columns", manifest.num_columns - (earlier[-1]["num_columns"] if earlier else 0)),
        *(Sample("entries", count, {"fold": fold}) for fold, count in manifest.fold_entries.items()),
        *(Sample("rating", value, {"statistic": name}) for name, value in manifest.ratings.items()),
    ]


def trained(run: dict[str, Any]) -> list[Sample]:
    """Of a run that `train` has ended, from its run.json."""
    last = run["metrics"]
    return [
        Sample("epochs", run["epochs"]),
        Sample("steps", run["steps"]),
        *(Sample("validation", value, {"metric": name}) for name, value in (last["validation"] or {}).items()),
        Sample("ratings_per_second", last["ratings_per_second"]),
    ]


def evaluated(figures: dict[str, Any]) -> list[Sample]:
    """Of what `evaluate` has judged."""
    fold = {"fold": figures["fold"]}
    judged = [("model", figures["metrics"]), *((one["name"], one["metrics"]) for one in figures["baselines"])]
    return [
        *(
            Sample("quality", value, {**fold, "of": of, "metric": name})
            for of, metrics in judged
            for name, value in metrics.items()
        ),
        Sample("judged_entries", figures["count"], fold),
    ]


def scored(
    manifest: dict[str, Any],
    ratings: tuple[int, int],
    pairs: tuple[int, int],
    entries: dict[str, int] | None,
    history_folds: Sequence[str],
) -> list[Sample]:
    """Of scores that `score` has written.

    Args:
        manifest: of the scores.
        ratings, pairs: records that were read, and of these the bad ones.
        entries: of the data set by fold, where rows' known ratings come from; None where from `ratings`.
        history_folds: what of the data set the model sees.
    """
    lists, (read, bad) = manifest["lists"], ratings
    known = read - bad
    if entries is not None:
        known = sum(count for fold, count in entries.items() if fold.removesuffix("_shown") in history_folds)
    return [
        Sample("records", read + pairs[0], {"outcome": "read"}),
        Sample("records", bad + pairs[1], {"outcome": "bad"}),
        Sample("scores", manifest["rows"]),
        Sample("known_entries", known),
        Sample("unknown_entries", manifest["ratings_of_unknown_columns"]),
        Sample("rows_without_ratings", None if lists is None else lists["rows_without_ratings"]),
    ]


def streamed(figures: dict[str, Any]) -> list[Sample]:
    """Of a stream that goes on in this process, or has ended."""
    counters = {
        "events_total": "events",
        "late_events_total": "late",
        "dead_letters_total": "dead",
        "scored_rows_total": "rows",
        "known_entries_total": "entries",
        "unknown_entries_total": "unknown",
        "window_files_total": "files",
        "windows_total": "windows",
        "waiting_events": "waiting",
        "lag_seconds": "lag",
        "model_step": "model_step",
    }
    return [Sample(name, figures[figure]) for name, figure in counters.items()]
