"""The linear item model: its weights against their defining problem, its scores against a dense product."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from backend_cases import ON_CPU
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.kernels.backends import using
from nnsparse_stream.nn.linear import LinearConfig, LinearItemModel, item_weights
from nnsparse_stream.sparse.rows import SparseRows

KNOWN = SparseRows.from_rows(
    [
        (torch.tensor([0, 3, 5]), torch.tensor([5.0, 0.0, -4.0])),
        (torch.tensor([], dtype=torch.int64), torch.tensor([])),
        (torch.tensor([2]), torch.tensor([1.0])),  # a column without a training entry
        (torch.tensor([1, 2]), torch.tensor([2.0, 2.0])),
    ],
    num_columns=6,
)
AT = SparseRows.from_rows([(torch.tensor([0, 2, 5]), torch.zeros(3))] * 4, num_columns=6)
COUNTS = torch.tensor([4, 3, 0, 2, 1, 1])


def make_model(dtype=torch.float32) -> LinearItemModel:
    weights = torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).to(dtype).fill_diagonal_(0)
    model = LinearItemModel(LinearConfig(6, trained_columns=5, trained_rows=8), weights)
    model.column_counts.copy_(COUNTS)
    return model


def expected(model: LinearItemModel) -> torch.Tensor:
    full = torch.zeros(6, 6, dtype=model.weights.dtype)
    trained = (COUNTS > 0).nonzero()[:, 0]
    full[trained[:, None], trained] = model.weights
    scores = KNOWN.with_values(torch.ones(6)).to_dense().to(full.dtype) @ full
    scores[1:3] = (COUNTS / 8).to(full.dtype)
    return scores


@pytest.mark.parametrize("hide_ratio", [0.0, 0.4])
def test_weights_are_the_best_with_a_zero_diagonal(hide_ratio):
    """At the least of a convex problem the gradient is 0, but for the diagonal, which may not move."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(40, 7, generator=generator) < 0.4).double()
    row_weights = torch.rand(40, 1, generator=generator).double()
    gram = (x * row_weights).t() @ x
    strengths = 3.0 + hide_ratio / (1 - hide_ratio) * gram.diagonal()[:, None]
    weights = gram.triu()
    least = item_weights(weights, 3.0, hide_ratio)
    weights.requires_grad_()
    assert not weights.diagonal().any()
    loss = (row_weights * (x - x @ weights).square()).sum() + (strengths * weights.square()).sum()
    assert least == pytest.approx(float(loss.detach()), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.fill_diagonal_(0).abs().max() < 1e-9


def test_a_matrix_that_is_not_positive_definite_is_refused():
    with pytest.raises(ValueError, match="not positive definite with l2 0"):
        item_weights(torch.ones(3, 3), 0.0)


@pytest.mark.parametrize("name", ON_CPU)
@given(cuts=st.sets(st.integers(1, 5)))
def test_scores_are_sums_of_weights_and_popularity_where_there_is_nothing_to_sum(name, cuts):
    model = make_model()
    with using(name):
        dense, bounds = expected(model), [0, *sorted(cuts), 6]
        tile = model.tiles(KNOWN)
        tiles = [tile(start, stop) for start, stop in pairwise(bounds)]
        torch.testing.assert_close(torch.cat(tiles, 1), dense)
        at = model.predict_at(KNOWN, AT)
        torch.testing.assert_close(at, dense[AT.row_indices().long(), AT.columns.long()])
    assert model.at_unknown(KNOWN).tolist() == [0.0] * 4


def test_lists_leave_out_what_a_row_has_and_what_was_never_trained():
    columns, scores = make_model().top_k(KNOWN, 6)
    assert columns[1].tolist() == [0, 1, 3, 4, 5, -1]  # by popularity, ties by column
    assert set(columns[0].tolist()) == {1, 4, -1}
    assert scores[1, :2].tolist() == [0.5, 0.375]


def test_contributions_of_known_entries_add_up_to_the_scores():
    model = make_model()
    columns = torch.tensor([[1, 2, 5], [0, 1, -1], [0, 1, 3], [4, 0, -1]])
    found = model.contributions(KNOWN, columns)
    sums = torch.zeros(4, 3).index_add_(0, KNOWN.row_indices().long(), found)
    scores = expected(model)
    torch.testing.assert_close(sums[0], scores[0, columns[0]])
    torch.testing.assert_close(sums[3, :2], scores[3, columns[3, :2]])
    assert not sums[1:3].any()  # these rows have popularity, which no entry explains
    assert sums[3, 2] == 0
