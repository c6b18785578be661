"""Sums and products of sparse rows with scalars, dense vectors and other sparse rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nnsparse_stream.sparse.indices import places

if TYPE_CHECKING:
    from nnsparse_stream.sparse.rows import SparseRows


def operand_at_entries(rows: SparseRows, other: float | Tensor, axis: Literal["column", "row"]) -> float | Tensor:
    """The element of a dense operand that meets each entry: a scalar as it is, a vector's element ``(entries,)``.

    Raises:
        ValueError: a tensor is neither 0-d nor has one element for each column (or row), or the axis has another name.
    """
    if axis not in ("column", "row"):
        raise ValueError(f"axis must be 'column' or 'row', got {axis!r}")
    if not isinstance(other, Tensor) or other.dim() == 0:
        return other
    size = rows.num_columns if axis == "column" else rows.num_rows
    if other.shape != (size,):
        raise ValueError(f"a vector with one element per {axis} must have shape ({size},), got {tuple(other.shape)}")
    return other[rows.columns if axis == "column" else rows.row_indices()]


def sum_of_rows(left: SparseRows, right: SparseRows) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, columns and values of the union of entries, sorted by column; entries at one place are summed.

    Raises:
        ValueError: the shapes differ.
    """
    _require_same_shape(left, right)
    keys = torch.cat([places(left), places(right)])
    keys, place = keys.unique(return_inverse=True)
    values = torch.cat([left.values, right.values])
    return _unpack(left, keys, _sums(values, place, len(keys)))


def product_of_rows(left: SparseRows, right: SparseRows) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, columns and values of the intersection of entries, sorted by column.

    Entries at one place are summed within each operand before they are multiplied.

    Raises:
        ValueError: the shapes differ.
    """
    _require_same_shape(left, right)
    keys_of_left, left_values = _coalesced(left)
    keys_of_right, right_values = _coalesced(right)
    in_left = torch.isin(keys_of_left, keys_of_right, assume_unique=True)
    in_right = torch.isin(keys_of_right, keys_of_left, assume_unique=True)
    return _unpack(left, keys_of_left[in_left], left_values[in_left] * right_values[in_right])


def _coalesced(rows: SparseRows) -> tuple[Tensor, Tensor]:
    keys, place = places(rows).unique(return_inverse=True)
    return keys, _sums(rows.values, place, len(keys))


def _unpack(like: SparseRows, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    boundaries = torch.arange(like.num_rows + 1, device=keys.device) * like.num_columns
    return torch.searchsorted(keys, boundaries), keys % max(like.num_columns, 1), values


def _require_same_shape(left: SparseRows, right: SparseRows) -> None:
    if left.shape != right.shape:
        raise ValueError(f"both operands must have the same shape, got {left.shape} and {right.shape}")


def _sums(values: Tensor, place: Tensor, count: int) -> Tensor:
    """The sum of the values of each place, added up in float64."""
    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    return sums.index_add(0, place, values.double()).to(values.dtype)
