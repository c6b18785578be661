"""Dense predictions of a model for a blend's ranking, a tile of columns at a time, whichever axis its rows are.

The rows and columns are those of the blend's first model. A model of the same axis decodes a row's code at the columns.
A model of the other axis has the columns as its rows: these are encoded beforehand, and a row is a column to decode at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from nnsparse_stream.checkpoints.checkpoint import Checkpoint
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.ahead import ahead, sent
from nnsparse_stream.nn.model import FactorModel, Model
from nnsparse_stream.nn.ranking import ScoreTile
from nnsparse_stream.sparse.rows import SparseRows

# Rows encoded at once: bounds what lies beside the codes to rows x hidden units.
_ENCODED_ROWS = 2048


class TilePredictor(Protocol):
    """A model that predicts for rows of the blend's first model."""

    def tiles(self, ids: pa.Array) -> ScoreTile:
        """Predictions for the rows of these ids, tile by tile: in rating units, not clipped."""


class RowPredictor:
    """A model of the same axis and vocabulary as the blend's first, which finds a row's ratings in its own data set.

    A row that is not there is predicted as one without ratings.

    Args:
        model: the model.
        batches: the rows of a shard, which is held as a whole.
        folds: the folds of a row's ratings that the model sees.
    """

    def __init__(self, model: Model, batches: Iterable[pa.RecordBatch], folds: Sequence[int]) -> None:
        self._model = model
        num_columns = model.num_columns
        held = list(batches)
        self._rows = SparseRows.concatenate([*(fold_rows(b, folds, num_columns) for b in held), _no_ratings(model)])
        self._ids = [batch.column("row") for batch in held]

    def tiles(self, ids: pa.Array) -> ScoreTile:
        """Predictions for the rows of these ids, tile by tile: in rating units, not clipped."""
        held = pa.chunked_array(self._ids, type=ids.type).combine_chunks()
        position = pc.index_in(ids, value_set=held).fill_null(len(held)).to_numpy().astype(np.int64)
        return self._model.tiles(sent(self._rows.select(torch.from_numpy(position)), self._model.device))


class ColumnPredictor:
    """A model of the other axis, whose rows are the columns of the blend's first.

    Fallbacks as everywhere: a column that is no row of its data set is predicted as a row without ratings; a row that
    its vocabulary does not hold, or that has no training rating there, as the mean of the column.

    Memory: codes of (columns of the first model) x (hidden units), beside the model.

    Args:
        checkpoint: the model.
        vocabulary: of the first model's columns.
        tables: the rows of its data set, from `encoded_tables`.
    """

    def __init__(self, checkpoint: Checkpoint, vocabulary: Vocabulary, tables: Iterable[pa.Table]) -> None:
        self._model, self._vocabulary = factor_model(checkpoint), checkpoint.vocabulary
        none = _no_ratings(self._model).to(self._model.device)
        self._codes = self._model.codes(none).repeat(len(vocabulary), 1)
        self._fallback = self._model.at_unknown(none).repeat(len(vocabulary))
        for table in tables:
            index = vocabulary.encode(table["row"].combine_chunks())
            known = index >= 0
            columns = torch.from_numpy(index[known]).long().to(none.device)
            codes = table["code"].combine_chunks().flatten().to_numpy().reshape(-1, self._codes.shape[1])[known]
            self._codes[columns] = torch.from_numpy(codes).to(none.device)
            fallback = table["fallback"].to_numpy()[known]
            self._fallback[columns] = torch.from_numpy(fallback).to(none.device)

    def tiles(self, ids: pa.Array) -> ScoreTile:
        """Predictions for the rows of these ids, tile by tile: in rating units, not clipped."""
        index = sent(torch.from_numpy(self._vocabulary.encode(ids)).long(), self._codes.device)
        unknown, index = index < 0, index.clamp(min=0)

        def tile(start: int, stop: int) -> Tensor:
            scores = self._model.decode(self._codes[start:stop], index).t()
            return torch.where(unknown[:, None], self._fallback[start:stop], scores)

        return tile


def encoded_tables(model: FactorModel, batches: Iterable[pa.RecordBatch], folds: Sequence[int]) -> Iterator[pa.Table]:
    """Rows as `ColumnPredictor` takes them.

    Args:
        model: the model, on any device.
        batches: rows as a shard holds them.
        folds: the folds of a row's ratings that the model sees.

    Yields:
        Tables of `files.codes_schema`, in the order of the rows.
    """

    def blocks() -> Iterator[tuple[pa.Array, SparseRows]]:
        for batch in batches:
            ratings = fold_rows(batch, folds, model.num_columns)
            for start in range(0, ratings.num_rows, _ENCODED_ROWS):
                yield batch.column("row").slice(start, _ENCODED_ROWS), ratings[start : start + _ENCODED_ROWS]

    def encode(block: tuple[pa.Array, SparseRows]) -> tuple[Tensor, Tensor]:
        known = sent(block[1], model.device)
        return model.codes(known), model.at_unknown(known)

    for (rows, _), (codes, fallback) in ahead(blocks(), encode, model.device):
        lists = pa.FixedSizeListArray.from_arrays(codes.numpy().ravel(), model.code_units)
        yield pa.table([rows, fallback.numpy(), lists], names=["row", "fallback", "code"])


def factor_model(checkpoint: Checkpoint) -> FactorModel:
    """A checkpoint's model, where its rows can be the columns of a blend's first model.

    Raises:
        InputError: it is of a kind whose rows have no code.
    """
    if not isinstance(checkpoint.model, FactorModel):
        raise InputError(
            f"{checkpoint.url} holds a {checkpoint.model.kind} model, whose rows must be those of the blend: name a "
            "model of its axis first"
        )
    return checkpoint.model


def _no_ratings(model: Model) -> SparseRows:
    """One row without ratings."""
    offsets, columns = torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    return SparseRows(offsets, columns, torch.zeros(0), model.num_columns)
