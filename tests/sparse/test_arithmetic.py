"""Sums and products of sparse rows, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import VALUES, entries_of, pairs_of_rows, sparse_rows

from nnsparse_stream.sparse.rows import SparseRows


@given(pairs_of_rows())
def test_add_rows_is_scipys_sum_over_the_union_of_entries(pair):
    left, right = pair
    total = left.add(right).validate()
    assert np.array_equal(total.to_scipy().toarray(), (left.to_scipy() + right.to_scipy()).toarray())
    union = [
        sorted({column for column, _ in a} | {column for column, _ in b})
        for a, b in zip(entries_of(left), entries_of(right), strict=True)
    ]
    assert [[column for column, _ in row] for row in entries_of(total)] == union


@given(pairs_of_rows())
def test_mul_rows_is_scipys_product_over_the_intersection_of_entries(pair):
    left, right = pair
    product = left.mul(right).validate()
    assert np.array_equal(product.to_scipy().toarray(), left.to_scipy().multiply(right.to_scipy()).toarray())
    intersection = [
        sorted({column for column, _ in a} & {column for column, _ in b})
        for a, b in zip(entries_of(left), entries_of(right), strict=True)
    ]
    assert [[column for column, _ in row] for row in entries_of(product)] == intersection


@given(sparse_rows(), VALUES)
def test_a_scalar_meets_the_stored_entries_only(rows, scalar):
    expected = [[(column, value + scalar) for column, value in row] for row in entries_of(rows)]
    assert entries_of(rows.add(scalar)) == entries_of(rows.add(torch.tensor(scalar))) == expected
    assert np.array_equal(rows.mul(scalar).to_scipy().toarray(), rows.to_scipy().toarray() * scalar)


@given(sparse_rows(), st.data())
def test_a_vector_meets_the_stored_entries_by_column_or_by_row(rows, data):
    for axis, size in (("column", rows.num_columns), ("row", rows.num_rows)):
        vector = data.draw(st.lists(VALUES, min_size=size, max_size=size))
        operand = torch.tensor(vector, dtype=torch.float64)
        place = [
            [column if axis == "column" else row for column, _ in entries]
            for row, entries in enumerate(entries_of(rows))
        ]
        for operation, combine in (("add", lambda a, b: a + b), ("mul", lambda a, b: a * b)):
            got = entries_of(getattr(rows, operation)(operand, axis=axis))
            assert got == [
                [(column, combine(value, vector[at])) for (column, value), at in zip(entries, places, strict=True)]
                for entries, places in zip(entries_of(rows), place, strict=True)
            ]


def test_duplicates_of_a_place_are_summed_within_each_operand():
    rows = SparseRows.from_rows([([2, 2, 0], [1.0, 2.0, 5.0])], 3)
    other = SparseRows.from_rows([([2, 2], [10.0, 10.0])], 3)
    assert entries_of(rows.add(other)) == [[(0, 5.0), (2, 23.0)]]
    assert entries_of(rows.mul(other)) == [[(2, 60.0)]]


def test_the_widest_rows_do_not_overflow():
    width = 2**31 - 1
    rows = SparseRows.from_rows([([width - 1, 0], [1.0, 2.0])] * 3, width)
    assert entries_of(rows.add(rows)) == [[(0, 4.0), (width - 1, 2.0)]] * 3
    assert entries_of(rows.mul(rows)) == [[(0, 4.0), (width - 1, 1.0)]] * 3


def test_explicit_zeros_stay_entries():
    rows = SparseRows.from_rows([([0, 1], [1.0, 0.0])], 2)
    assert entries_of(rows.add(rows.mul(-1.0))) == [[(0, 0.0), (1, 0.0)]]
    assert entries_of(rows.mul(rows)) == [[(0, 1.0), (1, 0.0)]]


def test_what_does_not_fit_is_an_error():
    rows = SparseRows.from_rows([([0, 1], [1.0, 0.0])], 2)
    with pytest.raises(ValueError, match=r"same shape, got \(1, 2\) and \(2, 2\)"):
        rows.add(SparseRows.concatenate([rows, rows]))
    with pytest.raises(ValueError, match="same shape"):
        rows.mul(SparseRows.concatenate([rows, rows]))
    with pytest.raises(ValueError, match=r"one element per row must have shape \(1,\), got \(2,\)"):
        rows.mul(torch.ones(2), axis="row")
    with pytest.raises(ValueError, match=r"one element per column must have shape \(2,\), got \(1,\)"):
        rows.add(torch.ones(1))
    with pytest.raises(ValueError, match="axis must be 'column' or 'row', got 'columns'"):
        rows.add(torch.ones(2), axis="columns")


@pytest.mark.parametrize("operation", ["add", "mul"])
@pytest.mark.parametrize("axis", ["column", "row"])
def test_gradients_reach_both_operands(operation, axis):
    rows = SparseRows.from_rows([([2, 2, 0], [1.0, 2.0, 5.0]), ([1], [0.5])], 3, torch.float64)
    other = SparseRows.from_rows([([2, 1], [3.0, 4.0]), ([1, 0], [0.0, 1.0])], 3, torch.float64)
    vector = torch.rand(3 if axis == "column" else 2, dtype=torch.float64)

    def with_vector(values: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        return getattr(rows.with_values(values), operation)(vector, axis=axis).values

    def with_rows(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return getattr(rows.with_values(values), operation)(other.with_values(others)).values

    values, others = rows.values.requires_grad_(), other.values.requires_grad_()
    assert torch.autograd.gradcheck(with_vector, (values, vector.requires_grad_()))
    assert torch.autograd.gradcheck(with_rows, (values, others))
