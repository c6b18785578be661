"""What a model is judged by: metrics of predicted ratings and of top-K lists, looked up by name in one table.

A metric has a name, says whether more of it is better, and is made of terms that add up over rows, blocks, shards and
workers (`metric_sums.MetricSums` holds the sums). There are three kinds, by what a term belongs to:

- a judged entry, from its prediction's error (`ErrorMetric`);
- a row with a judged entry, from its list (`ListMetric`): the metric is the mean over these rows;
- a column, from the number of lists that it is in (`ColumnMetric`).

A list holds the K columns of the highest scores that the row has not among its known entries; a listed column is a hit
where the row has a judged entry there. Below, n is the number of a row's judged entries.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnsparse_stream.errors import InputError
from nnsparse_stream.sparse.rows import SparseRows


@dataclass(frozen=True)
class JudgedLists:
    """The lists of a block of rows beside what they are judged by.

    Attributes:
        columns: int64 (rows, width), the best first; -1 where a list ends before.
        judged: the rows' judged entries, their columns ascending; each row has one or more.
        column_counts: int64 (columns,), training entries of each column.
    """

    columns: np.ndarray
    judged: SparseRows
    column_counts: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """Judged entries of each row, int64 (rows,)."""
        return self.judged.lengths().numpy().astype(np.int64)

    @cached_property
    def hits(self) -> np.ndarray:
        """Whether a row has a judged entry at a listed column, bool (rows, width)."""
        return self._entries >= 0

    @cached_property
    def ratings(self) -> np.ndarray:
        """The rating of the judged entry at a listed column, float64 (rows, width); 0 where there is none."""
        ratings = self.judged.values.numpy().astype(np.float64)
        return np.where(self.hits, ratings[self._entries], 0.0)

    @cached_property
    def _entries(self) -> np.ndarray:
        """The judged entry at each listed column, int64 (rows, width); -1 where there is none."""
        rows, width = np.arange(len(self.columns)), self.judged.num_columns
        keys = self.judged.row_indices().numpy() * np.int64(width) + self.judged.columns.numpy()
        wanted = rows[:, None] * width + self.columns
        found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where((keys[found] == wanted) & (self.columns >= 0), found, -1)


class Metric:
    """A metric.

    Attributes:
        name: as it is asked for and reported, with its K where it is one of lists: "rmse", "ndcg@100".
        k: length of the lists; None where it is one of predicted ratings.
        higher_is_better: whether more of it is better.
    """

    higher_is_better = True

    def __init__(self, name: str, k: int | None) -> None:
        self.name, self.k = name, k

    def __repr__(self) -> str:
        return f"Metric({self.name!r})"

    def is_better(self, one: float, other: float) -> bool:
        """Whether one value is better than another; never where one of them is NaN."""
        return one > other if self.higher_is_better else one < other


class ErrorMetric(Metric, ABC):
    """A metric of the errors of predicted ratings: a function of the mean of a term."""

    higher_is_better = False

    @abstractmethod
    def terms(self, errors: np.ndarray) -> np.ndarray:
        """The term of each judged entry, float64 (entries,), from prediction less rating, float64 (entries,)."""

    def of_mean(self, mean: float) -> float:
        """The metric, from the mean of the terms."""
        return mean


class RMSE(ErrorMetric):
    """Root of the mean squared error."""

    def terms(self, errors: np.ndarray) -> np.ndarray:
        """Squared errors."""
        return np.asarray(errors**2)

    def of_mean(self, mean: float) -> float:
        """The root."""
        return float(np.sqrt(mean))


class MAE(ErrorMetric):
    """Mean absolute error."""

    def terms(self, errors: np.ndarray) -> np.ndarray:
        """Absolute errors."""
        return np.abs(errors)


class ListMetric(Metric, ABC):
    """A metric of each row's list, whose mean over the rows with a judged entry is the metric."""

    k: int

    @abstractmethod
    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """The metric of each row, float64 (rows,)."""

    def _hits(self, lists: JudgedLists) -> np.ndarray:
        """Hits among the first K, bool (rows, K or fewer)."""
        return lists.hits[:, : self.k]

    def _attainable(self, lists: JudgedLists) -> np.ndarray:
        """The most hits that a list may have, min(K, n), int64 (rows,)."""
        return lists.lengths.clip(max=self.k)


class NDCG(ListMetric):
    """Normalised discounted cumulative gain with binary gains (Jaervelin & Kekaelaeinen 2002).

    The sum of 1 / log2(rank + 1) over the hits, divided by what min(K, n) hits at the first ranks give.
    """

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """The share of the ideal list's gain."""
        attainable = self._attainable(lists)
        discounts = _discounts(int(attainable.max(initial=0)))
        return _discounted(self._hits(lists)) / np.cumsum(discounts)[attainable - 1]


class GradedNDCG(ListMetric):
    """The same with gains of 2^r - 1 for a judged rating r (Burges et al. 2005); 0 where r is negative.

    Divided by the gain of the row's min(K, n) highest ratings in descending order; 0 where that is 0.
    """

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """The share of the ideal list's gain."""
        ratings, rows = lists.judged.values.numpy().astype(np.float64), lists.judged.row_indices().numpy()
        highest = np.full(len(lists.lengths), -np.inf)
        np.maximum.at(highest, rows, ratings)
        # The gains of a row divided by 2^(its highest rating): their ratio stays, and nothing overflows.
        highest = highest.clip(min=0.0)
        order = np.lexsort((-ratings, rows))
        ranks = np.arange(len(rows)) - (np.cumsum(lists.lengths) - lists.lengths)[rows]
        kept = ranks < self.k
        gains = _gains(ratings[order], highest[rows])[kept] * _discounts(int(lists.lengths.max(initial=0)))[ranks[kept]]
        ideal = np.bincount(rows[kept], weights=gains, minlength=len(highest))
        found = np.where(lists.hits, _gains(lists.ratings, highest[:, None]), 0.0)[:, : self.k]
        return np.divide(_discounted(found), ideal, out=np.zeros_like(ideal), where=ideal > 0)


class Recall(ListMetric):
    """Hits divided by min(K, n): 1 for a list that is as good as a list of K can be (as in Liang et al. 2018)."""

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """Hits / min(K, n)."""
        return self._hits(lists).sum(1) / self._attainable(lists)


class RecallOfAll(ListMetric):
    """Hits divided by n."""

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """Hits / n."""
        return self._hits(lists).sum(1) / lists.lengths


class Precision(ListMetric):
    """Hits divided by K, also where a list is shorter."""

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """Hits / K."""
        return np.asarray(self._hits(lists).sum(1) / self.k)


class HitRate(ListMetric):
    """The share of rows with a hit."""

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """1 where the list has a hit."""
        return np.asarray(self._hits(lists).any(1), dtype=np.float64)


class MRR(ListMetric):
    """Mean reciprocal rank: 1 / the rank of the first hit; 0 where there is none among K."""

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """1 / rank of the first hit."""
        hits = self._hits(lists)
        return np.asarray((hits / _ranks(hits)).max(1, initial=0.0))


class MAP(ListMetric):
    """Mean average precision: the sum, over the hits, of the precision at their ranks, divided by min(K, n)."""

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """Average precision."""
        hits = self._hits(lists)
        return (hits * (np.cumsum(hits, 1) / _ranks(hits))).sum(1) / self._attainable(lists)


class Popularity(ListMetric):
    """Mean number of training entries of the listed columns, averaged in each list first; 0 for an empty list.

    Less is better: of two lists that are as good otherwise, the one that says less of what everybody knows.
    """

    higher_is_better = False

    def of_rows(self, lists: JudgedLists) -> np.ndarray:
        """Mean training entries of a list's columns."""
        columns = lists.columns[:, : self.k]
        listed = columns >= 0
        counts = np.where(listed, lists.column_counts[columns], 0)
        return counts.sum(1) / listed.sum(1).clip(min=1)


class ColumnMetric(Metric, ABC):
    """A metric of how the lists share the columns."""

    k: int

    @abstractmethod
    def of_columns(self, listed: np.ndarray) -> float:
        """The metric, from the number of lists that each column is in, int64 (columns,)."""


class Coverage(ColumnMetric):
    """The share of the data set's columns that are in some list."""

    def of_columns(self, listed: np.ndarray) -> float:
        """Listed columns / columns."""
        return float(np.count_nonzero(listed) / len(listed))


class Gini(ColumnMetric):
    """Gini coefficient of the numbers of lists that the columns are in: 0 where all are in equally many.

    With these numbers ascending, x_1 to x_C: sum of (2 i - C - 1) x_i / (C sum of x_i).
    """

    higher_is_better = False

    def of_columns(self, listed: np.ndarray) -> float:
        """The coefficient."""
        columns, total = len(listed), float(listed.sum())
        weights = 2.0 * np.arange(1, columns + 1) - columns - 1
        return float((weights * np.sort(listed)).sum() / (columns * total)) if total else 0.0


#: The metrics by name; those of lists are asked for with their K, as `ndcg@100`.
METRICS: dict[str, type[Metric]] = {
    "rmse": RMSE,
    "mae": MAE,
    "ndcg": NDCG,
    "ndcg_graded": GradedNDCG,
    "recall": Recall,
    "recall_all": RecallOfAll,
    "precision": Precision,
    "hit": HitRate,
    "mrr": MRR,
    "map": MAP,
    "popularity": Popularity,
    "coverage": Coverage,
    "gini": Gini,
}

_NAME = re.compile(r"(\w+?)(?:@(\d{1,9}))?", re.ASCII)


def parse_metric(name: str) -> Metric:
    """The metric of a name such as `rmse` or `ndcg@100`.

    Raises:
        InputError: there is no such metric; K is missing, is 0, or is there where it has no meaning.
    """
    parts = _NAME.fullmatch(name)
    kind = METRICS.get(parts[1]) if parts else None
    if parts is None or kind is None:
        raise InputError(f"there is no metric {name!r}; there are {', '.join(known_names())}")
    if issubclass(kind, ErrorMetric):
        if parts[2]:
            raise InputError(f"{parts[1]} is no metric of lists; name it without @{parts[2]}")
        return kind(name, None)
    if not parts[2] or not int(parts[2]):
        raise InputError(f"the metric {name!r} lacks the length of the lists; name it as {parts[1]}@100")
    return kind(f"{parts[1]}@{int(parts[2])}", int(parts[2]))


def parse_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of some names, each once, in their order.

    Raises:
        InputError: as `parse_metric`, or there is no name.
    """
    metrics = {metric.name: metric for metric in map(parse_metric, names)}
    if not metrics:
        raise InputError(f"no metric is named; there are {', '.join(known_names())}")
    return tuple(metrics.values())


def metrics_of_model(asked: Sequence[str], usual: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics that a model is to be judged by.

    Args:
        asked: their names; the usual ones where there is none.
        usual: those of the model's objective.

    Raises:
        InputError: as `parse_metrics`; or one is of predicted ratings, which the model's scores are not, since no usual
            one is.
    """
    metrics = parse_metrics(asked or usual)
    of_ratings = [metric.name for metric in metrics if isinstance(metric, ErrorMetric)]
    if of_ratings and not any(isinstance(metric, ErrorMetric) for metric in parse_metrics(usual)):
        raise InputError(
            f"{', '.join(of_ratings)}: the model's scores order lists and are no ratings; judge its lists, by "
            f"{' or '.join(usual)} for instance"
        )
    return metrics


def known_names() -> list[str]:
    """The names that may be asked for, K for the length of the lists."""
    return [name if issubclass(kind, ErrorMetric) else f"{name}@K" for name, kind in METRICS.items()]


def _discounts(ranks: int) -> np.ndarray:
    """1 / log2(rank + 1) at the first ranks, float64."""
    return np.asarray(1 / np.log2(np.arange(2, ranks + 2)))


def _discounted(gains: np.ndarray) -> np.ndarray:
    """Discounted cumulative gain of lists, float64 (rows,), from (rows, ranks)."""
    return np.asarray((gains * _discounts(gains.shape[1])).sum(1))


def _ranks(hits: np.ndarray) -> np.ndarray:
    """The ranks of a list's places, from 1."""
    return np.arange(1, hits.shape[1] + 1)


def _gains(ratings: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """(2^r - 1) / 2^(the row's highest), 0 for a negative r."""
    return np.asarray(np.exp2(ratings.clip(min=0.0) - highest) - np.exp2(-highest))
