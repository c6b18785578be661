"""Prediction errors of a model on a fold, in bounded memory, also by how many ratings a row has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from nnsparse_stream.data.fold_rows import fold_rows, known_folds
from nnsparse_stream.nn.model import Model

#: Lower bounds of the buckets of rows by their number of training ratings.
BUCKETS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)

# Rows that are encoded at once: bounds the codes to rows x hidden units, however short the rows are.
_ROWS_AT_ONCE = 2048


@dataclass
class ErrorSums:
    """Sums of errors by bucket; adds up over batches, shards and workers.

    Attributes:
        sums: float64 (buckets, 4): rows, ratings, squared errors, absolute errors.
    """

    sums: np.ndarray = field(default_factory=lambda: np.zeros((len(BUCKETS), 4)))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(self.sums + other.sums)

    def add(self, num_ratings: np.ndarray, rows: np.ndarray, errors: np.ndarray) -> None:
        """Adds the errors of a block.

        Args:
            num_ratings: (rows,), each row's number of training ratings.
            rows: (entries,), the row of each judged entry.
            errors: (entries,), prediction less rating.
        """
        bucket = np.searchsorted(BUCKETS, num_ratings, side="right") - 1
        judged = np.unique(rows)
        self.sums[:, 0] += np.bincount(bucket[judged], minlength=len(BUCKETS))
        for column, terms in ((1, None), (2, errors.astype(np.float64) ** 2), (3, np.abs(errors.astype(np.float64)))):
            self.sums[:, column] += np.bincount(bucket[rows], weights=terms, minlength=len(BUCKETS))

    @property
    def count(self) -> int:
        """How many ratings were judged."""
        return int(self.sums[:, 1].sum())

    @property
    def rmse(self) -> float:
        """Root mean squared error; NaN where nothing was judged."""
        return _root_mean(self.sums[:, 2].sum(), self.sums[:, 1].sum())

    @property
    def mae(self) -> float:
        """Mean absolute error; NaN where nothing was judged."""
        return _mean(self.sums[:, 3].sum(), self.sums[:, 1].sum())

    def report(self, fold: str) -> dict[str, Any]:
        """The figures as JSON values; buckets without a rating are left out, NaN is null."""
        buckets = []
        for index, (rows, count, squared, absolute) in enumerate(self.sums):
            if count:
                buckets.append(
                    {
                        "min_ratings": BUCKETS[index],
                        "max_ratings": BUCKETS[index + 1] - 1 if index + 1 < len(BUCKETS) else None,
                        "rows": int(rows),
                        "count": int(count),
                        "rmse": _root_mean(squared, count),
                        "mae": _mean(absolute, count),
                    }
                )
        figures = {"rmse": self.rmse, "mae": self.mae} if self.count else {"rmse": None, "mae": None}
        return {"fold": fold, "count": self.count, **figures, "buckets": buckets}


def _mean(total: float, count: float) -> float:
    return float(total / count) if count else math.nan


def _root_mean(total: float, count: float) -> float:
    return math.sqrt(total / count) if count else math.nan


def evaluate_batch(model: Model, batch: pa.RecordBatch, fold: int) -> ErrorSums:
    """Judges a model on one fold of a batch of a shard; it sees the rows' known ratings only.

    Args:
        model: the model, on any device.
        batch: rows as a shard holds them.
        fold: 0 train, 1 validation, 2 test.
    """
    device, num_columns = model.device, model.num_columns
    known, judged = fold_rows(batch, known_folds(fold), num_columns), fold_rows(batch, (fold,), num_columns)
    sums = ErrorSums()
    for start in range(0, judged.num_rows, _ROWS_AT_ONCE):
        ratings, at = known[start : start + _ROWS_AT_ONCE], judged[start : start + _ROWS_AT_ONCE]
        if not at.num_entries:
            continue
        with torch.no_grad():
            predicted = model.predict_at(ratings.to(device), at.to(device)).cpu()
        sums.add(ratings.lengths().numpy(), at.row_indices().numpy(), (predicted - at.values).numpy())
    return sums
