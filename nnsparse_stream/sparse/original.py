"""The original's tools under their own names, as functions of sparse rows."""

from __future__ import annotations

from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows


def sparsify(x: Tensor, fill: float = 0.0, offset: int = 0) -> SparseRows:
    """Keeps the elements of a dense tensor that are not ``fill``.

    Args:
        x: matrix ``(rows, columns)``, or vector ``(columns,)``, which becomes a block of one row.
        fill: the element to drop; NaN drops the NaN elements.
        offset: added to every column; the block has ``columns + offset`` columns.

    Returns:
        Rows with ascending columns. ``densify(sparsify(x), fill)`` is ``x`` for a matrix, ``x[None]`` for a vector.

    Raises:
        ValueError: ``x`` is neither a vector nor a matrix, or a negative offset moves a column below 0.
    """
    if x.dim() not in (1, 2):
        raise ValueError(f"sparsify takes a vector or a matrix, got shape {tuple(x.shape)}")
    rows = SparseRows.from_dense(x[None] if x.dim() == 1 else x, fill)
    if not offset:
        return rows
    return SparseRows(rows.offsets, rows.columns + offset, rows.values, max(rows.num_columns + offset, 0)).validate()


def densify(rows: SparseRows, fill: float = 0.0, num_columns: int | None = None) -> Tensor:
    """A dense ``(rows, num_columns)`` tensor, a matrix for one row too.

    Args:
        rows: sparse rows; of several entries of one column in a row the last counts.
        fill: what stands where nothing is stored; may be NaN.
        num_columns: by default that of the rows.

    Raises:
        ValueError: a column does not fit in ``num_columns``; names the row.
    """
    if num_columns is None or num_columns == rows.num_columns:
        return rows.to_dense(fill)
    return SparseRows(rows.offsets, rows.columns, rows.values, num_columns).validate().to_dense(fill)


def ssort(rows: SparseRows, descending: bool = False, inplace: bool = False) -> SparseRows:
    """Sorts each row by value; see ``SparseRows.sort_by_value``."""
    return rows.sort_by_value(descending, inplace)


def ssort_by_index(rows: SparseRows, descending: bool = False, inplace: bool = False) -> SparseRows:
    """Sorts each row by column; see ``SparseRows.sort_by_column``."""
    return rows.sort_by_column(descending, inplace)
