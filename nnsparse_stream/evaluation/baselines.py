"""What a model must beat: the global mean, and row and column biases.

The biases are those of Koren, Bell & Volinsky (2009): rating = mean + row's bias + column's bias, each bias damped:

    bias of a row    = sum of (rating - mean - column's bias) / (number of the row's ratings + 5)
    bias of a column = sum of (rating - mean - row's bias) / (number of the column's ratings + 5)

over the training ratings. They are fitted by alternating least squares: from column biases of 0, each of `PASSES`
passes computes the rows', which a row's own ratings give, and from these the columns'. On MovieLens-1M more passes
change the RMSE by less than 0.0005.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nnsparse_stream.data.fold_rows import fold_rows, known_folds
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.evaluation.prediction_errors import ErrorSums
from nnsparse_stream.sparse.rows import SparseRows

GLOBAL_MEAN, BIASES = "global mean", "row and column biases"
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
        left = self._centred(known) - self._row_biases(known, biases)[known.row_indices().numpy()]
        # Exact: a row group has fewer than 2^20 ratings of a column, and none is 2^33 units.
        sums = np.bincount(places, weights=np.rint(left / self.unit), minlength=len(columns))
        counts = np.bincount(places, minlength=len(columns))
        return pa.record_batch({"column": columns, "residuals": sums.astype(np.int64), "ratings": counts})

    def column_biases(self, residuals: np.ndarray, ratings: np.ndarray) -> np.ndarray:
        """Column biases, float64 (columns,), of the added up `column_residuals`, both int64 (columns,)."""
        return residuals * self.unit / (ratings + _DAMPING)

    def judge(self, batch: pa.RecordBatch, fold: int, biases: np.ndarray) -> dict[str, ErrorSums]:
        """Errors of the baselines, by their names, on one fold of a batch.

        Args:
            batch: rows as a shard holds them.
            fold: 0 train, 1 validation, 2 test.
            biases: float64 (columns,), the column biases.
        """
        known, judged = (fold_rows(batch, folds, self.num_columns) for folds in (known_folds(fold), (fold,)))
        rows, centred = judged.row_indices().numpy(), self._centred(judged)
        biased = self._row_biases(known, biases)[rows] + biases[judged.columns.numpy()]
        errors = {GLOBAL_MEAN: ErrorSums(), BIASES: ErrorSums()}
        for name, predicted in ((GLOBAL_MEAN, np.zeros(1)), (BIASES, biased)):
            errors[name].add(known.lengths().numpy(), rows, predicted - centred)
        return errors

    def _centred(self, rows: SparseRows) -> np.ndarray:
        return np.asarray(rows.values.numpy().astype(np.float64) - self.mean)

    def _row_biases(self, known: SparseRows, biases: np.ndarray) -> np.ndarray:
        left = self._centred(known) - biases[known.columns.numpy()]
        sums = np.bincount(known.row_indices().numpy(), weights=left, minlength=known.num_rows)
        return np.asarray(sums / (known.lengths().numpy() + _DAMPING))
