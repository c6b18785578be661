"""Comparing a grid's runs: within a data set and a metric, in its direction, by the mean over seeds."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from samples import Trained

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.grids.grid import grid_runs
from nnsparse_stream.grids.grid_comparison import Member, Outcome, check_comparable, compared
from nnsparse_stream.grids.grid_tables import grid_report, table_csv, table_text
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.training.run import TrainingRequest


def members_of(grid: Any) -> list[Member]:
    """A grid's runs, on the data set `data` unless it names others."""
    found = []
    for run in grid_runs(grid, "grid.json"):
        fields = {"data": "data", "preset": "cfn", "seed": 0, **run.fields}
        request = TrainingRequest(
            fields["data"], f"out/runs/{run.name}", recipe(fields["preset"]), fields["preset"], seed=fields["seed"]
        )
        found.append(Member(run, request))
    return found


def outcome(member: Member, value: float | None, **figures: float) -> Outcome:
    """One that has the value by the metric that decides, or none."""
    metric = member.metric
    if value is None:
        return Outcome(member.run.name, epochs=2, seconds=1.0)
    best = {"epoch": 1, "step": 5, "metric": metric, "value": value - 0.5}
    return Outcome(
        member.run.name, None, 2, 1.0, {metric: value, **figures}, best, curve=((1, value - 0.5), (2, value))
    )


def outcomes_of(members: list[Member], *values: float | str | None) -> list[Outcome]:
    """Of each run its value; or why it failed."""
    return [
        Outcome(member.run.name, failed=value) if isinstance(value, str) else outcome(member, value)
        for member, value in zip(members, values, strict=True)
    ]


def best_of(grid: Any, *values: float | str | None) -> list[tuple[str, str, str, float]]:
    members = members_of(grid)
    found = compared(members, reversed(outcomes_of(members, *values)))["best"]
    return [(best["data"], best["metric"], best["run"], best["value"]) for best in found]


def test_the_best_is_so_in_the_metrics_direction() -> None:
    assert best_of({"epochs": [1, 2, 3]}, 0.9, 0.8, 0.85) == [("data", "rmse", "epochs_2", 0.8)]
    assert best_of({"preset": "ranking-dense", "epochs": [1, 2, 3]}, 0.3, 0.1, 0.2) == [
        ("data", "ndcg@100", "epochs_1", 0.3)
    ]
    assert best_of({"seed": [0, 1]}, 0.9, 0.8) == [("data", "rmse", "seed_1", 0.8)]


def test_runs_are_compared_within_a_metric_and_a_data_set() -> None:
    assert best_of({"preset": ["cfn", "best", "ranking-dense", "linear"]}, 0.9, 0.8, 0.2, 0.3) == [
        ("data", "rmse", "best", 0.8),
        ("data", "ndcg@100", "linear", 0.3),
    ]
    both = [{"data": "items", "epochs": [1, 2]}, {"data": "users", "epochs": [1, 2]}]
    assert best_of(both, 0.9, 0.8, 0.7, 0.75) == [
        ("items", "rmse", "items-epochs_2", 0.8),
        ("users", "rmse", "users-epochs_1", 0.7),
    ]
    assert best_of([{"data": "items"}, {"data": "users"}], 0.9, 0.8) == []


def test_configurations_are_compared_by_their_mean_over_seeds() -> None:
    grid = {"epochs": [1, 2], "seed": [0, 1, 2]}
    assert best_of(grid, 0.70, 0.90, 0.92, 0.80, 0.82, 0.81) == [("data", "rmse", "epochs_2-seed_0", 0.80)]
    # What failed with one seed is no choice, unless all have.
    assert best_of(grid, 0.90, 0.90, 0.90, 0.80, "diverged", 0.81) == [("data", "rmse", "epochs_1-seed_0", 0.90)]
    assert best_of(grid, 0.90, "diverged", 0.90, 0.80, "diverged", 0.81) == [("data", "rmse", "epochs_2-seed_0", 0.80)]
    members = members_of(grid)
    outcomes = outcomes_of(members, 1.0, 2.0, 3.0, 1.0, "diverged", None)
    one, other = compared(members, outcomes)["groups"]
    assert one == {
        "name": "epochs_1", "data": "data", "metric": "rmse", "failed": 0, "mean": 2.0, "deviation": 1.0,
        "runs": ["epochs_1-seed_0", "epochs_1-seed_1", "epochs_1-seed_2"],
    }  # fmt: skip
    assert (other["mean"], other["deviation"], other["failed"]) == (1.0, None, 1)
    assert (
        compared(members_of({"epochs": [1, 2]}), outcomes_of(members_of({"epochs": [1, 2]}), 1.0, 2.0))["groups"] == []
    )


def test_a_run_without_a_rival_that_ended_well_is_the_best() -> None:
    assert best_of({"epochs": [1, 2]}, "diverged", 0.9) == [("data", "rmse", "epochs_2", 0.9)]
    assert best_of({"epochs": [1, 2]}, "diverged", None) == []


def test_a_run_is_judged_by_the_checkpoint_that_is_its_model() -> None:
    history = [
        {"epoch": epoch, "step": 10 * epoch, "seconds": 1.5, "validation": validation}
        for epoch, validation in ((1, None), (2, {"rmse": 0.8}), (3, {"rmse": 0.9}))
    ]
    best = {"epoch": 2, "step": 20, "metric": "rmse", "value": 0.8}
    for step, value in ((20, 0.8), (30, 0.9)):
        summary = {"checkpoint": f"checkpoints/step-{step:09d}", "epochs": 3, "best": best}
        found = Outcome.of("run", summary, history)
        assert found.validation == {"rmse": value}
        assert (found.seconds, found.best, found.curve) == (4.5, best, ((2, 0.8), (3, 0.9)))
    # It was ended within an epoch.
    assert Outcome.of("run", {**summary, "checkpoint": "checkpoints/step-000000025"}, history).validation is None


def test_what_is_to_be_compared_needs_a_validation_fold(trained: Trained) -> None:
    manifest = Manifest.read(trained.data)
    without = replace(manifest, fold_entries={**manifest.fold_entries, "validation": 0})
    search = members_of({"epochs": [1, 2]})
    check_comparable(search, {"data": manifest})
    with pytest.raises(InputError, match="data has no validation fold, by which epochs_1 and epochs_2 are to be"):
        check_comparable(search, {"data": without})
    for grid in ({"seed": [0, 1]}, [{"data": "items"}, {"data": "users"}], {"preset": ["cfn", "linear"]}):
        check_comparable(members_of(grid), dict.fromkeys(("data", "items", "users"), without))


def test_tables() -> None:
    members = members_of(
        [{"hidden": [[8, 4]], "seed": [0, 1], "epochs": 2}, {"preset": "linear"}, {"learning_rate": 1}]
    )
    outcomes = [
        outcome(members[0], 0.9, mae=0.7),
        outcome(members[1], 0.8, mae=0.75),
        outcome(members[2], None),
        Outcome(members[3].run.name, failed="it diverged, alas"),
    ]
    summary = compared(members, outcomes)
    assert (
        table_text(summary)
        == """\
rmse on the validation fold of data
  run                           rmse     mae  epochs  best epoch  its rmse  seconds
  hidden_8x4-seed_1-epochs_2  0.8000  0.7500       2           1    0.3000      1.0
  hidden_8x4-seed_0-epochs_2  0.9000  0.7000       2           1    0.4000      1.0

ndcg@100 on the validation fold of data
  run     ndcg@100  epochs  best epoch  its ndcg@100  seconds
  linear                 2                                1.0

  over seeds           metric  runs  failed    mean      sd
  hidden_8x4-epochs_2    rmse     2       0  0.8500  0.0707

learning_rate_1 failed: it diverged, alas

The best by rmse on data: hidden_8x4-seed_1-epochs_2, 0.8000 (mean of hidden_8x4-epochs_2: 0.8500)."""
    )
    rows = list(csv.DictReader(io.StringIO(table_csv(summary))))
    assert [row["run"] for row in rows] == [member.run.name for member in members]
    assert rows[0]["hidden"] == "8 4"
    assert (rows[1]["value"], rows[1]["mae"], rows[1]["epochs"], rows[1]["best_value"]) == (
        "0.8",
        "0.75",
        "2",
        str(0.8 - 0.5),
    )
    assert (rows[3]["value"], rows[3]["failed"], rows[3]["learning_rate"]) == ("", "it diverged, alas", "1.0")
    page = grid_report(summary, outcomes)
    assert '<tr class="strong"><td>hidden_8x4-seed_1' in page
    assert page.count("<polyline") == 2
    assert "it diverged, alas" in page
    alone = members_of({})
    assert "No run is named the best" in table_text(compared(alone, outcomes_of(alone, 0.9)))
