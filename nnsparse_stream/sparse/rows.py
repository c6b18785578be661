"""The one data type: a block of sparse rows in compressed sparse row (CSR) layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nnsparse_stream.sparse import arithmetic, conversions
from nnsparse_stream.sparse.indices import INT32_MAX, check, offsets_of, to_int32

if TYPE_CHECKING:
    import pyarrow as pa


class SparseRows:
    """A block of sparse rows; row ``r`` holds the entries ``offsets[r]:offsets[r + 1]``.

    An entry that is stored is observed, whatever its value: 0.0 and NaN too. Entries of a row may come in any order. A
    column may occur twice in a row: linear operations (``SparseLinearBatch``, ``add``, ``mul``) take the sum of such
    entries, ``to_dense`` the last of them.

    Every operation on ``values`` is differentiable with respect to them.

    Attributes:
        offsets: int32 ``(rows + 1,)``, ascending from 0.
        columns: int32 ``(entries,)``, each in ``[0, num_columns)``.
        values: float32 or float64 ``(entries,)``.
        num_columns: number of columns.
        features: None, or what is known of the rows beside their entries: as many rows, whose columns are indices of
            features, and whose values are 1. It stays with the rows where some are taken, or get other values; what
            makes other rows, as a sum does, leaves it out.
    """

    __slots__ = ("_row_indices", "columns", "features", "num_columns", "offsets", "values")

    def __init__(
        self,
        offsets: Tensor,
        columns: Tensor,
        values: Tensor,
        num_columns: int,
        features: SparseRows | None = None,
    ) -> None:
        """Wraps the three tensors without a copy; int64 indices are narrowed to int32.

        Checks types and sizes only, since this runs for every minibatch; ``validate`` checks what the tensors hold.

        Raises:
            ValueError: a tensor is not 1-d, has another dtype, size or device than the others ask for, or an int64
                index does not fit in int32.
        """
        if not 0 <= num_columns <= INT32_MAX:
            raise ValueError(f"num_columns must lie between 0 and {INT32_MAX}, got {num_columns}")
        if offsets.dim() != 1 or columns.dim() != 1 or values.dim() != 1:
            raise ValueError(
                "offsets, columns and values must be 1-d, got shapes "
                f"{tuple(offsets.shape)}, {tuple(columns.shape)}, {tuple(values.shape)}"
            )
        if not offsets.numel():
            raise ValueError("offsets must hold one element more than there are rows: [0] for no rows")
        if len(columns) != len(values):
            raise ValueError(f"columns and values differ in length: {len(columns)} and {len(values)}")
        if values.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"values must be float32 or float64, got {values.dtype}: convert them first")
        if not offsets.device == columns.device == values.device:
            raise ValueError(
                "offsets, columns and values must be on one device, got "
                f"{offsets.device}, {columns.device}, {values.device}"
            )
        if features is not None and features.num_rows != len(offsets) - 1:
            raise ValueError(f"there are features of {features.num_rows} rows, and {len(offsets) - 1} rows")
        self.offsets = to_int32(offsets, "offsets")
        self.columns = to_int32(columns, "columns")
        self.values = values
        self.num_columns = num_columns
        self.features = features
        self._row_indices: Tensor | None = None

    def validate(self) -> SparseRows:
        """Checks everything that the tensors hold and returns the rows themselves.

        Raises:
            ValueError: offsets do not ascend from 0 to the number of entries, or a column is out of range; the message
                names the first bad row.
        """
        check(self.offsets, self.columns, self.num_columns)
        return self

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    @property
    def num_entries(self) -> int:
        """The number of stored entries."""
        return len(self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """``(num_rows, num_columns)``."""
        return self.num_rows, self.num_columns

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """The device of all three tensors."""
        return self.values.device

    def __len__(self) -> int:
        """The number of rows."""
        return self.num_rows

    def __repr__(self) -> str:
        """Sizes, dtype and device, not the entries."""
        return (
            f"SparseRows({self.num_rows} rows x {self.num_columns} columns, {self.num_entries} entries, "
            f"{self.dtype}, {self.device})"
        )

    def lengths(self) -> Tensor:
        """The number of entries of each row, int32 ``(rows,)``."""
        return self.offsets.diff()

    def row_indices(self) -> Tensor:
        """The row of each entry, int32 ``(entries,)``; computed once, so don't write to it."""
        if self._row_indices is None:
            self._row_indices = torch.repeat_interleave(self.lengths(), output_size=self.num_entries)
        return self._row_indices

    def with_values(self, values: Tensor) -> SparseRows:
        """Rows of the same structure (the same offsets and columns) with other values ``(entries,)``."""
        rows = SparseRows(self.offsets, self.columns, values, self.num_columns, self.features)
        rows._row_indices = self._row_indices
        return rows

    def equal(self, other: SparseRows) -> bool:
        """Whether both store the same entries in the same order with the same dtype; NaN equals NaN."""
        return (
            self.shape == other.shape
            and self.dtype == other.dtype
            and torch.equal(self.offsets, other.offsets)
            and torch.equal(self.columns, other.columns)
            and torch.allclose(self.values, other.values, rtol=0, atol=0, equal_nan=True)
        )

    def __getitem__(self, index: int | slice) -> SparseRows:
        """One row (as a block of one row) or a slice of rows; columns and values of consecutive rows are views.

        Raises:
            IndexError: there is no such row.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(self.num_rows)
            if step != 1:
                return self.select(torch.tensor(range(start, stop, step), dtype=torch.int64, device=self.device))
            stop = max(start, stop)
        else:
            start = index + self.num_rows if index < 0 else index
            if not 0 <= start < self.num_rows:
                raise IndexError(f"there is no row {index}: there are {self.num_rows} rows")
            stop = start + 1
        offsets = self.offsets[start : stop + 1]
        first, last = offsets[[0, -1]].tolist()
        return SparseRows(
            offsets - first if first else offsets,
            self.columns[first:last],
            self.values[first:last],
            self.num_columns,
            None if self.features is None else self.features[start:stop],
        )

    def select(self, index: Tensor) -> SparseRows:
        """The rows of an int64 ``(n,)`` index, in its order and as often as it names them.

        Raises:
            IndexError: there is no such row.
        """
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= self.num_rows):
            bad = index[(index < 0) | (index >= self.num_rows)][0]
            raise IndexError(f"there is no row {int(bad)}: there are {self.num_rows} rows")
        starts = self.offsets[index]
        lengths = self.offsets[index + 1] - starts
        offsets = offsets_of(lengths)
        num_entries = int(offsets[-1])
        entries = (starts - offsets[:-1]).repeat_interleave(lengths, output_size=num_entries)
        entries += torch.arange(num_entries, dtype=torch.int32, device=self.device)
        features = None if self.features is None else self.features.select(index)
        return SparseRows(offsets, self.columns[entries], self.values[entries], self.num_columns, features)

    @classmethod
    def concatenate(cls, blocks: Sequence[SparseRows]) -> SparseRows:
        """The rows of several blocks, one after the other; one block is returned as it is.

        Raises:
            ValueError: no blocks, or they differ in columns, dtype or device.
        """
        if not blocks:
            raise ValueError("concatenate needs at least one block")
        first = blocks[0]
        if len(blocks) == 1:
            return first
        for position, block in enumerate(blocks):
            kind = (block.num_columns, block.dtype, block.device)
            if kind != (first.num_columns, first.dtype, first.device):
                raise ValueError(
                    f"block {position} has {block.num_columns} columns of {block.dtype} on {block.device}, "
                    f"block 0 has {first.num_columns} of {first.dtype} on {first.device}"
                )
        return cls(
            offsets_of(torch.cat([block.lengths() for block in blocks])),
            torch.cat([block.columns for block in blocks]),
            torch.cat([block.values for block in blocks]),
            first.num_columns,
            _features_of(blocks),
        )

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> SparseRows:
        """The rows on another device, their values in another dtype; what needs no change is not copied."""
        device = self.device if device is None else device
        return SparseRows(
            self.offsets.to(device, non_blocking=non_blocking),
            self.columns.to(device, non_blocking=non_blocking),
            self.values.to(device, dtype or self.dtype, non_blocking=non_blocking),
            self.num_columns,
            None if self.features is None else self.features.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> SparseRows:
        """A copy in page-locked memory, from which ``to(device, non_blocking=True)`` runs beside computation."""
        return SparseRows(
            self.offsets.pin_memory(),
            self.columns.pin_memory(),
            self.values.pin_memory(),
            self.num_columns,
            None if self.features is None else self.features.pin_memory(),
        )

    def sort_by_column(self, descending: bool = False, inplace: bool = False) -> SparseRows:
        """Sorts each row's entries by column; equal columns keep their order.

        Args:
            descending: highest column first.
            inplace: change this object (its ``columns`` and ``values`` become new tensors, so that memory shared with
                Arrow or with a slice stays as it is) and return it.
        """
        return self._sorted(torch.argsort(self.columns, descending=descending, stable=True), inplace)

    def sort_by_value(self, descending: bool = False, inplace: bool = False) -> SparseRows:
        """Sorts each row's entries by value; equal values keep their order, NaN comes last either way.

        Args:
            descending: highest value first.
            inplace: as in ``sort_by_column``.
        """
        values = self.values.detach()
        # torch counts NaN as the highest value, so a descending sort would put it first.
        return self._sorted(torch.argsort(-values if descending else values, stable=True), inplace)

    def _sorted(self, order: Tensor, inplace: bool) -> SparseRows:
        """Applies an order of all entries within each row."""
        order = order[torch.argsort(self.row_indices()[order], stable=True)]
        columns, values = self.columns[order], self.values[order]
        if not inplace:
            return SparseRows(self.offsets, columns, values, self.num_columns, self.features)
        self.columns, self.values = columns, values
        return self

    def add(self, other: float | Tensor | SparseRows, axis: Literal["column", "row"] = "column") -> SparseRows:
        """The sum with a scalar, a dense vector or other sparse rows.

        A scalar or a vector is added to the stored entries only: what is not observed stays so. Sparse rows give the
        union of the entries, sorted by column; all entries of one place are summed.

        Args:
            other: number or 0-d tensor, ``(num_columns,)`` or ``(num_rows,)`` tensor, or rows of the same shape.
            axis: whether a vector has one element per column or per row.

        Raises:
            ValueError: shapes do not fit.
        """
        if isinstance(other, SparseRows):
            return SparseRows(*arithmetic.sum_of_rows(self, other), self.num_columns)
        return self.with_values(self.values + arithmetic.operand_at_entries(self, other, axis))

    def mul(self, other: float | Tensor | SparseRows, axis: Literal["column", "row"] = "column") -> SparseRows:
        """The product with a scalar, a dense vector or other sparse rows.

        Sparse rows give the intersection of the entries, sorted by column; entries of one place are summed within
        each operand before they are multiplied.

        Args:
            other: number or 0-d tensor, ``(num_columns,)`` or ``(num_rows,)`` tensor, or rows of the same shape.
            axis: whether a vector has one element per column or per row.

        Raises:
            ValueError: shapes do not fit.
        """
        if isinstance(other, SparseRows):
            return SparseRows(*arithmetic.product_of_rows(self, other), self.num_columns)
        return self.with_values(self.values * arithmetic.operand_at_entries(self, other, axis))

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Tensor | tuple[Any, Any]],
        num_columns: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> SparseRows:
        """Rows from a list of ``(columns, values)`` pairs or ``n x 2`` tensors; see ``conversions.from_rows``."""
        return cls(*conversions.from_rows(rows, num_columns, dtype)).validate()

    @classmethod
    def from_dense(cls, x: Tensor, fill: float = 0.0) -> SparseRows:
        """Rows of all elements of a dense ``(rows, columns)`` tensor that are not ``fill`` (which may be NaN)."""
        return cls(*conversions.from_dense(x, fill))

    def to_dense(self, fill: float = 0.0) -> Tensor:
        """A dense ``(rows, num_columns)`` tensor, ``fill`` where nothing is stored, the last of several entries."""
        return conversions.to_dense(self, fill)

    @classmethod
    def from_arrow(cls, columns: pa.ListArray, values: pa.ListArray, num_columns: int) -> SparseRows:
        """Rows from a pair of Arrow list arrays, without a copy for ``list<int32>`` and float32 or float64 lists."""
        return cls(*conversions.from_arrow(columns, values), num_columns).validate()

    def to_arrow(self) -> tuple[pa.ListArray, pa.ListArray]:
        """The columns and values as Arrow list arrays, without a copy when the rows are on the CPU."""
        return conversions.to_arrow(self)

    @classmethod
    def from_torch_csr(cls, matrix: Tensor) -> SparseRows:
        """Rows from a ``torch.sparse_csr`` matrix, without a copy when its indices are int32."""
        return cls(matrix.crow_indices(), matrix.col_indices(), matrix.values(), matrix.shape[1]).validate()

    def to_torch_csr(self) -> Tensor:
        """A ``torch.sparse_csr`` matrix, without a copy; see ``conversions.to_torch_csr``."""
        return conversions.to_torch_csr(self)

    @classmethod
    def from_scipy(cls, matrix: Any) -> SparseRows:
        """Rows from a SciPy sparse matrix or array; a CSR one with int32 indices is not copied."""
        return cls(*conversions.from_scipy(matrix)).validate()

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.csr_array``, without a copy when the rows are on the CPU."""
        return conversions.to_scipy(self)


def _features_of(blocks: Sequence[SparseRows]) -> SparseRows | None:
    """The features of the rows of several blocks; rows of a block without any have none."""
    some = next((block.features for block in blocks if block.features is not None), None)
    if some is None:
        return None
    return SparseRows.concatenate(
        [
            SparseRows(torch.zeros_like(block.offsets), some.columns[:0], some.values[:0], some.num_columns)
            if block.features is None
            else block.features
            for block in blocks
        ]
    )
