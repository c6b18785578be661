"""A grid's figures as text, as a table for other programs, and as a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nnsparse_stream.evaluation.metrics import parse_metric
from nnsparse_stream.grids.grid_comparison import Outcome, by_comparison
from nnsparse_stream.training import report

# Lines of a chart that can be told apart.
_CURVES = 4


class _Table(NamedTuple):
    """A table; the first column holds names, and what a row has not is None."""

    header: list[str]
    rows: list[list[Any]]

    def text(self) -> list[str]:
        """Its lines, the names set left and all else right."""
        lines = [self.header, *([*map(_text, row)] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return [
            f"  {name:<{widths[0]}}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
            for name, *rest in lines
        ]

    def html(self, strong: int | None = None) -> str:
        """The same on a page, the row at index `strong` in bold."""
        return report.table(self.header, [["" if cell is None else cell for cell in row] for row in self.rows], strong)


def table_text(summary: Mapping[str, Any]) -> str:
    """The figures, of each data set and metric the best runs first, and which runs are the best.

    Args:
        summary: what grid.json holds.
    """
    comparisons = _comparisons(summary)
    parts = [[f"{metric} on the validation fold of {data}", *table.text()] for data, metric, table in comparisons]
    if summary["groups"]:
        parts.append(_over_seeds(summary).text())
    if failed := _failed(summary):
        parts.append([f"{name} failed: {why}" for name, why in failed])
    return "\n\n".join("\n".join(part) for part in [*parts, _verdicts(summary)])


def table_csv(summary: Mapping[str, Any]) -> str:
    """A line a run, in the grid's order, with its fields and figures; what a run has not is empty."""
    runs = summary["runs"]
    fields = dict.fromkeys(name for run in runs for name in run["fields"] if name not in ("data", "preset", "seed"))
    metrics = dict.fromkeys(name for run in runs for name in run["validation"] or {})
    ends = ("epochs_trained", "best_epoch", "best_value", "seconds", "failed")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "data", "preset", "seed", *fields, "metric", "value", *metrics, *ends])
    for run in runs:
        best, validation = run["best"] or {}, run["validation"] or {}
        values = [run["fields"].get(name) for name in fields]
        writer.writerow(
            [run["name"], run["data"], run["preset"], run["seed"]]
            + [" ".join(map(str, value)) if isinstance(value, list) else value for value in values]
            + [run["metric"], run["value"], *(validation.get(name) for name in metrics)]
            + [run["epochs"], best.get("epoch"), best.get("value"), run["seconds"], run["failed"]]
        )
    return text.getvalue()


def grid_report(summary: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The figures, and the best runs' by epoch, as an HTML page.

    Args:
        summary: what grid.json holds.
        outcomes: those of its runs.
    """
    curves = {outcome.name: outcome.curve for outcome in outcomes}
    best = {run["run"] for run in summary["best"]}
    parts = []
    for data, metric, table in _comparisons(summary):
        names = [row[0] for row in table.rows]
        strong = next((place for place, name in enumerate(names) if name in best), None)
        parts += [report.section(f"{metric} on the validation fold of {data}"), table.html(strong)]
        shown = [report.Series(name, *zip(*curves[name], strict=True)) for name in names if curves[name]]
        if shown:
            caption = f"{metric} on the validation fold by epoch, of the best runs."
            parts.append(report.line_chart(shown[:_CURVES], "epoch", metric, caption))
    if summary["groups"]:
        parts += [report.section("Over seeds"), _over_seeds(summary).html()]
    if failed := _failed(summary):
        parts += [report.section("Failed"), report.table(("run", "why"), failed)]
    return report.page("Training grid", " ".join(_verdicts(summary)), parts)


def _comparisons(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, _Table]]:
    """Data set and metric, and the runs there that have not failed, the best first."""
    for (data, metric), runs in by_comparison(summary["runs"]).items():
        ended = _sorted((run for run in runs if not run["failed"]), "value", metric)
        others = list(dict.fromkeys(name for run in ended for name in run["validation"] or {} if name != metric))
        rows = []
        for run in ended:
            best, validation = run["best"] or {}, run["validation"] or {}
            figures = [run["value"], *(validation.get(name) for name in others), run["epochs"]]
            rows.append([run["name"], *figures, best.get("epoch"), best.get("value"), f"{run['seconds']:.1f}"])
        if rows:
            header = ["run", metric, *others, "epochs", "best epoch", f"its {metric}", "seconds"]
            yield data, metric, _Table(header, rows)


def _sorted(found: Iterable[dict[str, Any]], figure: str, metric: str) -> list[dict[str, Any]]:
    """Runs or groups by a figure that is a value of a metric, the best first; at the end those that have none."""
    sign = -1 if parse_metric(metric).higher_is_better else 1
    return sorted(found, key=lambda each: math.inf if each[figure] is None else sign * each[figure])


def _over_seeds(summary: Mapping[str, Any]) -> _Table:
    rows = [
        [group["name"], group["metric"], len(group["runs"]), group["failed"], group["mean"], group["deviation"]]
        for (_, metric), groups in by_comparison(summary["groups"]).items()
        for group in _sorted(groups, "mean", metric)
    ]
    return _Table(["over seeds", "metric", "runs", "failed", "mean", "sd"], rows)


def _failed(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(run["name"], run["failed"]) for run in summary["runs"] if run["failed"]]


def _verdicts(summary: Mapping[str, Any]) -> list[str]:
    """Which run is the best, of each data set and metric."""
    groups = {(group["data"], group["metric"], group["name"]): group for group in summary["groups"]}
    told = []
    for best in summary["best"]:
        group = groups.get((best["data"], best["metric"], best["group"]))
        mean = f" (mean of {group['name']}: {group['mean']:.4f})" if group else ""
        told.append(f"The best by {best['metric']} on {best['data']}: {best['run']}, {best['value']:.4f}{mean}.")
    return told or ["No run is named the best: no two have figures of one metric on one data set."]


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
