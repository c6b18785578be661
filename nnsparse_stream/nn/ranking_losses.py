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

from nnsparse_stream.kernels.operations import at_entries, row_sums
from nnsparse_stream.kernels.sampled import filled, places_among
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
    def hits(self) -> Tensor:
        """The place in `columns` of each entry's column, int32 (entries,); -1 where it was not sampled."""
        return places_among(self.columns, self.transposed)

    def without_hits(self, scores: Tensor, value: float) -> Tensor:
        """The scores (rows, sampled), in place, with a value where a row has the column."""
        return filled(scores, self.rows, self.hits, value)

    @cached_property
    def weights(self) -> Tensor:
        """How many columns each of a row's negatives stands for, (rows,); 0 where it has none."""
        hits = row_sums(self.rows, (self.hits >= 0).to(self.rows.dtype))
        lacking = (self.num_columns - self.rows.lengths()).clamp(min=0).to(self.rows.dtype)
        left = len(self.columns) - hits
        return torch.where(left > 0, lacking / left.clamp(min=1), 0.0)


#: Of estimates, what the minibatch's entries weigh (entries,), and negatives: each row's loss, (rows,).
RankingLoss = Callable[[Estimates, Tensor, Negatives], Tensor]


def squared(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """(1 - s)^2 at what a row has, s^2 at all that it lacks (Hu, Koren & Volinsky, 2008, with one confidence)."""
    found = row_sums(negatives.rows, weights * (1 - estimates.observed).square())
    return found + negatives.weights * _SquaresOfRows.apply(negatives.without_hits(estimates.sampled, 0.0))


def logistic(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """The binary cross entropy of each column, with the sigmoid of its score as probability."""
    found = row_sums(negatives.rows, weights * softplus(-estimates.observed))
    missed = negatives.without_hits(softplus(estimates.sampled), 0.0).sum(1)
    return found + negatives.weights * missed


def multinomial(estimates: Estimates, weights: Tensor, negatives: Negatives) -> Tensor:
    """The cross entropy of what a row has, with the softmax of the scores as probabilities.

    The partition is estimated by the row's own entries and the sampled columns that it lacks, each of these counted as
    often as it stands for another (sampled softmax with its correction; Jean et al., "On Using Very Large Target
    Vocabulary for Neural Machine Translation", 2015).
    """
    rows = negatives.rows
    others = negatives.without_hits(estimates.sampled, -torch.inf).logsumexp(1) + negatives.weights.log()
    highest = torch.segment_reduce(estimates.observed.detach(), "max", offsets=rows.offsets.long(), unsafe=True)
    own = row_sums(rows, (estimates.observed - at_entries(rows, highest)).exp()).log() + highest
    partition = torch.logaddexp(own, others)
    return row_sums(rows, weights * (at_entries(rows, partition) - estimates.observed))


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
