"""Criteria: dense and sparse estimates, averages, denoising weights, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from strategies import sparse_rows
from torch import nn

from nnsparse_stream.nn.criteria import (
    MaskCriterion,
    SDAECriterion,
    SDAESparseCriterion,
    SparseCriterion,
    prepare_input,
)
from nnsparse_stream.sparse.rows import SparseRows

ROWS = SparseRows.from_rows(
    [([4, 1], [1.0, 0.0]), ([], []), ([0, 2, 3], [0.5, -1.0, 2.0]), ([3], [1.5])], 5, torch.float64
)
LOSSES = [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), F.huber_loss, lambda a, b: (a - b) ** 4]
MAKERS = [
    lambda loss, average: SparseCriterion(loss, average),
    lambda loss, average: SDAESparseCriterion(loss, 0.8, 0.3, hide_ratio=0.5, average=average, generator=1),
    lambda loss, average: MaskCriterion(loss, 0.8, 0.3, hide_ratio=0.5, average=average, generator=1),
]


@pytest.mark.parametrize("average", ["observed", "all", "none"])
@pytest.mark.parametrize("make", MAKERS, ids=["sparse", "sdae_sparse", "mask"])
@given(target=sparse_rows(duplicates=False, num_columns=5))
def test_dense_and_sparse_estimates_give_the_same_loss_and_gradient(make, average, target):
    for loss in LOSSES:
        criterion = make(loss, average)
        prepare_input(criterion, target)
        dense = torch.linspace(-2, 2, target.num_rows * 5, dtype=torch.float64).view(-1, 5).requires_grad_()
        place = (target.row_indices().long(), target.columns.long())
        values = dense.detach()[place].requires_grad_()
        dense_loss, sparse_loss = criterion(dense, target), criterion(target.with_values(values), target)
        assert dense_loss.shape == ()
        assert torch.equal(dense_loss, sparse_loss)
        dense_loss.backward()
        sparse_loss.backward()
        assert torch.equal(dense.grad[place], values.grad)
        observed = torch.zeros_like(dense, dtype=torch.bool).index_put_(place, torch.tensor(True))
        assert not dense.grad[~observed].any()


def test_averages_divide_by_entries_by_elements_or_not():
    estimate = torch.zeros(4, 5, dtype=torch.float64)
    total = ROWS.values.square().sum()
    assert SparseCriterion(average="none")(estimate, ROWS) == total
    assert SparseCriterion()(estimate, ROWS) == total / 6
    assert SparseCriterion(average="all")(estimate, ROWS) == total / 20
    assert SDAECriterion(beta=1.0).average == MaskCriterion().average == "all"
    assert SDAESparseCriterion().average == "observed"


def test_no_entries_no_loss():
    empty = ROWS[1]
    for make in MAKERS:
        criterion = make(nn.MSELoss(), "observed")
        prepare_input(criterion, empty)
        estimate = torch.ones(1, 5, dtype=torch.float64, requires_grad=True)
        loss = criterion(estimate, empty)
        loss.backward()
        assert loss == 0
        assert not estimate.grad.any()


@pytest.mark.parametrize("make", MAKERS, ids=["sparse", "sdae_sparse", "mask"])
def test_a_sparse_estimate_costs_nothing_of_the_size_of_the_columns(make):
    # Dense, this batch would take more than 30 GB.
    wide = SparseRows(ROWS.offsets, ROWS.columns, ROWS.values, 2**30)
    criterion = make(nn.MSELoss(), "none")
    prepare_input(criterion, wide)
    loss = criterion(wide.with_values(torch.zeros(6, dtype=torch.float64)), wide)
    assert loss == criterion(torch.zeros(4, 5, dtype=torch.float64), ROWS)


def test_the_wrapped_loss_keeps_the_callers_reduction():
    mine = nn.MSELoss(reduction="mean")
    SparseCriterion(mine)
    assert mine.reduction == "mean"


def test_criteria_that_are_not_elementwise_are_refused():
    with pytest.raises(ValueError, match="one loss for each element"):
        SparseCriterion(lambda a, b: (a - b).square().mean())(ROWS, ROWS)
    with pytest.raises(ValueError, match=r"write MSELoss\(\)"):
        SparseCriterion(nn.MSELoss)


@pytest.mark.parametrize(
    "estimate",
    [
        torch.zeros(4, 6),
        torch.zeros(3, 5),
        ROWS[:3],
        ROWS.sort_by_column(),
        SparseRows(ROWS.offsets, ROWS.columns, ROWS.values, 6),
    ],
    ids=["columns", "rows", "sparse rows", "order", "sparse columns"],
)
def test_an_estimate_must_fit_the_target(estimate):
    with pytest.raises(ValueError, match="the estimate"):
        SparseCriterion()(estimate, ROWS)


def test_corrupted_entries_weigh_alpha_and_the_others_beta():
    criterion = SDAESparseCriterion(alpha=0.8, beta=0.3, average="none")
    criterion.corrupted = torch.tensor([True, False, True, False, False, True])
    zeros = ROWS.with_values(torch.zeros(6, dtype=torch.float64))
    squares = ROWS.values.square()
    expected = 0.8 * squares[[0, 2, 5]].sum() + 0.3 * squares[[1, 3, 4]].sum()
    assert criterion(zeros, ROWS).item() == pytest.approx(expected.item(), rel=1e-15)
    criterion.alpha, criterion.beta = 0.0, 1.0
    assert criterion(zeros, ROWS) == squares[[1, 3, 4]].sum()


def test_prepare_input_corrupts_a_copy_and_keeps_the_structure():
    criterion = SDAESparseCriterion(hide_ratio=0.5, generator=3)
    noisy = prepare_input(criterion, ROWS)
    assert noisy.columns is ROWS.columns
    assert ROWS.values.tolist() == [1.0, 0.0, 0.5, -1.0, 2.0, 1.5]
    assert torch.equal(noisy.values, torch.where(criterion.corrupted, 0.0, ROWS.values))


def test_a_seed_or_a_generator_makes_the_draws_repeatable():
    def draws(generator: torch.Generator | int) -> list[bool]:
        criterion = SDAESparseCriterion(hide_ratio=0.5, generator=generator)
        drawn = []
        for _ in range(5):
            prepare_input(criterion, ROWS)
            drawn += criterion.corrupted.tolist()
        return drawn

    assert draws(5) == draws(torch.Generator().manual_seed(5))
    assert draws(5) != draws(6)


def test_prepare_input_is_the_identity_for_plain_losses():
    for criterion in (nn.MSELoss(), F.mse_loss, SparseCriterion()):
        assert prepare_input(criterion, ROWS) is ROWS


def test_mask_criterion_leaves_something_of_every_row():
    rows = SparseRows.from_rows([(range(3), [1.0] * 3)] * 500 + [([], [])], 3)
    criterion = MaskCriterion(hide_ratio=0.5, generator=0)
    noisy = prepare_input(criterion, rows)
    hidden = noisy.to_dense()[:500].eq(0).sum(1)
    assert hidden.max() == 2
    assert torch.equal(noisy.values == 0, criterion.corrupted)
    # Of the eight outcomes for a row, one (all hidden) counts as none hidden.
    assert hidden.double().mean().item() == pytest.approx((3 * 4 - 3) / 8, abs=0.15)
    criterion = MaskCriterion(hide_ratio=1.0)
    assert prepare_input(criterion, rows).equal(rows)
    assert not criterion.corrupted.any()


def test_a_denoising_criterion_wants_its_input_prepared():
    message = "call prepare_input with this batch first"
    for criterion, target in ((SDAESparseCriterion(), ROWS), (SDAECriterion(), ROWS.to_dense())):
        with pytest.raises(ValueError, match=message):
            criterion(target, target)
        prepare_input(criterion, target[:2])
        with pytest.raises(ValueError, match=message):
            criterion(target, target)


def test_bad_arguments():
    with pytest.raises(ValueError, match="average must be one of observed, all, none, got 'mean'"):
        SparseCriterion(average="mean")
    with pytest.raises(ValueError, match="average must be one of all, none"):
        SDAECriterion(average="observed")
    with pytest.raises(ValueError, match="no flip_range"):
        MaskCriterion(flip_ratio=0.1)
    with pytest.raises(ValueError, match="SDAESparseCriterion takes SparseRows, got Tensor"):
        prepare_input(SDAESparseCriterion(), torch.zeros(2, 2))
    dense = SDAECriterion()
    prepare_input(dense, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"the estimate has shape \(2, 3\), the target \(2, 2\)"):
        dense(torch.zeros(2, 3), torch.zeros(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype):
    rows = ROWS.to(dtype=dtype)
    for make in MAKERS:
        criterion = make(nn.MSELoss(), "observed")
        assert prepare_input(criterion, rows).dtype == dtype
        assert criterion(torch.zeros(4, 5, dtype=dtype), rows).dtype == dtype


@pytest.mark.parametrize("make", MAKERS, ids=["sparse", "sdae_sparse", "mask"])
def test_gradcheck(make):
    criterion = make(nn.SmoothL1Loss(), "observed")
    prepare_input(criterion, ROWS)
    dense = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    values = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda estimate: criterion(estimate, ROWS), dense)
    assert torch.autograd.gradcheck(lambda values: criterion(ROWS.with_values(values), ROWS), values)


def test_gradcheck_of_the_dense_criterion():
    criterion = SDAECriterion(nn.MSELoss(), 0.8, 0.3, hide_ratio=0.5, generator=1)
    target = torch.rand(3, 4, dtype=torch.float64)
    prepare_input(criterion, target)
    estimate = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda estimate: criterion(estimate, target), estimate)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", MAKERS, ids=["sparse", "sdae_sparse", "mask"])
def test_a_gpu_gives_the_same_loss(make):
    losses = []
    for device in ("cpu", "cuda"):
        criterion, rows = make(nn.MSELoss(), "observed"), ROWS.to(device)
        prepare_input(criterion, rows)
        losses.append(criterion(torch.ones(4, 5, dtype=torch.float64, device=device), rows).cpu())
    torch.testing.assert_close(*losses)
