"""Losses of lists by name: what a row has against columns sampled from all the others, which stand for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nnsparse_stream.nn.ranking_model import Estimates
from nnsparse_stream.sparse.rows import SparseRows


@dataclass(frozen=True)
class Negatives:
    """The columns that were sampled for a minibatch, as negatives of its rows.

    A row has C - n columns of the C sampled from that it lacks; the S - h sampled ones that it lacks stand for them,
    each for (C - n) / (S - h).

    Attributes:
        rows: the minibatch.
        columns: int32 (sampled,), distinct and ascending.
        num_columns: how many columns they were sampled from.
    """

    rows: SparseRows
    columns: Tensor
    num_columns: int

    @cached_property
    def hits(self) -> tuple[Tensor, Tensor]:
        """Where a row has a sampled column: rows and places in `columns`, both int64 (hits,)."""
        if not len(self.columns):
            empty = torch.zeros(0, dtype=torch.int64, device=self.columns.device)
            return empty, empty
        places = torch.searchsorted(self.columns, self.rows.columns).clamp_(max=len(self.columns) - 1)
        entries = (self.columns[places] == self.rows.columns).nonzero()[:, 0]
        return self.rows.row_indices()[entries].long(), places[entries]

    @cached_property
    def weights(self) -> Tensor:
        """How many columns each of a row's negatives stands for, (rows,); 0 where it has none."""
        hits = torch.bincount(self.hits[0], minlength=self.rows.num_rows)
        lacking = (self.num_columns - self.rows.lengths()).clamp(min=0).to(self.rows.dtype)
        left = len(self.columns) - hits
        return torch.where(left > 0, lacking / left.clamp(min=1), 0.0)


#: Of estimates, what the minibatch's entries weigh (entries,), and negatives: each row's loss, (rows,).
RankingLoss = Callable[[Estimates, Tensor, Negatives], Tensor]


def squared(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """(1 - s)^2 at what a row has, s^2 at all that it lacks (Hu, Koren & Volinsky, 2008, with one confidence)."""
    found = _row_sums(negatives.rows, weights * (1 - estimates.observed).square())
    missed = estimates.sampled.index_put(negatives.hits, estimates.sampled.new_zeros(()))
    return found + negatives.weights * missed.square().sum(1)


def logistic(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """The binary cross entropy of each column, with the sigmoid of its score as probability."""
    found = _row_sums(negatives.rows, weights * softplus(-estimates.observed))
    missed = softplus(estimates.sampled).index_put(negatives.hits, estimates.sampled.new_zeros(()))
    return found + negatives.weights * missed.sum(1)


def multinomial(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """The cross entropy of what a row has, with the softmax of the scores as probabilities.

    The partition is estimated by the row's own entries and the sampled columns that it lacks, each of these counted as
    often as it stands for another (sampled softmax with its correction; Jean et al., "On Using Very Large Target
    Vocabulary for Neural Machine Translation", 2015).
    """
    rows = negatives.rows
    row = rows.row_indices().long()
    corrected = estimates.sampled + negatives.weights.log()[:, None]
    corrected = corrected.index_put(negatives.hits, corrected.new_full((), -torch.inf))
    with torch.no_grad():
        highest = estimates.observed.new_full((rows.num_rows,), -torch.inf)
        highest = highest.scatter_reduce(0, row, estimates.observed, "amax")
        if corrected.shape[1]:
            highest = torch.maximum(highest, corrected.amax(1))
        highest = torch.where(highest.isfinite(), highest, 0.0)
    total = _row_sums(rows, (estimates.observed - highest[row]).exp())
    partition = (total + (corrected - highest[:, None]).exp().sum(1)).log() + highest
    return _row_sums(rows, weights * (partition[row] - estimates.observed))


LOSSES: dict[str, RankingLoss] = {"squared": squared, "logistic": logistic, "multinomial": multinomial}


def _row_sums(rows: SparseRows, values: Tensor) -> Tensor:
    """The sum of each row's values (entries,), (rows,); in float64 within."""
    sums = torch.segment_reduce(values.double(), "sum", offsets=rows.offsets.long(), unsafe=True)
    return sums.to(values.dtype)
