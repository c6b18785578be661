"""Sums of metrics, in bounded memory, also by how many entries of a row the model knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnsparse_stream.evaluation.metrics import ColumnMetric, ErrorMetric, JudgedLists, ListMetric, Metric

#: Lower bounds of the buckets of rows by their number of known entries.
BUCKETS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass
class MetricSums:
    """Sums of the terms of some metrics by bucket; they add up over blocks, shards and workers.

    The order of adding matters in the last bits of the float sums alone.

    Attributes:
        metrics: the metrics.
        judged: int64 (buckets, 2): rows with a judged entry, judged entries.
        terms: float64 (metrics, buckets, 2): how many terms a metric has, and their sum; 0 for metrics of columns.
        listed: int64 (columns,) for each K of a metric of columns: the number of lists that each column is in.
    """

    metrics: tuple[Metric, ...]
    judged: np.ndarray
    terms: np.ndarray
    listed: dict[int, np.ndarray]

    @classmethod
    def of(cls, metrics: Sequence[Metric], num_columns: int) -> MetricSums:
        """Nothing judged yet, by metrics of a data set of so many columns."""
        lengths = {metric.k for metric in metrics if isinstance(metric, ColumnMetric)}
        return cls(
            tuple(metrics),
            np.zeros((len(BUCKETS), 2), dtype=np.int64),
            np.zeros((len(metrics), len(BUCKETS), 2)),
            {k: np.zeros(num_columns, dtype=np.int64) for k in sorted(lengths)},
        )

    def __add__(self, other: MetricSums) -> MetricSums:
        listed = {k: counts + other.listed[k] for k, counts in self.listed.items()}
        return MetricSums(self.metrics, self.judged + other.judged, self.terms + other.terms, listed)

    def add_rows(self, known: np.ndarray, judged: np.ndarray) -> None:
        """Counts the rows of a block.

        Args:
            known: (rows,), each row's number of known entries.
            judged: (rows,), each row's number of judged entries.
        """
        buckets = _buckets(known)
        self.judged[:, 0] += np.bincount(buckets[judged > 0], minlength=len(BUCKETS))
        self.judged[:, 1] += np.bincount(buckets, weights=judged, minlength=len(BUCKETS)).astype(np.int64)

    def add_errors(self, known: np.ndarray, rows: np.ndarray, errors: np.ndarray) -> None:
        """Adds the terms that the predicted ratings of a block have.

        Args:
            known: (rows,), each row's number of known entries.
            rows: (entries,), the row of each judged entry.
            errors: (entries,), prediction less rating.
        """
        buckets, errors = _buckets(known)[rows], errors.astype(np.float64)
        for metric, sums in zip(self.metrics, self.terms, strict=True):
            if isinstance(metric, ErrorMetric):
                _add(sums, buckets, metric.terms(errors))

    def add_lists(self, known: np.ndarray, lists: JudgedLists) -> None:
        """Adds the terms that the lists of a block have.

        Args:
            known: (rows,), each row's number of known entries.
            lists: of the same rows.
        """
        buckets = _buckets(known)
        for metric, sums in zip(self.metrics, self.terms, strict=True):
            if isinstance(metric, ListMetric):
                _add(sums, buckets, metric.of_rows(lists))
        for k, counts in self.listed.items():
            columns = lists.columns[:, :k]
            np.add.at(counts, columns[columns >= 0], 1)

    def values(self) -> dict[str, float]:
        """Each metric by its name; NaN where nothing was judged."""
        values = self._of_terms(self.terms.sum(1))
        for metric in self.metrics:
            if isinstance(metric, ColumnMetric):
                values[metric.name] = metric.of_columns(self.listed[metric.k]) if self.judged.any() else math.nan
        return {metric.name: values[metric.name] for metric in self.metrics}

    def report(self) -> dict[str, Any]:
        """The figures as JSON values, NaN as null.

        Returns:
            count (of judged entries), rmse and mae (null where they are not among the metrics), metrics; and buckets of
            the rows with a judged entry: min_ratings and max_ratings (known entries), rows, and the same figures, but
            for metrics of columns, which are of all lists together.
        """
        buckets = []
        for index, (rows, count) in enumerate(self.judged.tolist()):
            if count:
                bound = BUCKETS[index + 1] - 1 if index + 1 < len(BUCKETS) else None
                bounds = {"min_ratings": BUCKETS[index], "max_ratings": bound, "rows": rows}
                buckets.append({**bounds, "count": count, **figures(self._of_terms(self.terms[:, index]))})
        return {"count": int(self.judged[:, 1].sum()), **figures(self.values()), "buckets": buckets}

    def _of_terms(self, terms: np.ndarray) -> dict[str, float]:
        """The metrics that have terms, float64 (metrics, 2)."""
        means = {
            metric: total / count if count else math.nan
            for metric, (count, total) in zip(self.metrics, terms.tolist(), strict=True)
        }
        return {
            metric.name: metric.of_mean(mean) if isinstance(metric, ErrorMetric) else mean
            for metric, mean in means.items()
            if not isinstance(metric, ColumnMetric)
        }


def figures(values: dict[str, float]) -> dict[str, Any]:
    """Metrics as JSON values: rmse and mae, null where they are not among them, and metrics; NaN is null."""
    metrics = {name: None if math.isnan(value) else value for name, value in values.items()}
    return {"rmse": metrics.get("rmse"), "mae": metrics.get("mae"), "metrics": metrics}


def _buckets(known: np.ndarray) -> np.ndarray:
    """The bucket of each row, int64 (rows,), by its number of known entries."""
    return np.searchsorted(BUCKETS, known, side="right") - 1


def _add(sums: np.ndarray, buckets: np.ndarray, terms: np.ndarray) -> None:
    """Adds terms to the count and the sum of their buckets."""
    sums[:, 0] += np.bincount(buckets, minlength=len(BUCKETS))
    sums[:, 1] += np.bincount(buckets, weights=terms, minlength=len(BUCKETS))
