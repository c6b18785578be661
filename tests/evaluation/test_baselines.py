"""The baselines: what `evaluate` says of them, against their definition over all ratings at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.evaluation.comparison import not_beaten
from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.evaluate import table


def figures_of(trained, target: Path) -> dict:
    flags = ["--data", trained.data, "--model", trained.run, "--json", str(target)]
    assert cli.main(["evaluate", *flags]) == 0
    return json.loads(target.read_text())


def defined(data: str) -> dict[str, tuple[float, float]]:
    """RMSE and MAE on the test fold by the formulas of `nnsparse_stream.evaluation.baselines`."""
    rows, columns, values, folds = [], [], [], []
    for number, row in enumerate(row for batch in Dataset(data).batches() for row in batch.to_pylist()):
        rows += [number] * len(row["columns"])
        columns, values, folds = columns + row["columns"], values + row["values"], folds + row["fold"]
    row, column, value, fold = map(np.array, (rows, columns, values, folds))
    train, test = fold == 0, fold == 2
    mean = value[train].mean()

    def damped(of: np.ndarray, other: np.ndarray) -> np.ndarray:
        size = of.max() + 1
        sums = np.bincount(of[train], (value - mean - other)[train], size)
        return (sums / (np.bincount(of[train], minlength=size) + 5))[of]

    column_bias = np.zeros(len(value))
    for _ in range(2):
        column_bias = damped(column, damped(row, column_bias))
    biased = mean + damped(row, column_bias) + column_bias
    errors = {"global mean": mean - value[test], "row and column biases": (biased - value)[test]}
    return {name: (float(np.sqrt((some**2).mean())), float(np.abs(some).mean())) for name, some in errors.items()}


def test_figures_are_those_of_the_formulas_however_the_columns_are_cut(trained, tmp_path, capsys, monkeypatch) -> None:
    figures = figures_of(trained, tmp_path / "whole.json")
    expected, printed = defined(trained.data), capsys.readouterr().out
    assert [line["name"] for line in figures["baselines"]] == list(expected)
    for line in figures["baselines"]:
        assert (line["rmse"], line["mae"]) == pytest.approx(expected[line["name"]], abs=1e-6)
        assert f"{line['name']:>39} {line['rmse']:>8.4f} {line['mae']:>8.4f}" in printed
    monkeypatch.setattr("nnsparse_stream.transforms.baselines._COLUMNS_PER_KEY", 7)
    figures_of(trained, tmp_path / "cut.json")
    assert (tmp_path / "cut.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_model_that_is_not_better_is_told_so() -> None:
    baselines = [{"name": "global mean", "rmse": 1.0, "mae": 0.5}, {"name": "biases", "rmse": 0.9, "mae": 0.5}]
    figures = {"fold": "test", "count": 1, "rmse": 0.95, "mae": 0.5, "buckets": [], "baselines": baselines}
    assert not_beaten(figures) == ["biases"]
    assert "NOT better than the biases" in table(figures)
    assert not_beaten({**figures, "rmse": 1.0}) == ["global mean", "biases"]
    assert not_beaten({**figures, "rmse": 0.8}) == []
    assert "NOT" not in table({**figures, "rmse": 0.8})
