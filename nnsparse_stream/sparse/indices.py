"""The int32 offsets and columns of sparse rows: made, narrowed and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nnsparse_stream.sparse.rows import SparseRows

INT32_MAX = 2**31 - 1


def to_int32(index: Tensor, name: str) -> Tensor:
    """An int32 or int64 index as int32, without a copy where it is that already.

    Raises:
        ValueError: another dtype, or an element that does not fit; ``name`` says whose.
    """
    if index.dtype == torch.int32:
        return index
    if index.dtype != torch.int64:
        raise ValueError(f"{name} must be int32 or int64, got {index.dtype}")
    if index.numel() and int(index.abs().max()) > INT32_MAX:
        raise ValueError(f"{name} must fit in int32, got {int(index.abs().max())}: split the rows into smaller blocks")
    return index.to(torch.int32)


def offsets_of(lengths: Tensor) -> Tensor:
    """int32 offsets ``(rows + 1,)`` of rows with these lengths ``(rows,)``.

    Raises:
        ValueError: there are more entries than int32 counts.
    """
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, dtype=torch.int64, out=offsets[1:])
    return to_int32(offsets, "offsets")


def check(offsets: Tensor, columns: Tensor, num_columns: int) -> None:
    """Checks that offsets ascend from 0 to the number of entries, and that each column is in ``[0, num_columns)``.

    Raises:
        ValueError: names the first bad row.
    """
    num_rows, num_entries = len(offsets) - 1, len(columns)
    low, high = columns.aminmax() if num_entries else (offsets.new_zeros(()), offsets.new_zeros(()))
    descending = (offsets.diff() < 0).any().to(torch.int32)
    # One transfer: on a GPU each Python number taken from a tensor waits for the device.
    first, last, descends, lowest, highest = torch.stack([offsets[0], offsets[-1], descending, low, high]).tolist()
    if first != 0:
        raise ValueError(f"row 0 must start at entry 0, but offsets[0] is {first}")
    if descends:
        row = int((offsets.diff() < 0).nonzero()[0])
        start, end = offsets[row : row + 2].tolist()
        raise ValueError(f"row {row} starts at entry {start} but ends at entry {end}: offsets must ascend")
    if last != num_entries:
        where = f"row {num_rows - 1} ends at entry {last}" if num_rows else "there are no rows"
        raise ValueError(f"{where}, but there are {num_entries} entries")
    if num_entries and (lowest < 0 or highest >= num_columns):
        entry = int(((columns < 0) | (columns >= num_columns)).nonzero()[0])
        row = int(torch.searchsorted(offsets, entry, right=True)) - 1
        raise ValueError(
            f"row {row} holds column {int(columns[entry])}, "
            f"but there are {num_columns} columns, numbered from 0 to {num_columns - 1}"
        )


def places(rows: SparseRows) -> Tensor:
    """One int64 number for the place (row, column) of each entry, ascending by row, then by column."""
    return rows.row_indices().long() * rows.num_columns + rows.columns


def ascend_strictly(numbers: Tensor) -> bool:
    """Whether each number is greater than the one before."""
    return bool((numbers[1:] > numbers[:-1]).all())
