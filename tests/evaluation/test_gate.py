from __future__ import annotations

import pytest

from nnsparse_stream.evaluation.gate import compare_models, told


@pytest.mark.parametrize(
    ("metric", "now", "before", "passed"),
    [
        ("rmse", 0.95, 0.94, True),
        ("rmse", 0.97, 0.94, False),  # less of it is better
        ("rmse", 0.50, 0.94, True),
        ("ndcg@10", 0.30, 0.31, True),
        ("ndcg@10", 0.28, 0.31, False),
        ("ndcg@10", 0.90, 0.31, True),
        ("rmse", None, 0.94, False),
        ("rmse", 0.95, None, True),
        ("rmse", None, None, False),
    ],
)
def test_a_metric_may_fall_by_its_limit(metric: str, now: float | None, before: float | None, passed: bool) -> None:
    (one,) = compare_models({metric: 0.02}, {metric: now}, {metric: before})
    assert one.passed is passed
    assert bool(told([one])) is not passed


def test_equal_figures_pass_without_any_room() -> None:
    (one,) = compare_models({"rmse": 0.0}, {"rmse": 0.9426}, {"rmse": 0.9426})
    assert one.passed


def test_each_metric_that_fell_is_told() -> None:
    compared = compare_models(
        {"rmse": 0.01, "ndcg@10": 0.01, "mae": 0.01}, {"rmse": 1.0, "ndcg@10": 0.2}, {"rmse": 0.9, "ndcg@10": 0.2}
    )
    assert told(compared) == [
        "rmse went from 0.9000 to 1.0000, and may be worse by 0.01",
        "mae could not be judged",
    ]
