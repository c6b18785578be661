"""Predictions for output: top-K columns of rows, or ratings at given pairs, as Arrow tables with the original ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from nnsparse_stream.data.features import RowFeatures
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.ranking import ROWS_AT_ONCE, TILE_COLUMNS, ScoreTile, best_columns
from nnsparse_stream.scoring.blocks import rows_without_ratings
from nnsparse_stream.scoring.combination import Combination
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.scoring.predictors import TilePredictor
from nnsparse_stream.scoring.reasons import reasons
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.checkpoint import Checkpoint

#: Bytes that ranking takes at most, beside the models, a shard's rows and the file of their scores.
TOP_K_BYTES = 64 << 20
# What a row takes, in bytes, for each column of a tile (its score and, in a blend, those of the models) and for each
# column of its list: amply, as allocators keep some of what was freed.
_BYTES_PER_SCORE, _BYTES_PER_RANK = 24, 200
# Rows encoded at once for pairs: bounds the codes to rows x hidden units.
_PAIR_ROWS = 2048


def top_k_tables(
    checkpoint: Checkpoint,
    batches: Iterable[pa.RecordBatch],
    k: int,
    folds: Sequence[int],
    rules: ListRules = ListRules(),  # noqa: B008 (immutable)
    candidates: Iterable[np.ndarray] | None = None,
) -> Iterator[pa.Table]:
    """The best columns of each row that are not among the ratings that the model sees.

    Args:
        checkpoint: the model.
        batches: rows as a shard holds them, encoded by the model's vocabulary.
        k: columns a row; a row with fewer columns that may be listed gets fewer. Rows are ranked so many at once as
            TOP_K_BYTES allow.
        folds: the folds of a row's ratings that the model sees; columns rated in another fold may be listed.
        rules: what lists hold.
        candidates: the columns that may be listed, integers (n,) each; all where None.

    Yields:
        Tables of row_id, column_id, score (float32, not clipped), rank (int32, from 1), by row, then rank; and reasons,
        as `files.score_schema` has them, where these are asked for.

    Raises:
        InputError: reasons are asked for, and the model cannot explain its scores.
    """
    model = checkpoint.model
    eligible = _eligible(model, rules, candidates)
    return _ranked_tables(checkpoint, batches, k, folds, rules, eligible, lambda _, known: model.tiles(known))


def blended_top_k_tables(
    checkpoint: Checkpoint,
    others: Sequence[TilePredictor],
    combination: Combination,
    batches: Iterable[pa.RecordBatch],
    k: int,
    folds: Sequence[int],
    rules: ListRules = ListRules(),  # noqa: B008 (immutable)
    candidates: Iterable[np.ndarray] | None = None,
) -> Iterator[pa.Table]:
    """The best columns of each row by several models' predictions, combined; neither these nor the result are clipped.

    Args:
        checkpoint: the first model; what it has not seen in training is not listed.
        others: the other models.
        combination: of the models, the first model's weight first.
        batches: rows as a shard of the first model's data set holds them.
        k: columns a row.
        folds: the folds of a row's ratings that the models see; columns rated in these are not listed.
        rules: what lists hold; without reasons.
        candidates: as in `top_k_tables`.

    Yields:
        Tables as those of `top_k_tables`.
    """
    model, (weight, *weights) = checkpoint.model, combination.weights

    def tiles(ids: pa.Array, known: SparseRows) -> ScoreTile:
        first, rest = model.tiles(known), [other.tiles(ids) for other in others]

        def score(start: int, stop: int) -> Tensor:
            combined = first(start, stop).mul_(weight).add_(combination.intercept)
            for other, tile in zip(weights, rest, strict=True):
                combined.add_(tile(start, stop), alpha=other)
            return combined

        return score

    return _ranked_tables(checkpoint, batches, k, folds, rules, _eligible(model, rules, candidates), tiles)


def _eligible(model: Model, rules: ListRules, candidates: Iterable[np.ndarray] | None) -> Tensor:
    """Whether a column may be listed, bool (columns,)."""
    trained = model.column_counts >= max(rules.min_column_ratings, 1)
    if candidates is None:
        return trained
    named = torch.zeros(model.num_columns, dtype=torch.bool)
    for columns in candidates:
        named.numpy()[columns] = True
    return trained & named.to(trained.device)


def _ranked_tables(
    checkpoint: Checkpoint,
    batches: Iterable[pa.RecordBatch],
    k: int,
    folds: Sequence[int],
    rules: ListRules,
    eligible: Tensor,
    tiles: Callable[[pa.Array, SparseRows], ScoreTile],
) -> Iterator[pa.Table]:
    """Tables of the best columns by the scores that `tiles` makes of some rows' ids and known ratings."""
    model = checkpoint.model
    bytes_per_row = _BYTES_PER_SCORE * TILE_COLUMNS + _BYTES_PER_RANK * min(k, model.num_columns)
    at_once = max(1, min(TOP_K_BYTES // bytes_per_row, ROWS_AT_ONCE))
    for batch in batches:
        seen = fold_rows(batch, folds, model.num_columns)
        for start in range(0, seen.num_rows, at_once):
            ids, known = batch.column("row").slice(start, at_once), seen[start : start + at_once].to(model.device)
            excluded = known if rules.exclude_known else _without_entries(known)
            with torch.no_grad():
                columns, scores = best_columns(tiles(ids, known), excluded, eligible, k)
            row, rank = (columns >= 0).cpu().nonzero(as_tuple=True)
            table = {
                "row_id": ids.take(pa.array(row.numpy())),
                "column_id": checkpoint.vocabulary.decode(columns.cpu()[row, rank].numpy()),
                "score": scores.cpu()[row, rank].numpy(),
                "rank": (rank + 1).int().numpy(),
            }
            if rules.explain:
                table["reasons"] = _reasons(checkpoint, known, columns, rules.explain)
            yield pa.table(table)


def _without_entries(rows: SparseRows) -> SparseRows:
    return SparseRows(torch.zeros_like(rows.offsets), rows.columns[:0], rows.values[:0], rows.num_columns)


def _reasons(checkpoint: Checkpoint, known: SparseRows, columns: Tensor, most: int) -> pa.Array:
    found = reasons(checkpoint.model, known, columns, most)
    offsets = pa.array(np.concatenate([[0], np.cumsum(found.counts)]), pa.int32())
    fields = [checkpoint.vocabulary.decode(found.columns), pa.array(found.contributions)]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, ["id", "contribution"]))


def pair_table(
    checkpoint: Checkpoint,
    batches: Iterable[pa.RecordBatch],
    pairs: pa.Table,
    folds: Sequence[int],
    features: RowFeatures | None = None,
) -> pa.Table:
    """Predicted ratings at pairs of ids; every pair gets one, as often as it is there.

    A row that is in no batch is predicted as a row without ratings, and a column that the vocabulary does not hold as
    the row's mean. The result does not depend on the order of the pairs.

    Args:
        checkpoint: the model.
        batches: rows as a shard holds them, encoded by the model's vocabulary.
        pairs: columns `row` and `column`, ids of the model's types, all of this shard's rows.
        folds: the folds that the model sees.
        features: of the rows that are in no batch.

    Returns:
        Columns row_id, column_id, score (float32, clipped to the range of the training ratings), row_known (bool: has a
        rating that the model sees) and column_known (bool: is in the vocabulary), ascending by row id, then column id.
    """
    num_columns = checkpoint.model.num_columns
    pairs = pairs.sort_by([("row", "ascending"), ("column", "ascending")])
    scores = np.empty(len(pairs), dtype=np.float32)
    row_known, column_known = np.zeros(len(pairs), dtype=bool), np.zeros(len(pairs), dtype=bool)
    waiting = pairs.append_column("place", pa.array(np.arange(len(pairs))))

    def predict(known: SparseRows, those: pa.Table, row: pa.ChunkedArray) -> None:
        place, position = those["place"].to_numpy(), row.to_numpy().astype(np.int64)
        column = checkpoint.vocabulary.encode(those["column"].combine_chunks()).astype(np.int64)
        scores[place] = _predict_pairs(checkpoint.model, known, column, position)
        row_known[place], column_known[place] = known.lengths().numpy()[position] > 0, column >= 0

    for batch in batches:
        position = pc.index_in(waiting["row"], value_set=batch.column("row"))
        here = pc.is_valid(position)
        predict(fold_rows(batch, folds, num_columns), waiting.filter(here), position.filter(here))
        waiting = waiting.filter(pc.invert(here))
    if len(waiting):
        cold = rows_without_ratings([], waiting["row"].chunks)
        position = pc.index_in(waiting["row"], value_set=cold["row"])
        predict(fold_rows(features.beside(cold) if features else cold, folds, num_columns), waiting, position)
    table = {"row_id": pairs["row"], "column_id": pairs["column"], "score": scores}
    return pa.table({**table, "row_known": row_known, "column_known": column_known})


def _predict_pairs(model: Model, known: SparseRows, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Predictions, float32 (pairs,), at columns of rows that lie at the positions `row`, int64 (pairs,), of `known`.

    A column is -1 where the vocabulary does not hold it.
    """
    order = np.argsort(row, kind="stable")
    row, column = row[order], column[order]
    ordered = np.empty(len(row), dtype=np.float32)
    for start in range(0, known.num_rows, _PAIR_ROWS):
        first, last = np.searchsorted(row, [start, start + _PAIR_ROWS])
        if first == last:
            continue
        ratings = known[start : start + _PAIR_ROWS].to(model.device)
        rows, columns = row[first:last] - start, column[first:last]
        scores = model.at_unknown(ratings).cpu().numpy()[rows]
        in_vocabulary = columns >= 0
        # Entries ascend and are distinct within a row, as decoding asks; a pair that is named twice is looked up twice.
        width = model.num_columns
        keys, inverse = np.unique(rows[in_vocabulary] * width + columns[in_vocabulary], return_inverse=True)
        offsets = np.searchsorted(keys // width, np.arange(ratings.num_rows + 1))
        at = SparseRows(torch.from_numpy(offsets), torch.from_numpy(keys % width), torch.zeros(len(keys)), width).to(
            model.device
        )
        scores[in_vocabulary] = model.predict_at(ratings, at).cpu().numpy()[inverse]
        ordered[first:last] = scores
    predicted = np.empty_like(ordered)
    predicted[order] = ordered
    return predicted
