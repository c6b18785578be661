"""What a model must beat: the global mean, and row and column biases."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.evaluation.prediction_errors import ErrorSums
from nnsparse_stream.sparse.rows import SparseRows

# Ratings' worth of pull towards 0 on each bias; the usual order of magnitude for such baselines (Koren 2009).
_DAMPING = 5.0
_PASSES = 5


def evaluate_baselines(dataset: Dataset, fold: int) -> dict[str, ErrorSums]:
    """Judges the baselines on one fold, from the training fold alone.

    The biases (Koren, Bell & Volinsky 2009: rating = mean + row's bias + column's bias, damped) are fitted by
    alternating least squares, in passes over the data; memory follows the number of columns and one row group.

    Args:
        dataset: the data set.
        fold: 0 train, 1 validation, 2 test.

    Returns:
        Errors by baseline: "global mean", "row and column biases".
    """
    mean = float(dataset.manifest.ratings["mean"] or 0.0)
    num_columns = dataset.manifest.num_columns
    column_bias = np.zeros(num_columns)
    for _ in range(_PASSES):
        sums, counts = np.zeros(num_columns), np.zeros(num_columns)
        for batch in dataset.batches():
            known = fold_rows(batch, (0,), num_columns)
            rows, columns = known.row_indices().numpy(), known.columns.numpy()
            left = known.values.numpy() - mean - _row_bias(known, mean, column_bias)[rows]
            sums += np.bincount(columns, weights=left, minlength=num_columns)
            counts += np.bincount(columns, minlength=num_columns)
        column_bias = sums / (counts + _DAMPING)
    errors = {"global mean": ErrorSums(), "row and column biases": ErrorSums()}
    for batch in dataset.batches():
        _judge(batch, fold, mean, column_bias, errors)
    return errors


def _row_bias(known: SparseRows, mean: float, column_bias: np.ndarray) -> np.ndarray:
    left = known.values.numpy() - mean - column_bias[known.columns.numpy()]
    sums = np.bincount(known.row_indices().numpy(), weights=left, minlength=known.num_rows)
    return np.asarray(sums / (known.lengths().numpy() + _DAMPING))


def _judge(
    batch: pa.RecordBatch, fold: int, mean: float, column_bias: np.ndarray, errors: dict[str, ErrorSums]
) -> None:
    num_columns = len(column_bias)
    known, judged = fold_rows(batch, (0,), num_columns), fold_rows(batch, (fold,), num_columns)
    rows, ratings = judged.row_indices().numpy(), judged.values.numpy()
    biased = mean + _row_bias(known, mean, column_bias)[rows] + column_bias[judged.columns.numpy()]
    errors["global mean"].add(known.lengths().numpy(), rows, mean - ratings)
    errors["row and column biases"].add(known.lengths().numpy(), rows, biased - ratings)
