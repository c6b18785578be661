"""The baselines: what `evaluate` says of them, against their definition over all ratings at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.evaluation.baselines import Baselines
from nnsparse_stream.evaluation.comparison import compare, not_beaten
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import parse_metrics
from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.evaluate import table
from nnsparse_stream.sparse.rows import SparseRows

METRICS = "rmse,mae,ndcg@7,coverage@3,gini@3"


def figures_of(trained, target: Path) -> dict:
    flags = ["--data", trained.data, "--model", trained.run, "--json", str(target), "--metrics", METRICS]
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
    assert [line["name"] for line in figures["baselines"]] == [*expected, "popularity"]
    for line in figures["baselines"][:2]:
        assert (line["rmse"], line["mae"]) == pytest.approx(expected[line["name"]], abs=1e-6)
        assert line["metrics"] == {"rmse": line["rmse"], "mae": line["mae"]}
        assert f"{line['name']:>39} {line['rmse']:>8.4f} {line['mae']:>8.4f}\n" in printed
    popularity = figures["baselines"][2]["metrics"]
    assert set(popularity) == set(METRICS.split(",")[2:])
    assert (
        f"{'popularity':>39} {'':>8} {'':>8} {popularity['ndcg@7']:>8.4f} {popularity['coverage@3']:>10.4f}" in printed
    )
    monkeypatch.setattr("nnsparse_stream.transforms.column_sums._COLUMNS_PER_KEY", 7)
    figures_of(trained, tmp_path / "cut.json")
    assert (tmp_path / "cut.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_model_that_is_not_better_is_told_so() -> None:
    metrics = parse_metrics(["rmse", "ndcg@5", "mae"])

    def part(name: str, number: int, **values: float) -> tuple[str, int, MetricSums]:
        judged = [metric for metric in metrics if metric.name.split("@")[0] in values]
        sums = MetricSums.of(judged, 0)
        sums.judged[0] = 1
        # One entry of a mean; RMSE's is of the square.
        for metric, terms in zip(judged, sums.terms, strict=True):
            value = values[metric.name.split("@")[0]]
            terms[0] = 1, value**2 if metric.name == "rmse" else value
        return name, number, sums

    parts = [
        part("row and column biases", 0, rmse=0.9, mae=0.7),
        part("model", 1, rmse=1.1, ndcg=0.3, mae=0.6),
        part("popularity", 0, ndcg=0.2),
        part("global mean", 0, rmse=1.5, mae=0.7),
        part("model", 0, rmse=0.7, ndcg=0.1, mae=0.6),
    ]
    figures = compare(parts, {}, metrics, "test")
    assert figures["metrics"] == pytest.approx({"rmse": np.sqrt((1.1**2 + 0.7**2) / 2), "ndcg@5": 0.2, "mae": 0.6})
    assert figures["better"] == {"rmse": False, "ndcg@5": False, "mae": True}
    worse = {"global mean": [], "row and column biases": ["rmse"], "popularity": ["ndcg@5"]}
    assert not_beaten(figures) == worse
    printed = table(figures, ["rmse", "ndcg@5", "mae"])
    assert "NOT better than row and column biases by rmse" in printed
    assert "NOT better than popularity by ndcg@5" in printed
    assert "The model is better than the baselines by mae." in printed
    nothing = compare([], {}, metrics, "test")
    assert nothing["better"] == {"rmse": None, "ndcg@5": None, "mae": None}
    assert not_beaten(nothing) == {}


@given(data=st.data())
def test_popularity_lists_what_a_row_does_not_know(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    k = data.draw(st.integers(1, 10))
    columns = st.lists(st.integers(0, len(counts) - 1), unique=True)
    known = [sorted(row) for row in data.draw(st.lists(columns, max_size=5))]
    rows = SparseRows.from_rows([(row, [1.0] * len(row)) for row in known], len(counts), torch.float32)
    popularity = Baselines(0.0, 1.0, len(counts)).predictors(np.zeros(len(counts)), np.array(counts))["popularity"]
    listed, scores = popularity.top_k(rows, k)
    for row, (found, score) in enumerate(zip(listed.tolist(), scores.tolist(), strict=True)):
        ranked = sorted(set(range(len(counts))) - set(known[row]), key=lambda column: (-counts[column], column))
        expected = [column for column in ranked if counts[column]][:k]
        padding = [-1] * (min(k, len(counts)) - len(expected))
        assert found == [*expected, *padding]
        assert score == [*(counts[column] for column in expected), *padding]
