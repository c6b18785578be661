"""Small sparse rows, shared by the tests: Hypothesis strategies, and rows by a seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import strategies as st

from nnsparse_stream.sparse.rows import SparseRows

# Halves: sums and products of them are exact, so that results can be compared bit by bit.
VALUES = st.integers(-8, 8).map(lambda number: number / 2)


@st.composite
def sparse_rows(
    draw: st.DrawFn,
    duplicates: bool = True,
    values: st.SearchStrategy[float] = VALUES,
    num_rows: int | None = None,
    num_columns: int | None = None,
    max_rows: int = 6,
) -> SparseRows:
    """Rows in any order, some of them empty, with explicit zeros, float64; a column may repeat if duplicates."""
    rows = draw(st.integers(0, max_rows)) if num_rows is None else num_rows
    columns = draw(st.integers(1, 6)) if num_columns is None else num_columns
    drawn = [draw(st.lists(st.integers(0, columns - 1), max_size=6, unique=not duplicates)) for _ in range(rows)]
    return SparseRows.from_rows(
        [(row, draw(st.lists(values, min_size=len(row), max_size=len(row)))) for row in drawn],
        num_columns=columns,
        dtype=torch.float64,
    )


@st.composite
def pairs_of_rows(draw: st.DrawFn) -> tuple[SparseRows, SparseRows]:
    """Two blocks of one shape, with duplicates."""
    left = draw(sparse_rows())
    return left, draw(sparse_rows(num_rows=left.num_rows, num_columns=left.num_columns))


def entries_of(rows: SparseRows) -> list[list[tuple[int, float]]]:
    """The entries as Python lists of (column, value), one list per row."""
    offsets, columns, values = rows.offsets.tolist(), rows.columns.tolist(), rows.values.tolist()
    return [list(zip(columns[start:end], values[start:end], strict=True)) for start, end in pairwise(offsets)]


def random_rows(
    num_rows: int, num_columns: int, per_row: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> SparseRows:
    """Rows of equal length, their columns ascending, values normal."""
    rng = np.random.default_rng(seed)
    columns = np.stack([np.sort(rng.choice(num_columns, per_row, replace=False)) for _ in range(num_rows)])
    return SparseRows(
        torch.arange(0, num_rows * per_row + 1, per_row),
        torch.from_numpy(columns.ravel()),
        torch.from_numpy(rng.normal(size=columns.size)).to(dtype),
        num_columns,
    )
