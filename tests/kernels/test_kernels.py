import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paths import PATHS, path
from strategies import random_rows, sparse_rows

from nnsparse_stream.kernels.cpu import loops as cpu_kernels
from nnsparse_stream.kernels.operations import at_entries, decode_at, encode, row_sums, transpose
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows


@st.composite
def blocks(draw):
    """Blocks as data sets hold them: columns ascend within a row; rows may be empty, values exactly 0.0."""
    return draw(sparse_rows(duplicates=False)).sort_by_column()


def parameters_of(num_columns, seed=0, units=3):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((num_columns, units), (num_columns, units), (num_columns,))
    ]


@pytest.mark.parametrize("name", PATHS)
@given(rows=blocks(), seed=st.integers(0, 99))
def test_forward_and_gradients_equal_those_of_dense_layers(name, rows, seed):
    weight, decoder, bias = parameters_of(rows.num_columns, seed)
    weights_of_outputs = torch.randn(rows.num_entries, dtype=torch.float64)
    row, column = rows.row_indices().long(), rows.columns.long()
    with path(name):
        transposed = transpose(rows)
        sparse = decode_at(torch.tanh(encode(weight, rows, transposed)), decoder, bias, rows, transposed)
        gradients = torch.autograd.grad((sparse * weights_of_outputs).sum(), (weight, decoder, bias))
        dense = (torch.tanh(rows.to_dense() @ weight) @ decoder.t() + bias)[row, column]
        torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)
        references = torch.autograd.grad((dense * weights_of_outputs).sum(), (weight, decoder, bias))
        for ours, reference in zip(gradients, references, strict=True):
            assert isinstance(ours, RowGradient)
            assert ours.shape == reference.shape
            assert ours.columns.tolist() == sorted(set(rows.columns.tolist()))
            torch.testing.assert_close(ours.to_dense(), reference, rtol=0, atol=1e-12)
            torch.testing.assert_close(ours.squared_norm(), reference.square().sum(), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(ours.scale_(0.5).to_dense(), reference / 2, rtol=0, atol=1e-12)


@given(rows=sparse_rows())
def test_entries_may_come_in_any_order_and_twice(rows):
    weight, decoder, bias = parameters_of(rows.num_columns)
    code = encode(weight, rows)
    torch.testing.assert_close(code, torch.from_numpy(rows.to_scipy().toarray()) @ weight, rtol=0, atol=1e-12)
    dense = (code @ decoder.t() + bias)[rows.row_indices().long(), rows.columns.long()]
    torch.testing.assert_close(decode_at(code, decoder, bias, rows), dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_gradcheck_of_the_codes(name):
    rows = SparseRows.from_dense(torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 0], [0, 3, 0, 4]], dtype=torch.float64))
    code = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    decoder, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    with path(name):
        assert torch.autograd.gradcheck(lambda code: decode_at(code, decoder, bias, rows), (code,))


@pytest.mark.parametrize("num_columns", [1, 7, 2048, 2049, 5_000_000])
def test_the_radix_sort_is_the_stable_sort(num_columns):
    per_row = min(num_columns, 300)
    rows = random_rows(20, num_columns, per_row)
    compiled = transpose(rows)
    with path("reference"):
        sorted_by_torch = transpose(rows)
    for field in ("order", "rows", "columns", "offsets"):
        ours, theirs = getattr(compiled, field), getattr(sorted_by_torch, field)
        assert ours.dtype == torch.int32
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", PATHS)
def test_gradients_of_several_minibatches_add_up_exactly(name):
    weight, decoder, bias = parameters_of(30)
    blocks = [random_rows(4, 30, 5, seed=1), random_rows(7, 30, 3, seed=2), random_rows(1, 30, 1, seed=3)]
    with path(name):
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


def test_nan_stays_nan():
    weight, decoder, bias = parameters_of(4)
    rows = SparseRows.from_rows([([0, 1], [float("nan"), 1.0]), ([2], [1.0]), ([3], [float("inf")])], 4, torch.float64)
    code = encode(weight, rows)
    assert code[0].isnan().all()
    assert not code[1].isnan().any()
    assert code[2].isinf().all()
    (decode_at(code[:2], decoder, bias, rows[:2]) * torch.tensor([1.0, float("nan"), 1.0])).sum().backward()
    assert weight.grad.to_dense()[:2].isnan().all()
    assert decoder.grad.squared_norm().isnan()
    assert not weight.grad.to_dense()[2].isnan().any()


def test_the_error_of_float32_is_that_of_its_rounding_and_results_repeat():
    block = random_rows(128, 3000, 150, dtype=torch.float32)
    rows = block.to(dtype=torch.float64)
    rounded = [parameter.detach().float() / 20 for parameter in parameters_of(3000, units=512)]
    exact = [parameter.double() for parameter in rounded]
    runs = []
    for parameters, batch in ((exact, rows), (rounded, block), (rounded, block)):
        leaves = [parameter.clone().requires_grad_() for parameter in parameters]
        code = encode(leaves[0], batch)
        outputs = decode_at(torch.tanh(code), leaves[1], leaves[2], batch)
        outputs.square().mean().backward()
        runs.append([code, outputs, *(leaf.grad.to_dense() for leaf in leaves), leaves[1].grad.squared_norm()])
    for reference, ours, again in zip(*runs, strict=True):
        assert torch.equal(ours, again)
        error = (ours - reference).abs().max() / reference.abs().max()
        assert error < 2e-6


def test_a_million_columns_cost_no_more_memory_than_their_entries():
    rows = SparseRows(torch.tensor([0, 2]), torch.tensor([5, 999_999]), torch.ones(2), 1_000_000)
    weight = torch.zeros(1_000_000, 2, requires_grad=True)
    encode(weight, rows).sum().backward()
    assert weight.grad.rows().shape == (2, 2)
    assert weight.grad.vectors.shape == (1, 2)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_without_entries(name, dtype):
    rows = SparseRows(torch.tensor([0, 0, 0]), torch.tensor([], dtype=torch.int32), torch.tensor([], dtype=dtype), 4)
    weight = torch.ones(4, 3, dtype=dtype, requires_grad=True)
    with path(name):
        code = encode(weight, rows)
        assert code.tolist() == [[0.0] * 3] * 2
        output = decode_at(code, weight, torch.ones(4, dtype=dtype), rows)
        assert output.shape == (0,)
        output.sum().backward()
        assert weight.grad.rows().shape == (0, 3)
        assert not weight.grad.to_dense().any()
        assert weight.grad.squared_norm() == 0


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


@pytest.mark.parametrize("name", PATHS)
@given(rows=blocks(), seed=st.integers(0, 99))
def test_bfloat16_storage_gives_what_its_widened_values_give(name, rows, seed):
    weight, decoder, bias = (p.detach().float() for p in parameters_of(rows.num_columns, seed))
    rows = rows.to(dtype=torch.float32)
    found = {}
    for storage in (torch.bfloat16, torch.float32):
        stored = [matrix.bfloat16().to(storage).requires_grad_() for matrix in (weight, decoder)]
        offsets = bias.clone().requires_grad_()
        with path(name):
            code = torch.tanh(encode(stored[0], rows))
            code.retain_grad()
            output = decode_at(code, stored[1], offsets, rows)
            output.square().sum().backward()
        assert all(matrix.grad.dtype == storage for matrix in stored)
        gradients = [matrix.grad.rows() for matrix in stored]
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        found[storage] = [output, code.grad, *gradients, offsets.grad.rows()]
    for narrow, wide in zip(*found.values(), strict=True):
        torch.testing.assert_close(narrow, wide, rtol=1e-5, atol=1e-5)


def test_a_matrix_of_another_dtype_is_refused():
    rows = random_rows(2, 5, 2)
    with pytest.raises(ValueError, match=r"float64 on cpu does not go with torch.bfloat16"):
        encode(torch.zeros(5, 2, dtype=torch.bfloat16), rows)


@pytest.mark.parametrize("name", PATHS)
def test_a_sum_of_millions_of_equal_numbers_is_right(name):
    """In float32 on one accumulator 4.7 gives 4.64."""
    many = 2_000_000
    rows = SparseRows(
        torch.tensor([0, 0, many, many + 2, many + 2]),
        torch.zeros(many + 2, dtype=torch.int32),
        torch.full((many + 2,), 4.7),
        1,
    )
    weight = torch.ones(1, 1, requires_grad=True)
    with path(name):
        sums = encode(weight, rows)
        sums.backward(torch.ones_like(sums))
        gradient = weight.grad.rows()
        # One row of the gradient, whose entries come from as many rows of the block.
        single = SparseRows(torch.arange(many + 1), rows.columns[:many], rows.values[:many], 1)
        of_column = RowGradient(transpose(single), torch.ones(many, 1), single.values, (1, 1), torch.float32)
        found = [*sums.flatten().tolist(), gradient.item(), of_column.rows().item()]
    expected = [0, 4.7 * many, 9.4, 0, 4.7 * (many + 2), 4.7 * many]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", PATHS)
@given(sparse_rows())
def test_sums_over_rows_and_values_of_rows_at_entries_are_each_others_gradient(name, rows):
    of_rows = torch.arange(1.0, rows.num_rows + 1, dtype=torch.float64, requires_grad=True)
    of_entries = rows.values.requires_grad_()
    row = rows.row_indices().long()
    with path(name):
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
