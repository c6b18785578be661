"""What is told of a night: as JSON values, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.pipelines.nightly_ledger import GATE, NIGHTS, SUMMARY, Night
from nnsparse_stream.storage import files as storage
from nnsparse_stream.training import report


def summary(night: Night) -> dict[str, Any]:
    """The figures of a night whose gate has decided.

    Returns:
        kind, night, previous; `gate`: passed, judged_on and the metrics, as gate.json holds them; `data`: sizes of the
        data set, and new_columns, which the one before has not; `scores`: rows of the lists or predictions, None where
        the gate has refused; `seconds` of the stages that are done.
    """
    manifest, gate = Manifest.read(night.at("data")), storage.read_json(night.at(GATE), "what a gate decides")
    earlier = [entry["num_columns"] for entry in manifest.earlier_vocabularies]
    scores = storage.read_json(night.at("scores", "_manifest.json"), "scores") if gate["passed"] else None
    return {
        "kind": "nnsparse-stream summary of a night",
        "night": night.date,
        "previous": night.ledger.previous,
        "gate": gate,
        "data": {
            "rows": manifest.num_rows,
            "columns": manifest.num_columns,
            "new_columns": manifest.num_columns - earlier[-1] if earlier else manifest.num_columns,
            "entries": manifest.num_entries,
            "fold_entries": manifest.fold_entries,
            "bad_records": manifest.records["bad"],
        },
        "scores": None if scores is None else scores["rows"],
        "seconds": {name: held.seconds for name, held in night.ledger.stages.items() if held.seconds is not None},
    }


def page(output: str, found: dict[str, Any], earlier: Sequence[str]) -> str:
    """The page of a night.

    Args:
        output: URL of the directory of all nights.
        found: what `summary` gave.
        earlier: the nights before it that lie there.
    """
    gate, data = found["gate"], found["data"]
    lead = (
        f"Published: {found['scores']:,} scores."
        if gate["passed"]
        else f"Not published: the gate refused the model. What was published stays: {found['previous'] or 'nothing'}."
    )
    compared = [
        (
            one["metric"],
            _shown(one["before"]),
            _shown(one["now"]),
            f"{one['limit']:g}",
            "yes" if one["passed"] else "NO",
        )
        for one in gate["metrics"]
    ]
    told = f"The model before was judged on the ratings of {gate['judged_on']}." if gate["judged_on"] else ""
    sizes = [("rows", data["rows"]), ("columns", data["columns"]), ("new columns", data["new_columns"]),
             ("ratings", data["entries"]), ("bad records", data["bad_records"])]  # fmt: skip
    parts = [
        report.section("Gate", told),
        report.table(("metric", "before", "now", "may fall by", "passed"), compared),
        report.section("Data set"),
        report.table(("", "count"), sizes),
        report.section("Time"),
        report.table(("stage", "seconds"), [(name, f"{seconds:,.1f}") for name, seconds in found["seconds"].items()]),
        *_history(output, found, earlier),
    ]
    return report.page(f"Night of {found['night']}", lead, parts)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _history(output: str, found: dict[str, Any], earlier: Sequence[str]) -> list[str]:
    """This night's metrics below those of the nights that are still there."""
    urls = [storage.join(output, NIGHTS, date, SUMMARY) for date in earlier]
    nights = [storage.read_json(url, "the summary of a night") for url in urls if storage.exists(url)]
    names = [one["metric"] for one in found["gate"]["metrics"]]
    rows = []
    for night in [*nights, found]:
        values = {one["metric"]: one["now"] for one in night["gate"]["metrics"]}
        figures = [_shown(values.get(name)) for name in names]
        rows.append((night["night"], *figures, "yes" if night["gate"]["passed"] else "NO"))
    return [report.section("Nights"), report.table(("night", *names, "published"), rows, strong=len(rows) - 1)]
