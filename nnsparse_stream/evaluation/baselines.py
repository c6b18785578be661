"""What a model must beat: of ratings the global mean, and row and column biases; of lists popularity.

Popularity lists the columns that have the most training entries, those without one never: the same for all rows, but
for what they know. The biases are those of Koren, Bell & Volinsky (2009): rating = mean + row's bias + column's bias,
each bias damped:

    bias of a row    = sum of (rating - mean - column's bias) / (number of the row's ratings + 5)
    bias of a column = sum of (rating - mean - row's bias) / (number of the column's ratings + 5)

over the training ratings. They are fitted by alternating least squares: from column biases of 0, each of `PASSES`
passes computes the rows', which a row's own ratings give, and from these the columns'. On MovieLens-1M more passes
change the RMSE by less than 0.0005.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.evaluation.metrics import ErrorMetric, Metric
from nnsparse_stream.sparse.rows import SparseRows

GLOBAL_MEAN, BIASES, POPULARITY = "global mean", "row and column biases", "popularity"
#: Passes over the data set that fit the column biases.
PASSES = 2
# Ratings' worth of pull towards 0 on each bias.
_DAMPING = 5.0
# Residuals are rounded to multiples of 2^-28 of the largest rating: sums of whole numbers are the same in any order.
_PRECISION_BITS = 28


@dataclass(frozen=True)
class Baselines:
    """The baselines of a data set, in pure functions of its row groups; memory follows the number of columns.

    Attributes:
        mean: mean training rating; 0 where there is none.
        unit: residuals are summed in whole numbers of this, in rating units.
        num_columns: columns of the data set.
    """

    mean: float
    unit: float
    num_columns: int

    @classmethod
    def of(cls, manifest: Manifest) -> Baselines:
        """The baselines of the data set that a manifest describes."""
        ratings = manifest.ratings
        largest = max(abs(ratings["min"] or 0.0), abs(ratings["max"] or 0.0))
        return cls(ratings["mean"] or 0.0, 2.0 ** (math.frexp(largest)[1] - _PRECISION_BITS), manifest.num_columns)

    def column_residuals(self, batch: pa.RecordBatch, biases: np.ndarray) -> pa.RecordBatch:
        """What a batch adds to the next biases of its columns: sums that add up over batches, in any order.

        Args:
            batch: rows as a shard holds them.
            biases: float64 (columns,), the column biases so far.

        Returns:
            The columns that have a training rating here, ascending: column (int32); residuals (int64), the sum of what
            their ratings are beyond mean and row bias, in units; ratings (int64), how many these are.
        """
        known = fold_rows(batch, (0,), self.num_columns)
        columns, places = np.unique(known.columns.numpy(), return_inverse=True)
        left = self._centred(known) - self.row_biases(known, biases)[known.row_indices().numpy()]
        # Exact: a row group has fewer than 2^20 ratings of a column, and none is 2^33 units.
        sums = np.bincount(places, weights=np.rint(left / self.unit), minlength=len(columns))
        counts = np.bincount(places, minlength=len(columns))
        return pa.record_batch({"column": columns, "residuals": sums.astype(np.int64), "ratings": counts})

    def column_biases(self, residuals: np.ndarray, ratings: np.ndarray) -> np.ndarray:
        """Column biases, float64 (columns,), of the added up `column_residuals`, both int64 (columns,)."""
        return residuals * self.unit / (ratings + _DAMPING)

    def predictors(self, biases: np.ndarray, ratings: np.ndarray) -> dict[str, Baseline]:
        """The baselines, by their names.

        Args:
            biases: float64 (columns,), the column biases.
            ratings: int64 (columns,), the training entries of each column.
        """
        counts = torch.from_numpy(ratings)
        return {
            GLOBAL_MEAN: _Mean(counts, self.mean),
            BIASES: _Biases(counts, self, biases),
            POPULARITY: _Popularity(counts),
        }

    def _centred(self, rows: SparseRows) -> np.ndarray:
        return np.asarray(rows.values.numpy().astype(np.float64) - self.mean)

    def row_biases(self, known: SparseRows, biases: np.ndarray) -> np.ndarray:
        """Row biases, float64 (rows,), from the rows' training ratings and the column biases, float64 (columns,)."""
        left = self._centred(known) - biases[known.columns.numpy()]
        sums = np.bincount(known.row_indices().numpy(), weights=left, minlength=known.num_rows)
        return np.asarray(sums / (known.lengths().numpy() + _DAMPING))


class Baseline:
    """A predictor that needs no model, as `judging.judge_batch` takes it; it predicts ratings, or gives lists.

    Attributes:
        column_counts: int64 (columns,), training entries of each column.
        gives_lists: whether it gives lists.
    """

    gives_lists = False

    def __init__(self, column_counts: Tensor) -> None:
        self.column_counts = column_counts

    def metrics(self, metrics: Iterable[Metric]) -> tuple[Metric, ...]:
        """Those by which it can be judged."""
        return tuple(metric for metric in metrics if isinstance(metric, ErrorMetric) != self.gives_lists)

    def predict_at(self, known: SparseRows, at: SparseRows) -> Tensor:
        """Predicted ratings, float64 (entries of `at`,)."""
        raise NotImplementedError

    def top_k(self, known: SparseRows, k: int) -> tuple[Tensor, Tensor]:
        """The k best columns that a row does not know, and their scores, int64 (rows, k); -1 where there are fewer."""
        raise NotImplementedError


class _Mean(Baseline):
    def __init__(self, column_counts: Tensor, mean: float) -> None:
        super().__init__(column_counts)
        self._mean = mean

    def predict_at(self, known: SparseRows, at: SparseRows) -> Tensor:
        return torch.full((at.num_entries,), self._mean, dtype=torch.float64)


class _Biases(Baseline):
    def __init__(self, column_counts: Tensor, baselines: Baselines, biases: np.ndarray) -> None:
        super().__init__(column_counts)
        self._baselines, self._biases = baselines, biases

    def predict_at(self, known: SparseRows, at: SparseRows) -> Tensor:
        of_rows = self._baselines.row_biases(known, self._biases)[at.row_indices().numpy()]
        return torch.from_numpy(self._baselines.mean + of_rows + self._biases[at.columns.numpy()])


class _Popularity(Baseline):
    gives_lists = True

    def __init__(self, column_counts: Tensor) -> None:
        super().__init__(column_counts)
        counts = column_counts.numpy()
        # By descending count, then ascending column; those without a training entry last, where no list reaches.
        self._order = np.argsort(-counts, kind="stable")
        self._listable = int(np.count_nonzero(counts))
        self._positions = np.empty_like(self._order)
        self._positions[self._order] = np.arange(len(self._order))

    def top_k(self, known: SparseRows, k: int) -> tuple[Tensor, Tensor]:
        k = min(k, known.num_columns)
        rows = known.row_indices().numpy()
        positions = self._positions[known.columns.numpy()]
        order = np.lexsort((positions, rows))
        # How many positions that the row does not know lie before each that it knows: its position less its rank among
        # them. The i-th unknown position is i + the known ones that have no more than i unknown ones before them.
        unknown_before = positions[order] - (np.arange(len(rows)) - known.offsets.numpy()[rows])
        counts = np.bincount(rows * np.int64(k + 1) + unknown_before.clip(max=k), minlength=known.num_rows * (k + 1))
        places = np.arange(k) + counts.reshape(-1, k + 1)[:, :k].cumsum(1)
        columns = np.where(places < self._listable, self._order[places.clip(max=len(self._order) - 1)], -1)
        scores = np.where(columns >= 0, self.column_counts.numpy()[columns], -1)
        return torch.from_numpy(columns), torch.from_numpy(scores)
