"""A model judged on a data set that has columns more than the model was trained on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nnsparse_stream.nn.model import Model
from nnsparse_stream.sparse.rows import SparseRows


class EarlierColumns:
    """A model whose columns are the first of a data set's, as a `Predictor` of all of them.

    Ratings of the other columns are not shown to the model, as `score --input` leaves them out; these columns have the
    score of a column that the vocabulary does not hold, and are in no list.

    Args:
        model: on any device.
        num_columns: of the data set, no fewer than the model's.

    Attributes:
        column_counts: int64 (num_columns,), training entries of each column; 0 of those that the model has not.
    """

    def __init__(self, model: Model, num_columns: int) -> None:
        self._model = model
        self.column_counts = torch.zeros(num_columns, dtype=torch.int64, device=model.device)
        self.column_counts[: model.num_columns] = model.column_counts

    @torch.no_grad()
    def predict_at(self, known: SparseRows, at: SparseRows) -> Tensor:
        """Predicted ratings at the entries of `at`, (entries,), of rows of which these entries are known."""
        shown, has = self._shown(known), at.columns < self._model.num_columns
        scores = self._model.at_unknown(shown)[at.row_indices().long()]
        scores[has] = self._model.predict_at(shown, self._shown(at)).to(scores.dtype)
        return scores

    @torch.no_grad()
    def top_k(self, known: SparseRows, k: int) -> tuple[Tensor, Tensor]:
        """The k best columns that a row does not know, int64 (rows, k), -1 where there are fewer; and their scores."""
        columns, scores = self._model.top_k(self._shown(known), k)
        lacking = (0, k - columns.shape[1])  # of a model that has fewer columns than k
        return functional.pad(columns, lacking, value=-1), functional.pad(scores, lacking, value=-torch.inf)

    def _shown(self, rows: SparseRows) -> SparseRows:
        """The entries of the columns that the model has."""
        has = rows.columns < self._model.num_columns
        before = torch.cat([has.new_zeros(1, dtype=torch.int64), has.cumsum(0)])
        offsets = before[rows.offsets.long()].to(rows.offsets.dtype)
        return SparseRows(offsets, rows.columns[has], rows.values[has], self._model.num_columns, rows.features)
