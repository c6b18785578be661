"""The linear item model: a row's score of a column is the sum of item-to-item weights over its known columns.

Its weights have a closed form (EASE: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", 2019), for as many
columns as a matrix of columns x columns fits into memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.nn.gram import column_places
from nnsparse_stream.nn.model import Model, ModelConfig
from nnsparse_stream.nn.ranking import ScoreTile
from nnsparse_stream.sparse.indices import offsets_of
from nnsparse_stream.sparse.rows import SparseRows


def item_weights(gram: Tensor, l2: float, hide_ratio: float = 0.0) -> float:
    """The weights of a linear denoising autoencoder of no hidden units, in the memory of the Gram matrix.

    They are the B of a zero diagonal for which ||W^1/2 (X - X B)||^2 + ||L^1/2 B||^2 is least, where the diagonal of L
    holds l2 + hide_ratio / (1 - hide_ratio) (X'WX)[i, i]: what hiding entries of the input does to the square loss
    of those that were hidden (Steck, "Autoencoders that don't overfit towards the Identity", 2020). With
    P = (X'WX + L)^-1, B[i, j] = -P[i, j] / P[j, j] for i != j (Steck 2019, eq. 8). No other memory is taken.

    Args:
        gram: float (columns, columns), X'WX; only its upper triangle is read. It is overwritten.
        l2: the regularisation that all columns have.
        hide_ratio: share of a row's entries that are as if hidden from the input.

    Returns:
        The least value; `gram` holds B.

    Raises:
        ValueError: the regularised matrix is not positive definite in this precision.
    """
    diagonal = gram.diagonal().double()
    strengths = diagonal * (hide_ratio / (1 - hide_ratio)) + l2
    gram.diagonal().copy_(diagonal + strengths)
    # LAPACK's order: its lower triangle is the upper one here.
    matrix, failed = gram.t(), torch.zeros((), dtype=torch.int32, device=gram.device)
    torch.linalg.cholesky_ex(matrix, out=(matrix, failed))
    if failed:
        raise ValueError(f"the Gram matrix is not positive definite with l2 {l2:g} and hide_ratio {hide_ratio:g}")
    torch.cholesky_inverse(matrix, out=matrix)
    scale = gram.diagonal().clone()
    gram.div_(-scale).fill_diagonal_(0.0)
    # Column j of I - B is that of P / P[j, j], so that its part of the sum is 1 / P[j, j] less what the diagonal of the
    # identity adds.
    return float((1 / scale.double() - strengths).sum())


@dataclass(frozen=True)
class LinearConfig(ModelConfig):
    """What a linear item model is, apart from its weights.

    Attributes:
        num_columns: columns of the catalogue that it was trained on.
        trained_columns: those of them that have a training entry; only they have weights.
        trained_rows: rows that have a training entry.
    """

    trained_columns: int
    trained_rows: int


class LinearItemModel(Model):
    """Scores a column by the sum of its weights from the columns that a row has, whatever the values of its entries.

    The score estimates whether the row has the column, 0 or 1, and is not confined to that range. Fallbacks: a row
    without an entry in a trained column gets each column's popularity, the share of the training rows that have it; a
    column without a training entry, or one that the vocabulary does not hold, 0.

    Attributes:
        weights: float (trained, trained), from each column (first) to each other (second); 0 on the diagonal.
    """

    kind = "linear"
    config_type = LinearConfig
    config: LinearConfig
    weights: Tensor

    def __init__(self, config: LinearConfig, weights: Tensor | None = None) -> None:
        """Wraps the weights without a copy.

        Args:
            config: sizes.
            weights: (trained, trained); without them the memory is not initialised.
        """
        super().__init__(config)
        size = config.trained_columns
        self.register_buffer("weights", torch.empty(size, size) if weights is None else weights)

    @torch.no_grad()
    def predict_at(self, known: SparseRows, at: SparseRows, clip: bool = True) -> Tensor:
        """Scores at given entries; see `Model.predict_at`. O(sum over rows of known entries x entries).

        Args:
            known: the rows' known entries; their values are not read.
            at: the entries to score, a block of as many rows; its values are not read.
            clip: of no effect: scores have no range.
        """
        self.check_pair(known, at)
        places = self._places()[at.columns.long()]
        trained = self._trained(known)
        here = SparseRows(at.offsets, places, at.values, self.config.trained_columns)
        scores = backend_of(self.weights).item_sums_at(trained, self.weights, here)
        cold = (trained.lengths() == 0)[at.row_indices().long()]
        return torch.where(cold, self._popularity()[at.columns.long()], scores)

    @torch.no_grad()
    def tiles(self, known: SparseRows) -> ScoreTile:
        """Scores of rows at ranges of columns; see `Model.tiles`. O(known entries x columns)."""
        trained, places, popularity = self._trained(known), self._places(), self._popularity()
        host_places = self._places(self.host_counts)
        cold = (trained.lengths() == 0).nonzero()[:, 0]
        sums = backend_of(self.weights).item_sums(trained, self.weights)

        def tile(start: int, stop: int) -> Tensor:
            here = host_places[start:stop]
            here = here[here >= 0]
            first = int(here[0]) if len(here) else 0
            scores = sums(first, first + len(here))
            if len(here) < stop - start:
                is_trained = places[start:stop] >= 0
                scores = scores.new_zeros(len(scores), stop - start).masked_scatter_(is_trained, scores)
            scores[cold] = popularity[start:stop]
            return scores

        return tile

    @torch.no_grad()
    def at_unknown(self, known: SparseRows) -> Tensor:
        """Zeros, (rows,)."""
        return self.weights.new_zeros(known.num_rows)

    @torch.no_grad()
    def contributions(self, known: SparseRows, columns: Tensor) -> Tensor:
        """What each known entry adds to scores of its row: exact, they add up to the score of a row that is not cold.

        Args:
            known: the rows' known entries; their values are not read.
            columns: int64 (rows, k), columns of each row; -1 for none.

        Returns:
            (entries of `known`, k); 0 where the entry's column or the scored one has no weights.
        """
        self.check(known)
        places = self._places()
        sources, targets = places[known.columns.long()], torch.where(columns >= 0, places[columns], -1)
        targets = targets[known.row_indices().long()]
        weights = self.weights[sources[:, None].clamp(min=0).long(), targets.clamp(min=0).long()]
        return weights.masked_fill_((sources[:, None] < 0) | (targets < 0), 0.0)

    def _places(self, counts: Tensor | None = None) -> Tensor:
        """int32 (columns,), the place of each column among those that have weights; -1 where it has none.

        Args:
            counts: `column_counts`, or a copy of them.
        """
        places = column_places(self.column_counts if counts is None else counts)
        return places.masked_fill_(places >= self.config.trained_columns, -1)  # all, before the model is solved for

    def _popularity(self) -> Tensor:
        """The share of the training rows that have each column, (columns,)."""
        return (self.column_counts / max(self.config.trained_rows, 1)).to(self.weights.dtype)

    def _trained(self, known: SparseRows) -> SparseRows:
        """The entries in trained columns, by their places among these."""
        self.check(known)
        places = self._places()[known.columns.long()]
        kept = places >= 0
        lengths = torch.zeros_like(known.offsets[1:]).index_add_(0, known.row_indices().long(), kept.to(torch.int32))
        return SparseRows(offsets_of(lengths), places[kept], known.values[kept], self.config.trained_columns)
