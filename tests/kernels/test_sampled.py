import pytest
import torch
from paths import PATHS, path

from nnsparse_stream.kernels.operations import decode_at
from nnsparse_stream.kernels.sampled import decode_columns, sample_columns
from nnsparse_stream.sparse.rows import SparseRows


@pytest.mark.parametrize(("num_columns", "count"), [(1, 1), (9, 5), (1000, 3), (2**31 - 1, 500), (5, 9), (7, 0)])
def test_distinct_columns_are_drawn_in_order_and_a_seed_repeats_them(num_columns, count):
    drawn = sample_columns(num_columns, count, torch.Generator().manual_seed(3))
    assert drawn.dtype == torch.int32
    assert len(drawn) == min(count, num_columns)
    assert (drawn.diff() > 0).all()
    assert not len(drawn) or 0 <= drawn.min() <= drawn.max() < num_columns
    assert torch.equal(drawn, sample_columns(num_columns, count, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("count", [3, 6])
def test_each_column_is_drawn_equally_often(count):
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat([sample_columns(10, count, generator) for _ in range(2000)])
    share = torch.bincount(draws, minlength=10) / 2000
    assert (share - count / 10).abs().max() < 0.05  # 4.5 standard deviations


@pytest.mark.parametrize("name", PATHS)
def test_gradients_of_sampled_columns_add_to_those_of_entries(name):
    generator = torch.Generator().manual_seed(1)
    code, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((2, 4), (6, 4), (6,))
    )
    rows = SparseRows.from_dense(torch.tensor([[1.0, 0, 2, 0, 0, 0], [0, 0, 3, 0, 4, 0]], dtype=torch.float64))
    columns = torch.tensor([1, 2, 5], dtype=torch.int32)
    with path(name):
        sampled = decode_columns(code, weight, bias, columns)
        loss = sampled.square().sum() + decode_at(code, weight, bias, rows).sum()
        gradients = torch.autograd.grad(loss, (code, weight, bias))
        dense = code @ weight.t() + bias
        torch.testing.assert_close(sampled, dense[:, columns.long()])
        loss = dense[:, columns.long()].square().sum() + dense[rows.row_indices().long(), rows.columns.long()].sum()
        for ours, reference in zip(gradients, torch.autograd.grad(loss, (code, weight, bias)), strict=True):
            torch.testing.assert_close(ours.to_dense() if ours is not gradients[0] else ours, reference)
        assert gradients[1].columns.tolist() == [0, 1, 2, 4, 5]
