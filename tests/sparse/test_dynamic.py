"""DynamicSparseTensor: a row that grows entry by entry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import VALUES, entries_of

from nnsparse_stream.sparse.dynamic import DynamicSparseTensor
from nnsparse_stream.sparse.rows import SparseRows

ENTRIES = st.lists(st.tuples(st.integers(0, 9), VALUES), max_size=30)


@given(st.lists(st.tuples(st.booleans(), ENTRIES), max_size=4), st.integers(1, 5), st.sampled_from([1.1, 2, 3]))
def test_builds_what_was_added_in_order(parts, reserve, growth):
    row = DynamicSparseTensor(reserve, growth, torch.float64)
    expected: list[tuple[int, float]] = []
    for at_once, entries in parts:
        if at_once:
            row.extend([column for column, _ in entries], [value for _, value in entries])
        else:
            for column, value in entries:
                row.append(column, value)
        expected += entries
        assert entries_of(row.build(10)) == [expected]
        assert len(row) == len(expected) <= row.capacity


def test_extend_and_append_grow_to_the_same_capacities():
    for count in range(40):
        one, many = DynamicSparseTensor(4, 3), DynamicSparseTensor(4, 3)
        many.extend(torch.arange(count), torch.ones(count))
        for column in range(count):
            one.append(column, 1.0)
        assert one.capacity == many.capacity
        assert one.build().equal(many.build())


def test_number_of_growths_is_logarithmic():
    row = DynamicSparseTensor(1)
    capacities = set()
    for column in range(10_000):
        row.append(column, 1.0)
        capacities.add(row.capacity)
    assert sorted(capacities) == [2**power for power in range(15)]


def test_growth_is_that_of_the_original():
    row = DynamicSparseTensor(reserve=4, growth=3)
    capacities = []
    for column in range(26):
        row.append(column, 1.0)
        capacities.append(row.capacity)
    assert sorted(set(capacities)) == [4, 10, 25, 62]


def test_rows_built_before_are_never_changed():
    row = DynamicSparseTensor(2)
    row.append(1, 1.0)
    built = row.build()
    row.append(2, 2.0)
    full = row.build()
    row.append(3, 3.0)
    grown = row.build()
    row.reset()
    row.append(9, 9.0)
    assert entries_of(built) == [[(1, 1.0)]]
    assert entries_of(full) == [[(1, 1.0), (2, 2.0)]]
    assert entries_of(grown) == [[(1, 1.0), (2, 2.0), (3, 3.0)]]
    assert entries_of(row.build()) == [[(9, 9.0)]]


def test_build_makes_no_copy():
    row = DynamicSparseTensor()
    row.append(1, 1.0)
    assert row.build().values.data_ptr() == row.build().values.data_ptr()


def test_set_copies_one_row():
    row = DynamicSparseTensor(dtype=torch.float64)
    source = SparseRows.from_rows([([4, 2], [1.0, 0.5])])
    row.set(source)
    assert row.capacity == 2
    row.append(1, 3.0)
    assert entries_of(row.build()) == [[(4, 1.0), (2, 0.5), (1, 3.0)]]
    row.set(SparseRows.from_rows([([], [])], 5))
    row.append(0, 1.0)
    assert row.capacity == 1
    with pytest.raises(ValueError, match="a block of one row, got 2 rows"):
        row.set(SparseRows.concatenate([source, source]))


def test_the_dtype_is_torchs_default_or_as_asked():
    assert DynamicSparseTensor().build().dtype == torch.get_default_dtype()
    assert DynamicSparseTensor(dtype=torch.float64).build().dtype == torch.float64
    assert DynamicSparseTensor().build().shape == (1, 0)
    row = DynamicSparseTensor(dtype=torch.float64)
    row.extend([0], [0.1])
    assert row.build().values.item() == 0.1


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"growth must be greater than 1, got 1: a full buffer grows by growth/2"):
        DynamicSparseTensor(growth=1)
    with pytest.raises(ValueError, match="reserve must be at least 1, got 0"):
        DynamicSparseTensor(reserve=0)
    with pytest.raises(ValueError, match="differ in length: 2 and 1"):
        DynamicSparseTensor().extend([1, 2], [1.0])
    for columns in (torch.tensor([2**32]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match=r"columns must (fit in|be) int32"):
            DynamicSparseTensor().extend(columns, [1.0])
    row = DynamicSparseTensor()
    row.append(-1, 1.0)
    with pytest.raises(ValueError, match="row 0 holds column -1"):
        row.build()
