"""Judges a model on one fold of a batch of a shard, by any metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa
from torch import Tensor

from nnsparse_stream.data.fold_rows import fold_rows, known_folds
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import ErrorMetric, JudgedLists, Metric
from nnsparse_stream.nn.ahead import ahead, sent
from nnsparse_stream.sparse.rows import SparseRows

# Rows that are encoded at once: bounds the codes to rows x hidden units, however short the rows are.
_ROWS_AT_ONCE = 2048
# Places of lists that are judged at once, some twenty numbers each.
_PLACES_AT_ONCE = 1 << 18


class Predictor(Protocol):
    """What can be judged: a model, or a baseline.

    Attributes:
        column_counts: int64 (columns,), training entries of each column; on the predictor's device.
    """

    column_counts: Tensor

    def predict_at(self, known: SparseRows, at: SparseRows) -> Tensor:
        """Predicted ratings at the entries of `at`, (entries,), of rows of which these entries are known."""

    def top_k(self, known: SparseRows, k: int) -> tuple[Tensor, Tensor]:
        """The k best columns that a row does not know, int64 (rows, k), -1 where there are fewer; and their scores."""


def judge_batch(model: Predictor, batch: pa.RecordBatch, fold: int, metrics: Sequence[Metric]) -> MetricSums:
    """Judges a model on one fold of a batch of a shard; it sees the rows' known entries only.

    Memory, beside the batch: the codes and the lists of at most 2,048 rows, and what ranking takes. Lists are not kept;
    of a model on a GPU those of the next rows are there meanwhile.

    Args:
        model: on any device.
        batch: rows as a shard holds them.
        fold: 0 train, 1 validation, 2 test; for metrics of lists not 0, whose columns are not listed.
        metrics: what to judge by.
    """
    device, num_columns = model.column_counts.device, len(model.column_counts)
    known, judged = fold_rows(batch, known_folds(fold), num_columns), fold_rows(batch, (fold,), num_columns)
    counted = judged.lengths().nonzero()[:, 0]
    known, judged = known.select(counted), judged.select(counted)
    sums = MetricSums.of(metrics, num_columns)
    sums.add_rows(known.lengths().numpy(), judged.lengths().numpy())
    if any(isinstance(metric, ErrorMetric) for metric in metrics):

        def predict(block: tuple[SparseRows, SparseRows]) -> tuple[Tensor]:
            return (model.predict_at(sent(block[0], device), sent(block[1], device)),)

        for (rows, at), (predicted,) in ahead(_blocks(known, judged, _ROWS_AT_ONCE), predict, device):
            sums.add_errors(rows.lengths().numpy(), at.row_indices().numpy(), (predicted - at.values).numpy())
    k = min(max((metric.k or 0 for metric in metrics), default=0), num_columns)
    counts = model.column_counts.cpu().numpy()

    def rank(block: tuple[SparseRows, SparseRows]) -> tuple[Tensor]:
        return model.top_k(sent(block[0], device), k)[:1]

    blocks = _blocks(known, judged, min(_ROWS_AT_ONCE, _PLACES_AT_ONCE // k + 1)) if k else ()
    for (rows, at), (columns,) in ahead(blocks, rank, device):
        sums.add_lists(rows.lengths().numpy(), JudgedLists(columns.numpy(), at, counts))
    return sums


def _blocks(known: SparseRows, judged: SparseRows, size: int) -> Iterator[tuple[SparseRows, SparseRows]]:
    """So many rows of both at a time."""
    for start in range(0, known.num_rows, size):
        yield known[start : start + size], judged[start : start + size]


def check_metrics(metrics: Sequence[Metric], fold: str) -> None:
    """Refuses metrics of lists on what the model knows.

    Raises:
        InputError: the fold is "train" and a metric is one of lists.
    """
    of_lists = [metric.name for metric in metrics if metric.k]
    if fold == "train" and of_lists:
        raise InputError(
            f"`fold` train cannot be judged by {', '.join(of_lists)}: what a model knows of a row is not listed; judge "
            "another fold"
        )
