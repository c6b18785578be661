"""The column-wise view of a block of sparse rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transposed:
    """The column-wise view of a block of sparse rows, which the backward passes and the optimisers read.

    `operations.transpose` makes it. A place is a position in `columns`. Where a backend does not wait for the number of
    distinct columns, places without entries follow those of the distinct columns.

    Attributes:
        order: int32 (entries,), the permutation that sorts the entries by column; rows ascend within a column.
        rows: int32 (entries,), the row of each entry in that order.
        columns: int32 (places,), the columns that occur, ascending; of places without entries the last of these.
        offsets: int32 (places + 1,), entries `offsets[i]:offsets[i + 1]` in that order belong to `columns[i]`.
    """

    order: Tensor
    rows: Tensor
    columns: Tensor
    offsets: Tensor

    @classmethod
    def of_rows(cls, columns: Tensor) -> Transposed:
        """The view of a block in which row i has the one entry `columns[i]`; int32, ascending, distinct."""
        places = torch.arange(len(columns) + 1, dtype=torch.int32, device=columns.device)
        return cls(places[:-1], places[:-1], columns, places)

    def of_places(self) -> Transposed:
        """The view of a block in which row i has one entry, in the column of place i.

        Rows of places without entries, which repeat the last column, have theirs there, too.
        """
        rows = torch.arange(len(self.columns) + 1, dtype=torch.int32, device=self.columns.device)
        last = (self.counts() > 0).sum(dtype=torch.int32) - 1
        return Transposed(rows[:-1], rows[:-1], self.columns, torch.where(rows <= last, rows, len(self.columns)))

    def counts(self) -> Tensor:
        """The number of entries of each place, int32 (places,)."""
        return self.offsets.diff()
