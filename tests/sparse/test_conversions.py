"""Conversions of sparse rows: what they keep, what they do not copy, what they refuse."""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from strategies import VALUES, entries_of, sparse_rows

from nnsparse_stream.sparse.rows import SparseRows

NAN = float("nan")
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")


def example(dtype: torch.dtype = torch.float64) -> SparseRows:
    return SparseRows.from_rows([([3, 1], [1.0, 2.0]), ([], []), ([0, 4, 2], [0.0, NAN, 5.0])], 5, dtype)


def test_rows_from_pairs_and_from_n_by_2_tensors():
    pairs = SparseRows.from_rows([([2, 0], [1.0, 2.0]), (np.array([1]), np.array([0.5]))])
    tensors = SparseRows.from_rows([torch.tensor([[2, 1.0], [0, 2.0]]), torch.tensor([[1, 0.5]])])
    assert entries_of(pairs) == entries_of(tensors) == [[(2, 1.0), (0, 2.0)], [(1, 0.5)]]
    assert pairs.shape == tensors.shape == (2, 3)
    assert SparseRows.from_rows([([1], [2])]).dtype == torch.get_default_dtype()
    assert SparseRows.from_rows([([1], np.array([2.0]))]).dtype == torch.float64
    assert SparseRows.from_rows(
        [torch.zeros(0, 2, dtype=torch.float64), ([1], np.array([2.0]))]
    ).lengths().tolist() == [0, 1]
    assert SparseRows.from_rows([]).shape == (0, 0)
    assert SparseRows.from_rows([([1], [0.1])], dtype=torch.float64).values.item() == 0.1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (([0, 1], [1.0]), r"row 1 must have as many columns as values, got \(2,\), \(1,\)"),
        (([0.5], [1.0]), "row 1 holds column 0.5: a column must be an integer"),
        (torch.tensor([[NAN, 1.0]]), "row 1 holds column nan"),
        (torch.ones(2, 3), r"row 1 must be a tensor of shape \(n, 2\), got \(2, 3\)"),
        (([-1], [1.0]), "row 1 holds column -1"),
        (([3], [1.0]), "row 1 holds column 3, but there are 3 columns"),
    ],
)
def test_a_bad_row_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        SparseRows.from_rows([([2], [1.0]), row], 3)


@given(sparse_rows(duplicates=False, values=VALUES.filter(bool)))
def test_dense_and_back(rows):
    assert np.array_equal(rows.to_dense().numpy(), rows.to_scipy().toarray())
    assert SparseRows.from_dense(rows.to_dense()).equal(rows.sort_by_column())


@given(sparse_rows(), VALUES | st.just(NAN))
def test_to_dense_fills_what_is_not_stored_and_takes_the_last_of_duplicates(rows, fill):
    expected = np.full(rows.shape, fill)
    for row, entries in enumerate(entries_of(rows)):
        for column, value in entries:
            expected[row, column] = value
    assert np.array_equal(rows.to_dense(fill).numpy(), expected, equal_nan=True)


@given(sparse_rows(duplicates=False, values=VALUES | st.just(NAN)), VALUES | st.just(NAN))
def test_from_dense_drops_the_fill_element_only(rows, fill):
    kept = SparseRows.from_dense(rows.to_dense(NAN), fill)
    expected = rows.to_dense(NAN).numpy()
    present = ~np.isnan(expected) if np.isnan(fill) else expected != fill
    assert kept.num_entries == present.sum()
    assert np.array_equal(kept.values.numpy(), expected[present], equal_nan=True)
    assert np.array_equal(kept.columns.numpy(), present.nonzero()[1])


def test_from_dense_refuses_other_dimensions():
    with pytest.raises(ValueError, match=r"must be 2-d, got shape \(3,\)"):
        SparseRows.from_dense(torch.ones(3))


@given(sparse_rows())
def test_arrow_and_back(rows):
    columns, values = rows.to_arrow()
    assert columns.type == pa.list_(pa.int32())
    assert values.type == pa.list_(pa.float64())
    assert SparseRows.from_arrow(columns, values, rows.num_columns).equal(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrow_shares_memory_both_ways(dtype):
    rows = example(dtype)
    columns, values = rows.to_arrow()
    assert values.values.buffers()[1].address == rows.values.data_ptr()
    assert columns.values.buffers()[1].address == rows.columns.data_ptr()
    assert columns.buffers()[1].address == rows.offsets.data_ptr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of read-only memory by some ways in
        back = SparseRows.from_arrow(columns, values, 5)
    assert [tensor.data_ptr() for tensor in (back.offsets, back.columns, back.values)] == [
        tensor.data_ptr() for tensor in (rows.offsets, rows.columns, rows.values)
    ]
    assert back.columns.dtype == torch.int32


def test_arrow_slices_and_large_lists():
    rows = example()
    columns, values = rows.to_arrow()
    part = SparseRows.from_arrow(columns[1:], values[1:], 5)
    assert part.equal(rows[1:])
    assert part.values.data_ptr() == rows.values[2:].data_ptr()
    large = SparseRows.from_arrow(columns.cast(pa.large_list(pa.int64())), values, 5)
    assert large.equal(rows)
    assert large.columns.dtype == large.offsets.dtype == torch.int32


def test_arrow_memory_lives_as_long_as_the_rows():
    rows = SparseRows.from_arrow(pa.array([[1, 2]] * 1000, pa.list_(pa.int32())), pa.array([[1.0, 2.0]] * 1000), 3)
    pa.array(range(100_000))
    assert rows.values.sum() == 3000


INTS, FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("columns", "values", "message"),
    [
        (pa.array([[0], [1, 2]], INTS), pa.array([[1.0], [1.0]], FLOATS), "row 1 has 2 columns, but 1 values"),
        (pa.array([[0]], INTS), pa.array([], FLOATS), "there are 1 rows of columns, but 0 rows of values"),
        (pa.array([[0], None], INTS), pa.array([[1.0], None], FLOATS), "row 1 of columns is null"),
        (pa.array([[0], [1]], INTS), pa.array([[1.0], [None]], FLOATS), "row 1 of values holds a null"),
        (pa.array([[0], [7]], INTS), pa.array([[1.0], [2.0]], FLOATS), "row 1 holds column 7"),
        (pa.array([0, 7]), pa.array([[1.0], [2.0]], FLOATS), "columns must be an Arrow list array, got int64"),
        (pa.array([[0]], INTS), pa.array([[1]], INTS), "values must be float32 or float64, got torch.int32"),
    ],
)
def test_arrow_lists_that_do_not_fit_are_named(columns, values, message):
    with pytest.raises(ValueError, match=message):
        SparseRows.from_arrow(columns, values, 5)


@given(sparse_rows(duplicates=False))
def test_torch_csr_and_back(rows):
    matrix = rows.to_torch_csr()
    assert np.array_equal(matrix.to_dense().numpy(), rows.to_scipy().toarray())
    assert SparseRows.from_torch_csr(matrix).equal(rows.sort_by_column())


def test_torch_csr_shares_memory_when_sorted():
    rows = example().sort_by_column()
    matrix = rows.to_torch_csr()
    back = SparseRows.from_torch_csr(matrix)
    assert matrix.values().data_ptr() == rows.values.data_ptr() == back.values.data_ptr()
    assert matrix.col_indices().data_ptr() == rows.columns.data_ptr() == back.columns.data_ptr()
    crow, columns = matrix.crow_indices(), matrix.col_indices()
    torch.sparse_csr_tensor(crow, columns, matrix.values(), matrix.shape, check_invariants=True)


def test_torch_csr_refuses_duplicates():
    rows = SparseRows.from_rows([([0], [1.0]), ([2, 1, 2], [1.0, 2.0, 3.0])])
    with pytest.raises(ValueError, match="row 1 holds column 2 twice"):
        rows.to_torch_csr()


@given(sparse_rows())
def test_scipy_and_back(rows):
    matrix = rows.to_scipy()
    assert matrix.shape == rows.shape
    assert SparseRows.from_scipy(matrix).equal(rows)


def test_scipy_shares_memory_and_other_formats_are_converted():
    rows = example()
    matrix = rows.to_scipy()
    back = SparseRows.from_scipy(matrix)
    assert np.shares_memory(matrix.data, rows.values.numpy())
    assert np.shares_memory(matrix.indices, rows.columns.numpy())
    assert back.values.data_ptr() == rows.values.data_ptr()
    assert back.columns.data_ptr() == rows.columns.data_ptr()
    assert back.offsets.data_ptr() == rows.offsets.data_ptr()
    assert SparseRows.from_scipy(matrix.tocoo()).sort_by_column().equal(rows.sort_by_column())
    assert SparseRows.from_scipy(sparse.csr_matrix(matrix)).equal(rows)
    with pytest.raises(ValueError, match=r"values must be float32 or float64, got torch.int64: convert them first"):
        SparseRows.from_scipy(sparse.csr_array(np.array([[1, 0]])))


def test_conversions_take_values_that_require_grad():
    rows = example().with_values(example().values.requires_grad_())
    assert rows.to_arrow()[1].to_pylist()[0] == [1.0, 2.0]
    assert rows.to_scipy().data[1] == 2.0
    assert not rows.to_torch_csr().requires_grad
