"""SparseRows: checks, slicing, selection, concatenation, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from strategies import VALUES, entries_of, sparse_rows

from nnsparse_stream.sparse.rows import SparseRows

NAN = float("nan")


def example(dtype: torch.dtype = torch.float64) -> SparseRows:
    return SparseRows.from_rows([([3, 1], [1.0, 2.0]), ([], []), ([0, 4, 2], [0.0, NAN, 5.0])], 5, dtype)


def int32(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize(
    ("offsets", "columns", "values", "num_columns", "message"),
    [
        (int32(0, 1)[None], int32(0), torch.ones(1), 2, "must be 1-d, got shapes \\(1, 2\\)"),
        (int32(), int32(), torch.ones(0), 2, "one element more than there are rows"),
        (int32(0, 2), int32(0, 1), torch.ones(1), 2, "differ in length: 2 and 1"),
        (int32(0, 1), int32(0), torch.ones(1).long(), 2, "float32 or float64, got torch.int64"),
        (int32(0, 1), int32(0), torch.ones(1).half(), 2, "float32 or float64, got torch.float16"),
        (int32(0, 1), int32(0).float(), torch.ones(1), 2, "columns must be int32 or int64, got torch.float32"),
        (int32(0, 1), torch.tensor([2**31]), torch.ones(1), 2, "columns must fit in int32, got 2147483648"),
        (int32(0, 1), int32(0), torch.ones(1), -1, "num_columns must lie between 0 and 2147483647, got -1"),
        (int32(0, 1), int32(0), torch.ones(1), 2**31, "num_columns must lie between"),
        (int32(0, 1), int32(0), torch.ones(1, device="meta"), 2, "on one device, got cpu, cpu, meta"),
    ],
)
def test_init_refuses_tensors_that_do_not_fit(offsets, columns, values, num_columns, message):
    with pytest.raises(ValueError, match=message):
        SparseRows(offsets, columns, values, num_columns)


@pytest.mark.parametrize(
    ("offsets", "columns", "message"),
    [
        (int32(1, 2), int32(0, 1), "row 0 must start at entry 0, but offsets\\[0\\] is 1"),
        (int32(0, 1, 2, 1), int32(0, 1), "row 2 starts at entry 2 but ends at entry 1"),
        (int32(0, 1, 1), int32(0, 1), "row 1 ends at entry 1, but there are 2 entries"),
        (int32(0), int32(0), "there are no rows, but there are 1 entries"),
        (int32(0, 1, 1, 3), int32(0, 1, 4), "row 2 holds column 4, but there are 4 columns, numbered from 0 to 3"),
        (int32(0, 1, 1, 2), int32(-1, 1), "row 0 holds column -1"),
    ],
)
def test_validate_names_the_first_bad_row(offsets, columns, message):
    rows = SparseRows(offsets, columns, torch.ones(len(columns)), 4)
    with pytest.raises(ValueError, match=message):
        rows.validate()


def test_validate_returns_good_rows_and_takes_zero_and_nan_as_observed():
    rows = example()
    assert rows.validate() is rows
    assert rows.num_entries == 5
    assert SparseRows(int32(0), int32(), torch.ones(0), 0).validate().shape == (0, 0)


def test_int64_indices_are_narrowed_and_int32_kept():
    columns = int32(1, 0)
    rows = SparseRows(torch.tensor([0, 2]), columns, torch.ones(2), 2)
    assert rows.offsets.dtype == torch.int32
    assert rows.columns is columns


def test_properties():
    rows = example(torch.float32)
    assert (len(rows), rows.num_rows, rows.num_entries, rows.shape) == (3, 3, 5, (3, 5))
    assert rows.dtype == torch.float32
    assert rows.device == torch.device("cpu")
    assert rows.lengths().tolist() == [2, 0, 3]
    assert rows.row_indices().tolist() == [0, 0, 2, 2, 2]
    assert rows.lengths().dtype == rows.row_indices().dtype == torch.int32
    assert repr(rows) == "SparseRows(3 rows x 5 columns, 5 entries, torch.float32, cpu)"


@given(sparse_rows())
def test_row_indices_are_those_of_scipy(rows):
    assert rows.row_indices().tolist() == rows.to_scipy().tocoo().row.tolist()


def test_equal_sees_every_difference():
    rows = example()
    assert rows.equal(example())  # NaN and all
    assert not rows.equal(example(torch.float32))
    assert not rows.equal(rows[:2])
    assert not rows.equal(rows.with_values(rows.values + 1))
    assert not rows.equal(rows.sort_by_column())
    assert not rows.equal(SparseRows(rows.offsets, rows.columns, rows.values, 6))


@given(sparse_rows(), st.data())
def test_slices_are_those_of_scipy(rows, data):
    bound = st.none() | st.integers(-8, 8)
    cut = slice(data.draw(bound), data.draw(bound), data.draw(st.sampled_from([None, 1, 2, -1])))
    sliced = rows[cut].validate()
    assert entries_of(sliced) == entries_of(rows)[cut]
    assert np.array_equal(sliced.to_scipy().toarray(), rows.to_scipy()[cut].toarray())


def test_slices_of_consecutive_rows_share_memory():
    rows = example()
    part = rows[1:]
    assert part.values.data_ptr() == rows.values[2:].data_ptr()
    assert part.columns.data_ptr() == rows.columns[2:].data_ptr()
    assert rows[:2].offsets.data_ptr() == rows.offsets.data_ptr()


def test_one_row():
    rows = example()
    assert entries_of(rows[0]) == [[(3, 1.0), (1, 2.0)]]
    assert rows[1].shape == (1, 5)
    assert rows[-1].equal(rows[2])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"there is no row {index}: there are 3 rows"):
            rows[index]


@given(sparse_rows(), st.data())
def test_select_takes_rows_in_any_order_and_repeatedly(rows, data):
    index = data.draw(st.lists(st.integers(0, rows.num_rows - 1), max_size=8)) if rows.num_rows else []
    selected = rows.select(torch.tensor(index, dtype=torch.int64)).validate()
    assert entries_of(selected) == [entries_of(rows)[row] for row in index]
    assert np.array_equal(selected.to_scipy().toarray(), rows.to_scipy()[index].toarray())


def test_select_names_a_row_that_is_not_there():
    with pytest.raises(IndexError, match="there is no row 3: there are 3 rows"):
        example().select(torch.tensor([0, 3]))
    with pytest.raises(IndexError, match="there is no row -1"):
        example().select(torch.tensor([-1]))


@given(st.lists(sparse_rows(num_columns=4, max_rows=3), min_size=1, max_size=4))
def test_concatenate_is_a_vertical_stack(blocks):
    rows = SparseRows.concatenate(blocks).validate()
    assert entries_of(rows) == [row for block in blocks for row in entries_of(block)]
    assert np.array_equal(rows.to_scipy().toarray(), sparse.vstack([block.to_scipy() for block in blocks]).toarray())


def test_concatenate_refuses_what_does_not_fit():
    rows = example()
    with pytest.raises(ValueError, match="at least one block"):
        SparseRows.concatenate([])
    with pytest.raises(ValueError, match=r"block 1 has 5 columns of torch.float32 .* block 0 has 5 of torch.float64"):
        SparseRows.concatenate([rows, rows.to(dtype=torch.float32)])
    with pytest.raises(ValueError, match="block 2 has 6 columns"):
        SparseRows.concatenate([rows, rows, SparseRows(rows.offsets, rows.columns, rows.values, 6)])


def test_to_converts_values_and_copies_only_what_changes():
    rows = example()
    single = rows.to("cpu", torch.float32)
    assert single.dtype == torch.float32
    assert single.columns is rows.columns
    assert rows.to().values is rows.values
    assert rows.to("meta").device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pin_memory_and_transfer_keep_the_entries():
    rows = example()
    pinned = rows.pin_memory()
    assert pinned.values.is_pinned()
    moved = pinned.to("cuda", non_blocking=True)
    assert moved.validate().device.type == "cuda"
    assert moved[1:].select(torch.tensor([1, 0], device="cuda")).to("cpu").equal(rows[1:].select(torch.tensor([1, 0])))
    assert moved.sort_by_value().to("cpu").equal(rows.sort_by_value())


def ordered(row: list[tuple[int, float]], part: int, descending: bool) -> list[tuple[int, float]]:
    """What the documentation promises, by Python's stable sort."""
    numbers = [entry for entry in row if not math.isnan(entry[part])]
    nans = [entry for entry in row if math.isnan(entry[part])]
    return sorted(numbers, key=lambda entry: -entry[part] if descending else entry[part]) + nans


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("name", "part"), [("sort_by_column", 0), ("sort_by_value", 1)])
@given(rows=sparse_rows(values=VALUES | st.just(NAN) | st.just(-0.0)))
def test_sorts_are_stable_with_nan_last(name, part, descending, rows):
    sort: Callable[..., SparseRows] = getattr(rows, name)
    before = repr(entries_of(rows))
    expected = [ordered(row, part, descending) for row in entries_of(rows)]
    assert repr(entries_of(sort(descending=descending))) == repr(expected)
    assert repr(entries_of(rows)) == before
    assert sort(descending=descending, inplace=True) is rows
    assert repr(entries_of(rows)) == repr(expected)


def test_inplace_sort_leaves_shared_memory_alone():
    rows = example()
    shared = rows[:]
    rows.sort_by_column(inplace=True)
    assert shared.columns.tolist() == [3, 1, 0, 4, 2]


OPERATIONS: dict[str, Callable[[SparseRows], torch.Tensor]] = {
    "slice": lambda rows: rows[1:].values,
    "select": lambda rows: rows.select(torch.tensor([2, 0, 2])).values,
    "concatenate": lambda rows: SparseRows.concatenate([rows, rows]).values,
    "sort_by_column": lambda rows: rows.sort_by_column().values,
    "sort_by_value": lambda rows: rows.sort_by_value(descending=True).values,
    "to": lambda rows: rows.to(dtype=torch.float64).values,
    "to_dense": lambda rows: rows.to_dense(fill=3.0),
    "from_dense": lambda rows: SparseRows.from_dense(rows.to_dense()).values,
    "add_scalar": lambda rows: rows.add(2.5).values,
    "add_rows": lambda rows: rows.add(rows.mul(2.0)).values,
    "mul_rows": lambda rows: rows.mul(rows.add(1.0)).values,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_reach_the_values(name):
    structure = SparseRows.from_rows([([3, 1, 3], [1.0, 2.0, -1.0]), ([], []), ([0, 4, 2], [0.5, 4.0, 5.0])], 5)
    values = structure.values.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: OPERATIONS[name](structure.with_values(values)), values)


def test_features_stay_with_their_rows() -> None:
    features = SparseRows.from_rows([(torch.tensor([row]), torch.ones(1)) for row in range(3)], num_columns=9)
    plain = SparseRows.from_rows([(torch.tensor([4 - row]), torch.ones(1)) for row in range(3)], num_columns=5)
    rows = SparseRows(plain.offsets, plain.columns, plain.values, 5, features)
    double = rows.with_values(rows.values * 2)
    both = SparseRows.concatenate([plain, rows.select(torch.tensor([2, 0])), rows.to(dtype=torch.float32)[1:]])
    taken = [double, rows[::-1], rows[1], rows.sort_by_column(), both]
    found = [None if some.features is None else some.features.lengths().tolist() for some in taken]
    assert found == [[1] * 3, [1] * 3, [1], [1] * 3, [0, 0, 0, 1, 1, 1, 1]]
    assert both.features is not None
    assert both.features.columns.tolist() == [2, 0, 1, 2]
    assert rows.add(rows).features is None
    with pytest.raises(ValueError, match="features of 3 rows, and 2 rows"):
        SparseRows(plain.offsets[:3], plain.columns[:2], plain.values[:2], 5, features)
