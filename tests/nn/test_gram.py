"""The Gram matrix: against the dense product, whatever the blocks, and within what int32 holds."""

from __future__ import annotations

import functools
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_rows, sparse_rows

from nnsparse_stream.nn import gram as module
from nnsparse_stream.nn.gram import GramMatrix, RowSums
from nnsparse_stream.sparse.rows import SparseRows


@st.composite
def blocks(draw):
    """Rows as data sets hold them, float32, cut into blocks."""
    rows = draw(sparse_rows(duplicates=False)).sort_by_column()
    cut = draw(st.integers(0, rows.num_rows))
    return rows, [rows[:cut], rows[cut:]]


def summed(parts, power):
    sums = functools.reduce(operator.add, (RowSums.of(part, power) for part in parts))
    matrix = GramMatrix(sums, power)
    for part in parts:
        matrix.add(part)
    return matrix


@given(blocks=blocks(), power=st.sampled_from([0.0, 0.5, 1.0]))
def test_it_is_the_weighted_product_over_the_columns_with_an_entry_whatever_the_blocks(blocks, power):
    rows, parts = blocks
    gram = summed(parts[::-1], power)
    assert torch.equal(gram.matrix, summed([rows], power).matrix)
    x = rows.with_values(torch.ones_like(rows.values, dtype=torch.float64)).to_dense()
    lengths = rows.lengths().double()
    weights = torch.where(lengths > 0, lengths.clamp(min=1) ** -power, 0.0)
    weights /= weights[lengths > 0].mean() if rows.num_entries else 1.0
    x = x[:, (x > 0).any(0)]
    expected = (x.t() * weights) @ x
    torch.testing.assert_close(gram.to_floats().double(), expected.triu(), rtol=1e-5, atol=1e-5)


def test_sums_stay_within_int32_where_weights_of_one_would_not(monkeypatch):
    """2,000 rows of the same columns, as if weights were counted in 2^-50: each sum takes all 31 bits, and no more."""
    monkeypatch.setattr(module, "_WEIGHT_BITS", 50)
    rows = SparseRows.from_rows([(torch.tensor([0, 2]), torch.zeros(2))] * 2_000, num_columns=3)
    gram = summed([rows], 0.5)
    assert gram.matrix.max() > 2**30
    torch.testing.assert_close(gram.to_floats(), torch.tensor([[2000.0, 2000.0], [0.0, 2000.0]]), rtol=1e-5, atol=0)


def test_rows_that_the_sums_do_not_know_or_that_do_not_ascend_are_refused():
    rows = SparseRows.from_rows([(torch.tensor([1, 0]), torch.zeros(2))], num_columns=3)
    gram = GramMatrix(RowSums.of(rows, 0.0), 0.0)
    with pytest.raises(ValueError, match="must ascend"):
        gram.add(rows)
    with pytest.raises(ValueError, match="no entry by the sums"):
        gram.add(SparseRows.from_rows([(torch.tensor([2]), torch.zeros(1))], num_columns=3))


def test_matrices_add_up_part_by_part(monkeypatch):
    monkeypatch.setattr(module, "PART_CELLS", 5)
    rows = random_rows(20, 7, 3)
    sums = RowSums.of(rows, 0.5)
    halves = [GramMatrix(sums, 0.5), GramMatrix(sums, 0.5)]
    for half, part in zip(halves, (rows[:9], rows[9:]), strict=True):
        half.add(part)
    total = GramMatrix(sums, 0.5)
    for (number, one), (same, other) in zip(halves[0].parts(), halves[1].parts(), strict=True):
        assert number == same
        assert len(one) <= 5 + 7
        total.set_part(number, one + other)
    assert number > 2
    assert torch.equal(total.matrix, summed([rows], 0.5).matrix)


def test_no_rows_have_no_columns():
    gram = summed([SparseRows.from_rows([], num_columns=5)], 0.5)
    assert gram.to_floats().shape == (0, 0)
    assert not list(gram.parts())
