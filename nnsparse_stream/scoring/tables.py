"""Predictions for output: top-K columns of rows, or ratings at given pairs, as Arrow tables with the original ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from nnsparse_stream.checkpoints.checkpoint import Checkpoint
from nnsparse_stream.data.features import RowFeatures
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.nn.ahead import ahead, sent
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.ranking import TILE_COLUMNS, Eligible, ScoreTile, best_columns, rows_at_once
from nnsparse_stream.scoring.blocks import rows_without_ratings
from nnsparse_stream.scoring.combination import Combination
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.scoring.predictors import TilePredictor
from nnsparse_stream.scoring.reasons import reasons
from nnsparse_stream.sparse.rows import SparseRows

#: Bytes that ranking takes at most, beside the models, a shard's rows and the file of their scores; where the model is
#: on a GPU, in the memory of that.
TOP_K_BYTES, TOP_K_GPU_BYTES = 64 << 20, 1 << 30
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
            TOP_K_BYTES allow, or on a GPU TOP_K_GPU_BYTES; there the next rows are ranked while a table is used.
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


def _eligible(model: Model, rules: ListRules, candidates: Iterable[np.ndarray] | None) -> Eligible:
    """Which columns may be listed."""
    trained = model.host_counts >= max(rules.min_column_ratings, 1)
    if candidates is None:
        return Eligible.of(trained, model.device)
    named = torch.zeros(model.num_columns, dtype=torch.bool)
    for columns in candidates:
        named.numpy()[columns] = True
    return Eligible.of(trained & named, model.device)


def _ranked_tables(
    checkpoint: Checkpoint,
    batches: Iterable[pa.RecordBatch],
    k: int,
    folds: Sequence[int],
    rules: ListRules,
    eligible: Eligible,
    tiles: Callable[[pa.Array, SparseRows], ScoreTile],
) -> Iterator[pa.Table]:
    """Tables of the best columns by the scores that `tiles` makes of some rows' ids and known ratings."""
    model, device = checkpoint.model, checkpoint.model.device
    allowed = TOP_K_GPU_BYTES if device.type == "cuda" else TOP_K_BYTES
    bytes_per_row = _BYTES_PER_SCORE * TILE_COLUMNS + _BYTES_PER_RANK * min(k, model.num_columns)
    at_once = max(1, min(allowed // bytes_per_row, rows_at_once(device)))

    def blocks() -> Iterator[tuple[pa.Array, SparseRows]]:
        for batch in batches:
            seen = fold_rows(batch, folds, model.num_columns)
            for start in range(0, seen.num_rows, at_once):
                yield batch.column("row").slice(start, at_once), seen[start : start + at_once]

    def rank(block: tuple[pa.Array, SparseRows]) -> tuple[Tensor, Tensor]:
        known = sent(block[1], device)
        return best_columns(
            tiles(block[0], known), known if rules.exclude_known else _without_entries(known), eligible, k
        )

    for (ids, known), (columns, scores) in ahead(blocks(), rank, device):
        row, place = (columns >= 0).nonzero(as_tuple=True)
        table = {
            "row_id": ids.take(pa.array(row.numpy())),
            "column_id": checkpoint.vocabulary.decode(columns[row, place].numpy()),
            "score": scores[row, place].numpy(),
            "rank": (place + 1).int().numpy(),
        }
        if rules.explain:
            table["reasons"] = _reasons(checkpoint, known.to(device), columns.to(device), rules.explain)
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
    width = model.num_columns

    def blocks() -> Iterator[_Pairs]:
        for start in range(0, known.num_rows, _PAIR_ROWS):
            first, last = np.searchsorted(row, [start, start + _PAIR_ROWS])
            if first == last:
                continue
            ratings, rows, columns = known[start : start + _PAIR_ROWS], row[first:last] - start, column[first:last]
            in_vocabulary = columns >= 0
            # Entries ascend and are distinct within a row; a pair that is named twice is looked up twice.
            keys, places = np.unique(rows[in_vocabulary] * width + columns[in_vocabulary], return_inverse=True)
            offsets = np.searchsorted(keys // width, np.arange(ratings.num_rows + 1))
            at = SparseRows(torch.from_numpy(offsets), torch.from_numpy(keys % width), torch.zeros(len(keys)), width)
            yield _Pairs(ratings, at, rows, in_vocabulary, places)

    def predict(pairs: _Pairs) -> tuple[Tensor, Tensor]:
        ratings = sent(pairs.ratings, model.device)
        return model.at_unknown(ratings), model.predict_at(ratings, sent(pairs.at, model.device))

    ordered = [np.empty(0, dtype=np.float32)]
    for pairs, (unknown, at_known) in ahead(blocks(), predict, model.device):
        scores = unknown.numpy()[pairs.rows]
        scores[pairs.in_vocabulary] = at_known.numpy()[pairs.places]
        ordered.append(scores)
    predicted = np.empty(len(row), dtype=np.float32)
    predicted[order] = np.concatenate(ordered)
    return predicted


class _Pairs(NamedTuple):
    """Pairs of some rows, ascending by row.

    Attributes:
        ratings: the rows' known ratings.
        at: the distinct columns of the pairs, those that the vocabulary holds.
        rows: int64 (pairs,), the row of each.
        in_vocabulary: bool (pairs,), whether it holds the pair's column.
        places: int64, of those pairs where it does, their entries in `at`.
    """

    ratings: SparseRows
    at: SparseRows
    rows: np.ndarray
    in_vocabulary: np.ndarray
    places: np.ndarray
