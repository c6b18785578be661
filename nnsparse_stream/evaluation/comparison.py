"""A model's figures beside those of the baselines."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnsparse_stream.evaluation.baselines import BIASES, GLOBAL_MEAN, POPULARITY
from nnsparse_stream.evaluation.metric_sums import MetricSums, figures
from nnsparse_stream.evaluation.metrics import Metric, parse_metric

MODEL = "model"

#: What is judged (MODEL or a baseline's name), the part of the data set on which, and the sums there, whose counts of
#: listed columns are handed in apart.
PartSums = tuple[str, int, MetricSums]


def compare(
    parts: Iterable[PartSums], listed: Mapping[str, dict[int, np.ndarray]], metrics: Sequence[Metric], fold: str
) -> dict[str, Any]:
    """Adds up the sums of a model and of the baselines.

    Args:
        parts: of all parts of a data set, in any order: they are added up in the order of their numbers, since a float
            sum depends on it.
        listed: of what is judged by metrics of columns, the counts of listed columns over all parts.
        metrics: what was judged by.
        fold: the judged fold's name.

    Returns:
        As JSON values: fold; the model's figures, those of `MetricSums.report`; `baselines`: name, rmse, mae and
        metrics of each; and `better`: of each metric whether the model is better than all baselines that are judged by
        it, null where the model's value is.
    """
    ordered = sorted(parts, key=operator.itemgetter(1))

    def total(name: str) -> MetricSums | None:
        of_it = [sums for predictor, _, sums in ordered if predictor == name]
        whole = sum(of_it[1:], of_it[0]) if of_it else None
        return whole and dataclasses.replace(whole, listed=listed.get(name, {}))

    model = total(MODEL) or MetricSums.of(metrics, 0)
    baselines = {name: sums.values() for name in (GLOBAL_MEAN, BIASES, POPULARITY) if (sums := total(name))}
    values = model.values()
    return {
        "fold": fold,
        **model.report(),
        "baselines": [{"name": name, **figures(held)} for name, held in baselines.items()],
        "better": {
            metric.name: None
            if np.isnan(values[metric.name])
            else all(
                metric.is_better(values[metric.name], held[metric.name])
                for held in baselines.values()
                if metric.name in held
            )
            for metric in metrics
        },
    }


def not_beaten(found: dict[str, Any]) -> dict[str, list[str]]:
    """The metrics by which the model is not better than each of the baselines, of what `compare` returned."""
    worse = [name for name, better in found["better"].items() if better is False]
    return {
        baseline["name"]: [
            name
            for name in worse
            if name in baseline["metrics"]
            and not parse_metric(name).is_better(found["metrics"][name], baseline["metrics"][name])
        ]
        for baseline in found["baselines"]
    }
