"""A model's errors beside those of the baselines."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from nnsparse_stream.evaluation.baselines import BIASES, GLOBAL_MEAN
from nnsparse_stream.evaluation.prediction_errors import ErrorSums

MODEL = "model"

#: What is judged (MODEL or a baseline's name), the part of the data set on which, and the errors there.
PartErrors = tuple[str, int, ErrorSums]


def compare(parts: Iterable[PartErrors], fold: str) -> dict[str, Any]:
    """Adds up the errors of a model and of the baselines.

    Args:
        parts: of all parts of a data set, in any order: they are added up in the order of their numbers, since a float
            sum depends on it.
        fold: the judged fold's name.

    Returns:
        The model's figures as JSON values, those of `ErrorSums.report`, and `baselines`: name, rmse and mae of each.
    """
    ordered = sorted(parts, key=operator.itemgetter(1))

    def total(name: str) -> ErrorSums:
        return sum((sums for predictor, _, sums in ordered if predictor == name), ErrorSums())

    baselines = [(name, total(name)) for name in (GLOBAL_MEAN, BIASES)]
    return {
        **total(MODEL).report(fold),
        "baselines": [{"name": name, "rmse": sums.rmse, "mae": sums.mae} for name, sums in baselines],
    }


def not_beaten(figures: dict[str, Any]) -> list[str]:
    """The names of the baselines whose RMSE the model's does not beat, of what `compare` returned."""
    return [baseline["name"] for baseline in figures["baselines"] if not figures["rmse"] < baseline["rmse"]]
