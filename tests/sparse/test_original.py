"""The original's tools under their own names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import VALUES, entries_of, sparse_rows

from nnsparse_stream.sparse.original import densify, sparsify, ssort, ssort_by_index
from nnsparse_stream.sparse.rows import SparseRows

NAN = float("nan")


@given(st.lists(VALUES | st.just(NAN), max_size=8), VALUES | st.just(NAN), st.integers(0, 3))
def test_a_vector_becomes_one_row_and_comes_back_as_a_matrix_of_one_row(elements, fill, offset):
    x = torch.tensor(elements, dtype=torch.float64)
    rows = sparsify(x, fill, offset)
    assert rows.shape == (1, len(elements) + offset)
    torch.testing.assert_close(densify(rows, fill)[:, offset:], x[None], equal_nan=True, rtol=0, atol=0)


@given(sparse_rows(duplicates=False), VALUES | st.just(NAN), st.integers(0, 3))
def test_a_matrix_comes_back(rows, fill, offset):
    x = rows.to_dense()
    back = densify(sparsify(x, fill, offset), fill)
    torch.testing.assert_close(back[:, offset:], x, equal_nan=True, rtol=0, atol=0)


def test_a_negative_offset_may_only_drop_empty_columns():
    assert entries_of(sparsify(torch.tensor([0.0, 0.0, 5.0]), offset=-2)) == [[(0, 5.0)]]
    assert sparsify(torch.zeros(2), offset=-3).shape == (1, 0)
    with pytest.raises(ValueError, match="row 1 holds column -1"):
        sparsify(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), offset=-1)


@pytest.mark.parametrize("shape", [(), (2, 2, 2)])
def test_sparsify_takes_vectors_and_matrices_only(shape):
    with pytest.raises(ValueError, match="takes a vector or a matrix"):
        sparsify(torch.zeros(shape))


def test_densify_widens_and_refuses_what_does_not_fit():
    rows = SparseRows.from_rows([([], []), ([2], [1.0])], 4)
    assert densify(rows).shape == (2, 4)
    assert densify(rows, 7.0, 6).tolist() == [[7.0] * 6, [7.0, 7.0, 1.0, 7.0, 7.0, 7.0]]
    assert densify(rows, num_columns=3).shape == (2, 3)
    with pytest.raises(ValueError, match="row 1 holds column 2, but there are 2 columns"):
        densify(rows, num_columns=2)


@given(sparse_rows(), st.booleans())
def test_sorts_are_those_of_the_rows(rows, descending):
    assert ssort(rows, descending).equal(rows.sort_by_value(descending))
    assert ssort_by_index(rows, descending).equal(rows.sort_by_column(descending))
    assert ssort(rows, inplace=True) is rows


def test_gradients_pass_through_both_ways():
    x = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    densify(sparsify(x, offset=1), num_columns=5).mul(torch.arange(5)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 2.0, 3.0], [1.0, 0.0, 3.0]]
