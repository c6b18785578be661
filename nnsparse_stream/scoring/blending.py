"""Predictions of several models for the same users and items, joined, and judged or given out as one.

A user model and an item model of the same rating log see it from two sides; combined they are better than either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor

from nnsparse_stream.data.fold_rows import fold_rows, known_folds
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import Metric
from nnsparse_stream.ids.ranks import rank_ids
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.ahead import ahead, sent
from nnsparse_stream.nn.model import Model
from nnsparse_stream.scoring.combination import Combination, PredictionMoments

_ROWS_AT_ONCE = 2048


def predict_fold(
    model: Model, vocabulary: Vocabulary, axis: str, batch: pa.RecordBatch, fold: int, position: int
) -> pa.RecordBatch:
    """A model's predictions for one fold of a batch of a shard; it sees the rows' known ratings only.

    Args:
        model: the model, on any device.
        vocabulary: of its columns.
        axis: "user" or "item", the axis of its rows.
        batch: rows as a shard holds them.
        fold: 0 train, 1 validation, 2 test.
        position: the model's place among those that are blended.

    Returns:
        Columns user, item, rating and prediction (float32), known (int32: the row's number of training ratings), model
        (uint8: `position`).
    """
    device, num_columns = model.device, model.num_columns
    known, judged = fold_rows(batch, known_folds(fold), num_columns), fold_rows(batch, (fold,), num_columns)

    def predict(start: int) -> tuple[Tensor]:
        part = slice(start, start + _ROWS_AT_ONCE)
        return (model.predict_at(sent(known[part], device), sent(judged[part], device)),)

    starts = range(0, judged.num_rows, _ROWS_AT_ONCE)
    parts = [np.zeros(0, dtype=np.float32), *(found.numpy() for _, (found,) in ahead(starts, predict, device))]
    rows = judged.row_indices().numpy()
    ids = {axis: batch.column("row").take(pa.array(rows)), "other": vocabulary.decode(judged.columns.numpy())}
    user, item = (ids[axis], ids["other"]) if axis == "user" else (ids["other"], ids[axis])
    return pa.record_batch(
        {
            "user": user,
            "item": item,
            "rating": judged.values.numpy(),
            "prediction": np.concatenate(parts),
            "known": known.lengths().numpy()[rows],
            "model": np.full(len(rows), position, dtype=np.uint8),
        }
    )


class JoinedPredictions(NamedTuple):
    """Ratings, by user and item, with what several models predict for them.

    Attributes:
        users, items: int64 (ratings,), equal for those of one user, or item.
        known: int32 (ratings,), how many training ratings the first model's row has.
        ratings: float32 (ratings,).
        predictions: float32 (models, ratings).
    """

    users: np.ndarray
    items: np.ndarray
    known: np.ndarray
    ratings: np.ndarray
    predictions: np.ndarray


def join_predictions(blocks: Sequence[pa.RecordBatch], models: int) -> JoinedPredictions:
    """Joins several models' predictions by user and item; the result does not depend on the order of the blocks.

    Args:
        blocks: from `predict_fold`; together they hold all models' predictions of the ratings of some rows of the first
            model, in any order.
        models: how many.

    Raises:
        InputError: a rating is not in the judged fold of every model's data set.
    """
    table = pa.Table.from_batches(blocks)
    users, items = (rank_ids(table[name].combine_chunks()) for name in ("user", "item"))
    keys = users[1] * max(len(items[0]), 1) + items[1]
    positions = table["model"].to_numpy()
    order = np.lexsort((keys, positions))
    count = len(order) // models
    by_model = (models, count)
    if (
        not np.array_equal(positions[order], np.arange(models).repeat(count))
        or (np.ptp(keys[order].reshape(by_model), axis=0) != 0).any()
    ):
        raise InputError(
            "the data sets do not hold the same ratings in the judged fold: prepare them from the same input, with the "
            "same `folds` and `fold_seed`, one for each axis"
        )
    first = order[:count]
    return JoinedPredictions(
        users[1][first],
        items[1][first],
        table["known"].to_numpy()[first],
        table["rating"].to_numpy()[first],
        table["prediction"].to_numpy()[order].reshape(by_model),
    )


def judge_blend(
    blocks: Sequence[pa.RecordBatch], combination: Combination, axis: str, metrics: Sequence[Metric]
) -> MetricSums:
    """Judges several models' predictions, combined.

    Args:
        blocks: as `join_predictions` takes them.
        combination: of the models, in the order of their positions.
        axis: "user" or "item", the axis of the first model's rows.
        metrics: of predicted ratings.

    Returns:
        The sums, in the buckets of the first model's rows.

    Raises:
        InputError: what `join_predictions` raises.
    """
    joined = join_predictions(blocks, len(combination.weights))
    errors = combination.of(joined.predictions) - joined.ratings
    rows = joined.users if axis == "user" else joined.items
    _, index, row = np.unique(rows, return_index=True, return_inverse=True)
    known, sums = joined.known[index], MetricSums.of(metrics, 0)
    sums.add_rows(known, np.bincount(row, minlength=len(index)))
    sums.add_errors(known, row, errors)
    return sums


def blend_moments(blocks: Sequence[pa.RecordBatch], models: int, origin: float) -> PredictionMoments:
    """What of several models' predictions is needed to fit their combination.

    Args:
        blocks: as `join_predictions` takes them.
        models: how many.
        origin: of the moments, the same for all parts that are added up.

    Raises:
        InputError: what `join_predictions` raises.
    """
    joined = join_predictions(blocks, models)
    moments = PredictionMoments(models, origin)
    moments.add(joined.predictions, joined.ratings)
    return moments


def predicted_pairs(scored: pa.Table, transposed: bool, position: int) -> pa.RecordBatch:
    """A model's scores of pairs in the terms of the blend's first model.

    Args:
        scored: from `tables.pair_table`.
        transposed: whether the model's rows are the first model's columns.
        position: the model's place among those that are blended.

    Returns:
        Columns row and column (ids of the first model's axes), row_known and column_known (bool: whether the model
        knows them), prediction (float32), model (uint8: `position`).
    """
    ids = [scored[name].combine_chunks() for name in ("row_id", "column_id")]
    known = [scored[name].combine_chunks() for name in ("row_known", "column_known")]
    return pa.record_batch(
        {
            "row": ids[transposed],
            "column": ids[not transposed],
            "row_known": known[transposed],
            "column_known": known[not transposed],
            "prediction": scored["score"].combine_chunks(),
            "model": pa.array(np.full(len(scored), position, dtype=np.uint8)),
        }
    )


def blend_pairs(blocks: Sequence[pa.RecordBatch], combination: Combination) -> pa.Table:
    """Several models' predictions of pairs, combined.

    Args:
        blocks: from `predicted_pairs`; together they hold all models' predictions of some pairs, in any order. A pair
            that occurs n times has n predictions of each model.
        combination: of the models, in the order of their positions.

    Returns:
        Columns row_id, column_id, score (float32), by row, then column; one row for each time that a pair occurs.

    Raises:
        ValueError: a model's prediction of a pair is missing.
    """
    table = pa.Table.from_batches(blocks)
    (row_ids, rows), (column_ids, columns) = (rank_ids(table[name].combine_chunks()) for name in ("row", "column"))
    keys = rows * max(len(column_ids), 1) + columns
    models = table["model"].to_numpy()
    order = np.lexsort((keys, models))
    by_model = (len(combination.weights), len(table) // len(combination.weights))
    positions = np.arange(by_model[0]).repeat(by_model[1])
    if not np.array_equal(models[order], positions) or (np.ptp(keys[order].reshape(by_model), axis=0) != 0).any():
        raise ValueError("the blocks do not hold a prediction of each model for each pair")
    first = order[: by_model[1]]
    score = combination.of(table["prediction"].to_numpy()[order].reshape(by_model))
    return pa.table(
        {
            "row_id": row_ids.take(pa.array(rows[first])),
            "column_id": column_ids.take(pa.array(columns[first])),
            "score": score.astype(np.float32),
        }
    )
