"""Weighted sums of a matrix's rows by torch operations, also of very many rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows of the matrix that are added to one sum at most, where there are more than the second in all.
_SUMMANDS = 1 << 10
_FEW_ENTRIES = 1 << 16


def bag_sums(matrix: Tensor, columns: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """For each bag the sum of `weights[e] * matrix[columns[e]]` over its entries, (bags, units); differentiable.

    torch's own operation has one sum a bag, of the matrix's precision: a float32 sum of many equal numbers stands still
    where it is large. So heavy bags are cut, and the sums of their parts added up in float64.

    Args:
        matrix: (columns, units).
        columns: int32 (entries,).
        offsets: int32 (bags + 1,), ascending from 0 to the number of entries.
        weights: (entries,).
    """
    num_entries, num_bags = len(columns), len(offsets) - 1
    if num_entries <= _FEW_ENTRIES:
        return F.embedding_bag(
            columns, matrix, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
    cuts = torch.arange(0, num_entries, _SUMMANDS, dtype=torch.int32, device=columns.device)
    starts = torch.cat([offsets, cuts]).sort().values
    parts = F.embedding_bag(columns, matrix, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)
    # Of parts that begin at one entry all but the last are empty, and so are those behind the last entry. Not by
    # `index_add`, which on a GPU adds up in any order.
    bag = (torch.searchsorted(offsets, starts[:-1], right=True) - 1).clamp(max=num_bags - 1)
    bounds = torch.searchsorted(bag, torch.arange(num_bags + 1, device=columns.device))
    return torch.segment_reduce(parts.double(), "sum", offsets=bounds, unsafe=True).to(matrix.dtype)
