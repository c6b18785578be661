import pytest
import torch
from backend_cases import ON_CPU

from nnsparse_stream.kernels.backends import using
from nnsparse_stream.kernels.operations import decode_at, transpose
from nnsparse_stream.kernels.sampled import decode_columns, filled, places_among, sample_columns
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


@pytest.mark.parametrize("num_columns", [513, 2001])
def test_the_first_distinct_columns_of_a_stream_of_draws_are_taken(num_columns):
    draws = torch.randint(num_columns, (512,), generator=torch.Generator().manual_seed(5)).tolist()
    first = list(dict.fromkeys(draws))[:250]
    assert sample_columns(num_columns, 250, torch.Generator().manual_seed(5)).tolist() == sorted(first)


@pytest.mark.parametrize("name", ON_CPU)
def test_entries_find_their_places_among_sampled_columns_and_are_filled_there_with_no_gradient(name):
    dense = torch.tensor([[1.0, 0, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 3, 0, 4, 5]], dtype=torch.float64)
    rows, columns = SparseRows.from_dense(dense), torch.tensor([1, 2, 5], dtype=torch.int32)
    with using(name):
        places = places_among(columns, transpose(rows))
        assert places.tolist() == [-1, 1, 1, -1, 2]
        scores = torch.arange(9, dtype=torch.float64).view(3, 3).requires_grad_()
        out = filled(scores * 1, rows, places, -7.0)
        assert out.tolist() == [[0, -7, 2], [3, 4, 5], [6, -7, -7]]
        (gradient,) = torch.autograd.grad(out.square().sum(), scores)
        assert gradient.tolist() == [[0, 0, 4], [6, 8, 10], [12, 0, 0]]


@pytest.mark.parametrize("name", ON_CPU)
def test_gradients_of_sampled_columns_add_to_those_of_entries(name):
    generator = torch.Generator().manual_seed(1)
    code, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((2, 4), (6, 4), (6,))
    )
    rows = SparseRows.from_dense(torch.tensor([[1.0, 0, 2, 0, 0, 0], [0, 0, 3, 0, 4, 0]], dtype=torch.float64))
    columns = torch.tensor([1, 2, 5], dtype=torch.int32)
    with using(name):
        sampled = decode_columns(code, weight, bias, columns)
        loss = sampled.square().sum() + decode_at(code, weight, bias, rows).sum()
        gradients = torch.autograd.grad(loss, (code, weight, bias))
        dense = code @ weight.t() + bias
        torch.testing.assert_close(sampled, dense[:, columns.long()])
        loss = dense[:, columns.long()].square().sum() + dense[rows.row_indices().long(), rows.columns.long()].sum()
        for ours, reference in zip(gradients, torch.autograd.grad(loss, (code, weight, bias)), strict=True):
            torch.testing.assert_close(ours.to_dense() if ours is not gradients[0] else ours, reference)
        assert gradients[1].columns.tolist() == [0, 1, 2, 4, 5]
