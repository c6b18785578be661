import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import random_rows, sparse_rows

from nnsparse_stream.kernels.cpu import loops as cpu_kernels
from nnsparse_stream.kernels.operations import at_entries, decode_at, encode, row_sums, transpose
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows


def parameters_of(num_columns, seed=0, units=3):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((num_columns, units), (num_columns, units), (num_columns,))
    ]


def test_gradients_of_several_minibatches_and_of_several_uses_add_up_exactly():
    weight, decoder, bias = parameters_of(30)
    blocks = [random_rows(4, 30, 5, seed=1), random_rows(7, 30, 3, seed=2), random_rows(1, 30, 1, seed=3)]
    for rows in blocks:  # three backward passes, the last one through two uses of each matrix
        again = decode_at(torch.tanh(encode(weight, rows)), decoder, bias, rows).square().sum()
        loss = decode_at(encode(weight, rows), decoder, bias, rows).sum() + again
        loss.backward()
    ours = [parameter.grad for parameter in (weight, decoder, bias)]
    dense = [parameter.detach().clone().requires_grad_() for parameter in (weight, decoder, bias)]
    for rows in blocks:
        at = rows.row_indices().long(), rows.columns.long()
        x = rows.to_dense()
        y = (torch.tanh(x @ dense[0]) @ dense[1].t() + dense[2])[at]
        ((x @ dense[0] @ dense[1].t() + dense[2])[at].sum() + y.square().sum()).backward()
    for gradient, reference in zip(ours, dense, strict=True):
        assert isinstance(gradient, RowGradient)
        touched = reference.grad.view(30, -1).any(1).nonzero().flatten()
        assert set(touched.tolist()) <= set(gradient.columns.tolist())
        torch.testing.assert_close(gradient.to_dense(), reference.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            gradient.squared_norm(), reference.grad.square().sum(), rtol=1e-12, atol=1e-12
        )  # fmt: skip


def test_zero_grad_clears_and_other_operations_are_refused_with_advice():
    weight = torch.nn.Parameter(torch.ones(30, 3, dtype=torch.float64))
    rows = random_rows(2, 30, 4)
    encode(weight, rows).sum().backward()
    assert repr(weight.grad) == f"RowGradient({len(weight.grad.columns)} of 30 rows, torch.float64, cpu)"
    with pytest.raises(TypeError, match=r"update the parameter by RowSGD"):
        torch.optim.SGD([weight], lr=0.1).step()
    with pytest.raises(TypeError, match=r"a gradient by rows and a dense one"):
        weight.square().sum().backward()
    module = torch.nn.Module()
    module.weight = weight
    module.zero_grad()
    assert weight.grad is None
    (encode(weight, rows).sum()).backward()
    torch.optim.SGD([weight], lr=0.1).zero_grad()
    assert weight.grad is None


def test_a_million_columns_cost_no_more_memory_than_their_entries():
    rows = SparseRows(torch.tensor([0, 2]), torch.tensor([5, 999_999]), torch.ones(2), 1_000_000)
    weight = torch.zeros(1_000_000, 2, requires_grad=True)
    encode(weight, rows).sum().backward()
    assert weight.grad.rows().shape == (2, 2)
    assert weight.grad.vectors.shape == (1, 2)


def test_what_does_not_fit_is_refused_before_memory_is_touched():
    weight, decoder, bias = parameters_of(4)
    rows = SparseRows.from_rows([([0, 3], [1.0, 2.0])], 4, torch.float64)
    code = torch.ones(1, 3, dtype=torch.float64)
    wrong = SparseRows(rows.offsets, torch.tensor([0, 4]), rows.values, 4)
    for call in (
        lambda: encode(weight, wrong),
        lambda: decode_at(code, decoder, bias, wrong),
        lambda: transpose(wrong),
    ):
        with pytest.raises(ValueError, match="row 0 holds column 4, but there are 4 columns"):
            call()
    with pytest.raises(ValueError, match=r"offsets must ascend|but there are 2 entries"):
        encode(weight, SparseRows(torch.tensor([0, 9]), rows.columns, rows.values, 4))
    with pytest.raises(ValueError, match="the rows have 4 columns, but the matrix has 3 rows"):
        encode(weight[:3], rows)
    with pytest.raises(ValueError, match=r"torch\.float32 on cpu does not go with torch\.float64"):
        encode(weight, rows.to(dtype=torch.float32))
    with pytest.raises(ValueError, match=r"codes must be \(1, 3\), got \(2, 3\)"):
        decode_at(torch.ones(2, 3, dtype=torch.float64), decoder, bias, rows)
    with pytest.raises(ValueError, match=r"the bias must be \(4,\), got \(3,\)"):
        decode_at(code, decoder, bias[:3], rows)
    with pytest.raises(ValueError, match="a transpose of 1 entries is not that of 2"):
        encode(weight, rows, transpose(one_entry()))


def one_entry():
    return SparseRows(torch.tensor([0, 1]), torch.tensor([2]), torch.ones(1, dtype=torch.float64), 4)


def test_without_a_place_for_a_cache_functions_compile_all_the_same(monkeypatch):
    compile_function = cpu_kernels.numba.njit

    def refuse_cache(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_function(function, **options)

    monkeypatch.setattr(cpu_kernels.numba, "njit", refuse_cache)
    assert cpu_kernels.compiled(lambda number: number + 1)(2) == 3


def test_processes_that_compile_for_two_types_at_once_leave_each_type_its_own_machine_code(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_kernels.numba.config, "CACHE_DIR", str(tmp_path))

    def total(values):
        return values.sum()

    one, other, later = (cpu_kernels.compiled(total) for _ in range(3))
    save_data = one._cache._cache_file._save_data

    def save_later(name, data):
        other(np.ones(3, np.int64))
        save_data(name, data)

    monkeypatch.setattr(one._cache._cache_file, "_save_data", save_later)
    monkeypatch.setattr(other._cache._cache_file, "_load_index", dict)  # before the one wrote
    one(np.ones(3, np.float32))
    assert [later(np.ones(3, dtype)) for dtype in (np.int64, np.float32)] == [3, 3]
    assert later.stats.cache_hits.total() == 2


def test_a_matrix_of_another_dtype_is_refused():
    rows = random_rows(2, 5, 2)
    with pytest.raises(ValueError, match=r"float64 on cpu does not go with torch.bfloat16"):
        encode(torch.zeros(5, 2, dtype=torch.bfloat16), rows)


@given(sparse_rows())
def test_sums_over_rows_and_values_of_rows_at_entries_are_each_others_gradient(rows):
    of_rows = torch.arange(1.0, rows.num_rows + 1, dtype=torch.float64, requires_grad=True)
    of_entries = rows.values.requires_grad_()
    row = rows.row_indices().long()
    spread, sums = at_entries(rows, of_rows), row_sums(rows, of_entries)
    assert torch.equal(spread, of_rows[row])
    assert torch.equal(sums, torch.zeros(rows.num_rows, dtype=torch.float64).index_add(0, row, of_entries))
    weights, row_weights = torch.linspace(1, 2, rows.num_entries).double(), of_rows.detach()
    (found,) = torch.autograd.grad((spread * weights).sum(), of_rows)
    assert torch.equal(found, row_sums(rows, weights))
    (found,) = torch.autograd.grad((sums * row_weights).sum(), of_entries)
    assert torch.equal(found, at_entries(rows, row_weights))


def test_places_without_entries_give_theirs_to_the_last_column():
    columns, offsets = torch.tensor([1, 4, 4, 4]).int(), torch.tensor([0, 2, 3, 3, 3]).int()
    by = Transposed(torch.arange(3).int(), torch.tensor([0, 1, 0]).int(), columns, offsets)
    view = by.of_places()
    assert view.columns.tolist() == [1, 4, 4, 4]
    assert view.offsets.tolist() == [0, 1, 4, 4, 4]
    assert view.rows.tolist() == view.order.tolist() == [0, 1, 2, 3]
