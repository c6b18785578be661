"""The weighted Gram matrix X'WX of interactions, in whole numbers: the same sum in any order, on any engine.

X has a row for each row and a column for each column, 1 where a row has a training entry of any value, and W the rows'
weights, n^-p for a row of n entries, divided by their mean. Weights are rounded down to multiples of a power of two,
the least that sums in int32 allow, so that a matrix takes 4 bytes for each pair of columns, from the first row to the
solution (`linear.item_weights`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.kernels.cpu import item_weights as kernels
from nnsparse_stream.kernels.operations import transpose
from nnsparse_stream.sparse.indices import ascend_strictly, places
from nnsparse_stream.sparse.rows import SparseRows

# Row weights, at most 1, are first summed up in multiples of 2^-30.
_WEIGHT_BITS = 30
#: Sums of a part, and no more than those of one row beyond that: 1 MiB.
PART_CELLS = 1 << 18


class RowSums:
    """What must be known of all rows before their Gram matrix is summed up.

    Attributes:
        array: int64 (2, columns + 1), which adds up over blocks, shards and workers: of each column its entries and the
            sum of their rows' weights; at the end the rows with an entry and the sum of the weights of these. Weights
            are in 2^-30.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.reshape(2, -1)

    @classmethod
    def of(cls, rows: SparseRows, power: float) -> RowSums:
        """Of a block of rows, whose weights are (its number of entries)^-power.

        Raises:
            ValueError: a column is out of range.
        """
        lengths, columns = rows.lengths().numpy(), rows.validate().columns.numpy()
        weights = _weights(lengths, power)
        array = np.zeros((2, rows.num_columns + 1), np.int64)
        array[0, :-1] = np.bincount(columns, minlength=rows.num_columns)
        np.add.at(array[1], columns, weights.repeat(lengths))
        array[:, -1] = np.count_nonzero(lengths), weights.sum()
        return cls(array)

    def __add__(self, other: RowSums) -> RowSums:
        return RowSums(self.array + other.array)

    @property
    def counts(self) -> np.ndarray:
        """int64 (columns,), entries of each column."""
        return self.array[0, :-1]

    @property
    def num_rows(self) -> int:
        """Rows with an entry."""
        return int(self.array[0, -1])


def _weights(lengths: np.ndarray, power: float) -> np.ndarray:
    """(rows,) row weights in 2^-30, int64; 0 of rows without an entry."""
    weights = np.maximum(lengths, 1).astype(np.float64) ** -power * (lengths > 0)
    return np.floor(weights * 2.0**_WEIGHT_BITS).astype(np.int64)


class GramMatrix:
    """A weighted Gram matrix that is summed up block by block, over the columns that have an entry at all.

    Takes (columns with an entry)^2 x 4 bytes.

    Attributes:
        matrix: int32 (trained, trained), the sums in whole numbers; what lies below the diagonal is 0.
    """

    def __init__(self, sums: RowSums, power: float) -> None:
        """A matrix of no rows yet.

        Args:
            sums: of all rows that will be added, anywhere.
            power: of the row weights, as in `RowSums.of`.
        """
        self._power = power
        # A sum of weights, each rounded down, is no more than the highest of a column.
        self._shift = max(0, int(sums.array[1, :-1].max(initial=0)).bit_length() - 31)
        self._unit = sums.num_rows / max(int(sums.array[1, -1]), 1) * 2.0**self._shift
        self._place = column_places(torch.tensor(sums.counts))
        size = int(np.count_nonzero(sums.counts))
        self.matrix = torch.zeros(size, size, dtype=torch.int32)

    def add(self, rows: SparseRows) -> None:
        """Adds the rows of a block; O(sum of their squared lengths).

        Raises:
            ValueError: columns do not ascend within a row, or one has no entry by the sums that were given.
        """
        if not ascend_strictly(places(rows)):
            raise ValueError("columns must ascend within each row, each once: sort_by_column")
        columns = self._place[rows.validate().columns.long()]
        if len(columns) and int(columns.min()) < 0:
            raise ValueError("a column of these rows has no entry by the sums of all rows")
        weights = (_weights(rows.lengths().numpy(), self._power) >> self._shift).astype(np.int32)
        block = SparseRows(rows.offsets, columns, rows.values, len(self.matrix))
        by = transpose(block)
        kernels.add_co_occurrences(
            block.offsets.numpy(), block.columns.numpy(), weights, by.order.numpy(), by.rows.numpy(),
            by.columns.numpy(), by.offsets.numpy(), self.matrix.numpy(),
        )  # fmt: skip

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Copies of its parts: the number and the sums of each, int32 (cells,), which add up over matrices.

        All that lies on the diagonal or above is in one part, some rows of the matrix in each.
        """
        for number, (start, stop) in enumerate(self._cuts()):
            yield number, np.concatenate([self.matrix[row, row:].numpy() for row in range(start, stop)])

    def set_part(self, number: int, sums: np.ndarray) -> None:
        """Sets the part of a number to what such parts have added up to."""
        for row in range(*self._cuts()[number]):
            cells, sums = np.split(sums, [len(self.matrix) - row])
            self.matrix[row, row:] = torch.from_numpy(cells.copy())

    def _cuts(self) -> list[tuple[int, int]]:
        """First row, and the row behind the last, of each part."""
        size = len(self.matrix)
        before = np.cumsum(np.arange(size, 0, -1)) // PART_CELLS
        starts = np.flatnonzero(np.diff(before, prepend=-1)).tolist()
        return list(pairwise([*starts, size]))

    def to_floats(self) -> Tensor:
        """The matrix in float32, in the memory of the whole numbers, which are gone then; below its diagonal zeros."""
        floats = self.matrix.view(torch.float32)
        for whole, row in zip(self.matrix, floats, strict=True):
            row.copy_(whole.double() * self._unit)
        return floats


def column_places(counts: Tensor) -> Tensor:
    """int32 (columns,), the place of each column among those that have an entry, by `counts`; -1 for the others."""
    trained = counts > 0
    return torch.where(trained, trained.cumsum(0) - 1, -1).to(torch.int32)
