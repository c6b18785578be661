"""Losses of lists by name: what a row has against columns sampled from all the others, which stand for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.nn.ranking_model import Estimates
from nnsparse_stream.sparse.rows import SparseRows


@dataclass(frozen=True)
class Negatives:
    """The columns that were sampled for a minibatch, as negatives of its rows.

    A row has C - n columns of the C sampled from that it lacks; the S - h sampled ones that it lacks stand for them,
    each for (C - n) / (S - h).

    Attributes:
        rows: the minibatch.
        transposed: its transpose.
        columns: int32 (sampled,), distinct and ascending.
        num_columns: how many columns they were sampled from.
    """

    rows: SparseRows
    transposed: Transposed
    columns: Tensor
    num_columns: int

    @cached_property
    def hits(self) -> tuple[Tensor, Tensor]:
        """Where a row has a sampled column: rows and places in `columns`, both int64 (hits,)."""
        by = self.transposed
        sampled = torch.isin(by.columns, self.columns, assume_unique=True)
        places = torch.searchsorted(self.columns, by.columns[sampled])
        counts = by.offsets.diff()
        entries = sampled.repeat_interleave(counts, output_size=len(by.rows))
        return by.rows[entries].long(), places.repeat_interleave(counts[sampled])

    def without_hits(self, scores: Tensor, value: float) -> Tensor:
        """The scores (rows, sampled), in place, with a value where a row has the column."""
        return scores.index_put_(self.hits, scores.new_tensor(value))

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
    return found + negatives.weights * _SquaresOfRows.apply(negatives.without_hits(estimates.sampled, 0.0))


def logistic(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """The binary cross entropy of each column, with the sigmoid of its score as probability."""
    found = _row_sums(negatives.rows, weights * softplus(-estimates.observed))
    missed = negatives.without_hits(softplus(estimates.sampled), 0.0).sum(1)
    return found + negatives.weights * missed


def multinomial(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """The cross entropy of what a row has, with the softmax of the scores as probabilities.

    The partition is estimated by the row's own entries and the sampled columns that it lacks, each of these counted as
    often as it stands for another (sampled softmax with its correction; Jean et al., "On Using Very Large Target
    Vocabulary for Neural Machine Translation", 2015).
    """
    rows = negatives.rows
    row = rows.row_indices().long()
    others = negatives.without_hits(estimates.sampled, -torch.inf).logsumexp(1) + negatives.weights.log()
    highest = torch.segment_reduce(estimates.observed.detach(), "max", offsets=rows.offsets.long(), unsafe=True)
    own = _row_sums(rows, (estimates.observed - highest[row]).exp()).log() + highest
    partition = torch.logaddexp(own, others)
    return _row_sums(rows, weights * (partition[row] - estimates.observed))


class _SquaresOfRows(torch.autograd.Function):
    """The sum of the squares of each row of a matrix, in one pass forward and one back."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(matrix)
        return torch.linalg.vecdot(matrix, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (matrix,) = ctx.saved_tensors
        return (2 * grads[0])[:, None] * matrix


LOSSES: dict[str, RankingLoss] = {"squared": squared, "logistic": logistic, "multinomial": multinomial}


def _row_sums(rows: SparseRows, values: Tensor) -> Tensor:
    """The sum of each row's values (entries,), (rows,); in float64 within."""
    sums = torch.segment_reduce(values.double(), "sum", offsets=rows.offsets.long(), unsafe=True)
    return sums.to(values.dtype)
