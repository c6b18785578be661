"""Conversions between sparse rows and other layouts, without copies where the layouts agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from nnsparse_stream.sparse.indices import ascend_strictly, offsets_of, places

if TYPE_CHECKING:
    from nnsparse_stream.sparse.rows import SparseRows


def from_rows(
    rows: Sequence[Tensor | tuple[Any, Any]], num_columns: int | None, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Offsets, columns, values and number of columns of a list of rows.

    Args:
        rows: for each row ``(columns, values)``, two sequences or tensors of one length, or a tensor ``(n, 2)`` of
            [column, value], the original's sparse vector (a float32 tensor holds columns exactly only up to 2**24).
        num_columns: by default one more than the highest column.
        dtype: of the values; by default that of the rows, or torch's default where they hold integers or nothing.

    Raises:
        ValueError: a row has another shape, or columns that are no integers; names the row.
    """
    pairs = [_columns_and_values(position, row, dtype) for position, row in enumerate(rows)]
    offsets = offsets_of(torch.tensor([len(columns) for columns, _ in pairs], dtype=torch.int64))
    columns = torch.cat([columns for columns, _ in pairs]) if pairs else torch.zeros(0, dtype=torch.int64)
    filled = [values for _, values in pairs if len(values)]
    values = torch.cat(filled) if filled else torch.zeros(0, device=columns.device)
    values = values.to(dtype or (values.dtype if values.is_floating_point() else torch.get_default_dtype()))
    if num_columns is None:
        num_columns = int(columns.max()) + 1 if len(columns) else 0
    return offsets.to(columns.device), columns, values, num_columns


def _columns_and_values(
    position: int, row: Tensor | tuple[Any, Any], dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    if isinstance(row, Tensor):
        if row.dim() != 2 or row.shape[1] != 2:
            raise ValueError(f"row {position} must be a tensor of shape (n, 2), got {tuple(row.shape)}")
        columns, values = row[:, 0].detach(), row[:, 1]
    else:
        # Python numbers become float64 where that is asked for, not float32 first.
        columns, values = torch.as_tensor(row[0]), torch.as_tensor(row[1], dtype=dtype)
    if columns.dim() != 1 or columns.shape != values.shape:
        raise ValueError(
            f"row {position} must have as many columns as values, got {tuple(columns.shape)}, {tuple(values.shape)}"
        )
    if columns.is_floating_point() and not bool((columns == columns.round()).all()):
        bad = columns[columns != columns.round()][0]
        raise ValueError(f"row {position} holds column {float(bad)}: a column must be an integer")
    return columns.to(torch.int64), values


def from_dense(x: Tensor, fill: float) -> tuple[Tensor, Tensor, Tensor, int]:
    """Offsets, columns, values and number of columns of a dense ``(rows, columns)`` tensor's elements but ``fill``.

    Raises:
        ValueError: ``x`` is not 2-d.
    """
    if x.dim() != 2:
        raise ValueError(f"a dense matrix must be 2-d, got shape {tuple(x.shape)}")
    kept = ~x.isnan() if math.isnan(fill) else x != fill
    rows, columns = kept.nonzero(as_tuple=True)
    return offsets_of(kept.sum(1)), columns, x[rows, columns], x.shape[1]


def to_dense(rows: SparseRows, fill: float) -> Tensor:
    """A dense ``(rows, num_columns)`` tensor, ``fill`` where nothing is stored; see ``SparseRows.to_dense``."""
    keys, values = places(rows), rows.values
    if not ascend_strictly(keys):
        # Which of several writes to one place wins is left open by torch: keep only the last.
        keys, order = keys.sort(stable=True)
        last = torch.ones_like(keys, dtype=torch.bool)
        torch.ne(keys[1:], keys[:-1], out=last[:-1])
        keys, values = keys[last], values[order[last]]
    dense = values.new_full((rows.num_rows * rows.num_columns,), fill)
    return dense.scatter_(0, keys, values).view(rows.shape)


def from_arrow(columns: pa.ListArray, values: pa.ListArray) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, columns and values of two list arrays of the same lengths (views of the Arrow memory: do not write).

    Raises:
        ValueError: an array is not a list array, holds a null, or a row has not as many columns as values; names the
            row.
    """
    column_offsets, flat_columns = _flat(columns, "columns")
    value_offsets, flat_values = _flat(values, "values")
    if len(columns) != len(values):
        raise ValueError(f"there are {len(columns)} rows of columns, but {len(values)} rows of values")
    if not torch.equal(column_offsets, value_offsets):
        lengths, others = column_offsets.diff(), value_offsets.diff()
        row = int((lengths != others).nonzero()[0])
        raise ValueError(f"row {row} has {int(lengths[row])} columns, but {int(others[row])} values")
    return column_offsets, flat_columns, flat_values


def _flat(lists: pa.ListArray, name: str) -> tuple[Tensor, Tensor]:
    """Offsets from 0 and the flat elements of a list array (a slice of one too)."""
    if not isinstance(lists, pa.ListArray | pa.LargeListArray):
        raise ValueError(f"{name} must be an Arrow list array, got {getattr(lists, 'type', type(lists).__name__)}")
    if lists.null_count:
        raise ValueError(f"row {lists.is_null().index(True).as_py()} of {name} is null: an empty row is an empty list")
    offsets = torch.from_dlpack(lists.offsets)
    elements = lists.flatten()
    first = int(offsets[0])
    if first:
        offsets = offsets - first
    if elements.null_count:
        entry = elements.is_null().index(True).as_py()
        row = int(torch.searchsorted(offsets, entry, right=True)) - 1
        raise ValueError(f"row {row} of {name} holds a null")
    return offsets, torch.from_dlpack(elements)


def to_arrow(rows: SparseRows) -> tuple[pa.ListArray, pa.ListArray]:
    """``list<int32>`` of columns and ``list<float32>`` or ``list<float64>`` of values, each ``(rows,)``."""
    offsets, columns, values = (pa.array(part) for part in _to_numpy(rows))
    return pa.ListArray.from_arrays(offsets, columns), pa.ListArray.from_arrays(offsets, values)


def to_torch_csr(rows: SparseRows) -> Tensor:
    """A ``torch.sparse_csr`` matrix over the same memory; rows that are not sorted by column are sorted into a copy.

    The gradient ends here: torch cuts a CSR matrix off from the values that it is made of.

    Raises:
        ValueError: a row holds a column twice, which this layout does not allow; names the row.
    """
    keys = places(rows)
    if not ascend_strictly(keys):
        rows = rows.sort_by_column()
        keys = keys.sort().values
        if not ascend_strictly(keys):
            twice = int(keys[1:][keys.diff() == 0][0])
            row, column = divmod(twice, rows.num_columns)
            raise ValueError(f"row {row} holds column {column} twice, which a CSR matrix of torch does not allow")
    return torch.sparse_csr_tensor(rows.offsets, rows.columns, rows.values.detach(), rows.shape, check_invariants=False)


def from_scipy(matrix: Any) -> tuple[Tensor, Tensor, Tensor, int]:
    """Offsets, columns, values and number of columns of a SciPy sparse matrix or array of any format."""
    matrix = matrix.tocsr()
    offsets, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    return offsets, columns, values, matrix.shape[1]


def to_scipy(rows: SparseRows) -> Any:
    """A ``scipy.sparse.csr_array`` over the same memory; needs SciPy, which takes the sum of a column's entries."""
    from scipy.sparse import csr_array

    offsets, columns, values = _to_numpy(rows)
    return csr_array((values, columns, offsets), shape=rows.shape, copy=False)


def _to_numpy(rows: SparseRows) -> tuple[Any, Any, Any]:
    return rows.offsets.numpy(force=True), rows.columns.numpy(force=True), rows.values.numpy(force=True)
