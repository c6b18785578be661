"""What became of a grid's runs, and which of them are the best: those of one data set and one metric are compared."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.metrics import parse_metric
from nnsparse_stream.grids.grid import GridRun
from nnsparse_stream.training.run import TrainingRequest

KIND = "nnsparse-stream grid"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Member:
    """A run of a grid, and what it asks for."""

    run: GridRun
    request: TrainingRequest

    @property
    def metric(self) -> str:
        """The metric by which it is judged."""
        return self.request.metrics()[0].name


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        name: the run's.
        failed: why there is no model, or None.
        epochs: that were trained.
        seconds: that training took, without validation.
        validation: the metrics of the run's model on the validation fold, by name; None where it was not judged.
        best: the best epoch as run.json has it; without `patience` the model is the last epoch's.
        curve: the metric that decides, as epoch and value of each epoch that was judged.
    """

    name: str
    failed: str | None = None
    epochs: int = 0
    seconds: float = 0.0
    validation: dict[str, float] | None = None
    best: dict[str, Any] | None = None
    curve: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, name: str, summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Outcome:
        """That of a run that ended well.

        Args:
            name: the run's.
            summary: its run.json.
            history: its metrics, one an epoch.
        """
        best, step = summary["best"], int(summary["checkpoint"].rsplit("-", 1)[1])
        judged = [line for line in history if line["validation"]]
        return cls(
            name,
            epochs=summary["epochs"],
            seconds=round(sum(line["seconds"] for line in history), 3),
            validation=next((line["validation"] for line in judged if line["step"] == step), None),
            best=best,
            curve=tuple((line["epoch"], line["validation"][best["metric"]]) for line in judged),
        )


def check_comparable(members: Iterable[Member], manifests: Mapping[str, Manifest]) -> None:
    """Refuses a grid whose runs are to be compared where nothing can judge them.

    Runs that differ in their seed alone, or in their data set, need not be compared: they are an ensemble.

    Args:
        members: the runs.
        manifests: of their data sets, by URL.

    Raises:
        InputError: a data set has no validation fold, and runs on it differ in more than their seed.
    """
    found: dict[tuple[str, str], Member] = {}
    for member in members:
        data = member.request.data
        other = found.setdefault((data, member.metric), member)
        if other.run.configuration != member.run.configuration and not manifests[data].fold_entries["validation"]:
            raise InputError(
                f"{data} has no validation fold, by which {other.run.name} and {member.run.name} are to be compared: "
                "prepare it with other `folds`"
            )


def compared(members: Sequence[Member], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """What grid.json holds.

    Args:
        members: the grid's runs, in its order.
        outcomes: one each, in any order.

    Returns:
        `runs`; `groups`, those that differ in their seed alone, with mean and sample standard deviation of their
        figures; and `best`, of each data set and metric the best run, which of several configurations is one of the
        configuration whose mean is the best: of those without a failed run, as long as there is one.
    """
    by_name = {outcome.name: outcome for outcome in outcomes}
    runs: list[dict[str, Any]] = []
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for member in members:
        run = _run(member, by_name[member.run.name])
        runs.append(run)
        key = (run["data"], run["metric"], member.run.configuration)
        groups.setdefault(key, {"name": member.run.group, "runs": []})["runs"].append(run)
    found = [_group(**held) for held in groups.values()]
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "runs": runs,
        "groups": [group for group in found if len(group["runs"]) > 1],
        "best": _best(found, {run["name"]: run["value"] for run in runs}),
    }


def _run(member: Member, outcome: Outcome) -> dict[str, Any]:
    request, metric = member.request, member.metric
    fields = {name: list(held) if isinstance(held, tuple) else held for name, held in member.run.fields.items()}
    return {
        "name": member.run.name,
        "fields": fields,
        "data": request.data,
        "preset": request.preset,
        "seed": request.seed,
        "metric": metric,
        "value": outcome.validation[metric] if outcome.validation else None,
        **{name: held for name, held in asdict(outcome).items() if name not in ("name", "curve")},
    }


def _group(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    values = [run["value"] for run in runs if run["value"] is not None]
    return {
        "name": name,
        "data": runs[0]["data"],
        "metric": runs[0]["metric"],
        "runs": [run["name"] for run in runs],
        "failed": sum(run["failed"] is not None for run in runs),
        "mean": statistics.mean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def _best(groups: Iterable[dict[str, Any]], values: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """The best run of each data set and metric that the grid has two runs of or more, and one with a figure."""
    found = []
    for (data, metric), rivals in by_comparison(groups).items():
        sign = -1 if parse_metric(metric).higher_is_better else 1
        judged = [group for group in rivals if group["mean"] is not None]
        if not judged or sum(len(group["runs"]) for group in rivals) == 1:
            continue
        best = min(judged, key=lambda group: (group["failed"] > 0, sign * group["mean"]))
        value, run = min((sign * value, name) for name in best["runs"] if (value := values[name]) is not None)
        found.append({"data": data, "metric": metric, "group": best["name"], "run": run, "value": sign * value})
    return found


def by_comparison(found: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Runs or groups by what they are compared within: data set and metric."""
    parts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in found:
        parts.setdefault((each["data"], each["metric"]), []).append(each)
    return parts
