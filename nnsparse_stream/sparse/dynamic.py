"""A sparse row that grows entry by entry, at amortised constant cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.sparse.indices import to_int32
from nnsparse_stream.sparse.rows import SparseRows


class DynamicSparseTensor:
    """Builds one sparse row in a buffer that grows by a factor when it is full.

    The factor is ``1 + growth / 2``, as in the original: 2 doubles the buffer.
    """

    def __init__(self, reserve: int = 10, growth: float = 2.0, dtype: torch.dtype | None = None) -> None:
        """Starts with an empty buffer.

        Args:
            reserve: entries that fit before the buffer first grows, at least 1.
            growth: greater than 1.
            dtype: float32 or float64, of the values; by default torch's default dtype.

        Raises:
            ValueError: an argument is out of range.
        """
        if reserve < 1:
            raise ValueError(f"reserve must be at least 1, got {reserve}")
        if growth <= 1:
            raise ValueError(
                f"growth must be greater than 1, got {growth}: a full buffer grows by growth/2 of its size, "
                "rounded down, and at 1 or less a buffer of one entry would not grow"
            )
        self.reserve = reserve
        self.growth = growth
        self._dtype = dtype or torch.get_default_dtype()
        self._size = 0
        self._allocate(reserve)

    def __len__(self) -> int:
        """The number of entries so far."""
        return self._size

    @property
    def capacity(self) -> int:
        """The number of entries that fit before the buffer grows."""
        return len(self._columns)

    def append(self, column: int, value: float) -> None:
        """Adds one entry."""
        if self._size == self.capacity:
            self._grow(self._size + 1)
        self._column_view[self._size] = column
        self._value_view[self._size] = value
        self._size += 1

    def extend(self, columns: Tensor | np.ndarray | list[int], values: Tensor | np.ndarray | list[float]) -> None:
        """Adds many entries at once.

        Raises:
            ValueError: there are not as many columns as values, or a column is no integer or does not fit in int32.
        """
        if len(columns) != len(values):
            raise ValueError(f"columns and values differ in length: {len(columns)} and {len(values)}")
        if not len(columns):
            return
        end = self._size + len(columns)
        self._grow(end)
        self._columns[self._size : end] = to_int32(torch.as_tensor(columns), "columns").numpy(force=True)
        self._values[self._size : end] = torch.as_tensor(values, dtype=self._dtype).numpy(force=True)
        self._size = end

    def build(self, num_columns: int | None = None) -> SparseRows:
        """The entries so far as a block of one row, in the order in which they came.

        It is a view of the buffer: no copy is made, and entries added later do not change it.

        Args:
            num_columns: by default one more than the highest column.

        Raises:
            ValueError: a column is negative or does not fit in ``num_columns``.
        """
        columns = torch.from_numpy(self._columns[: self._size])
        if num_columns is None:
            num_columns = int(columns.max()) + 1 if self._size else 0
        offsets = torch.tensor([0, self._size], dtype=torch.int32)
        return SparseRows(offsets, columns, torch.from_numpy(self._values[: self._size]), num_columns).validate()

    def reset(self) -> None:
        """Starts again with an empty buffer of ``reserve`` entries; rows built before stay as they are."""
        self._allocate(self.reserve)
        self._size = 0

    def set(self, row: SparseRows) -> None:
        """Replaces the entries by a copy of those of a block of one row, and the capacity by their number.

        Raises:
            ValueError: the block has not one row.
        """
        if row.num_rows != 1:
            raise ValueError(f"set takes a block of one row, got {row.num_rows} rows")
        self._allocate(row.num_entries)
        self._columns[:] = row.columns.numpy(force=True)
        self._values[:] = row.values.numpy(force=True)
        self._size = row.num_entries

    def _grow(self, needed: int) -> None:
        capacity = self.capacity
        while capacity < needed:
            # An empty buffer (set to an empty row) and one of a single entry have to grow as well.
            capacity += max(1, int(capacity * self.growth / 2))
        if capacity == self.capacity:
            return
        columns, values = self._columns, self._values
        self._allocate(capacity)
        self._columns[: self._size] = columns[: self._size]
        self._values[: self._size] = values[: self._size]

    def _allocate(self, capacity: int) -> None:
        self._columns = np.empty(capacity, np.int32)
        self._values = torch.empty(capacity, dtype=self._dtype).numpy()
        # A memoryview takes a Python number in two thirds of the time that an array needs.
        self._column_view: memoryview[int] = self._columns.data
        self._value_view: Any = self._values.data
