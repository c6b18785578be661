"""The known entries that gave most of the scores of listed columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.nn.model import Model
from nnsparse_stream.sparse.rows import SparseRows

# Contributions held at once, some 16 MB, but for a row of so many entries that its own are more.
_CONTRIBUTIONS = 1 << 22


class Reasons(NamedTuple):
    """Reasons of listed columns, one after the other.

    Attributes:
        counts: int64 (listed,), how many reasons each has.
        columns: int64 (reasons,), known columns; of one list the largest contribution first, equal ones by column.
        contributions: float32 (reasons,), what each adds to the score; all are above 0.
    """

    counts: np.ndarray
    columns: np.ndarray
    contributions: np.ndarray


def reasons(model: Model, known: SparseRows, columns: Tensor, most: int) -> Reasons:
    """Finds what adds most to the scores of listed columns.

    Args:
        model: one that can explain its scores.
        known: the rows' known entries, on the model's device; ascending within a row.
        columns: int64 (rows, k), as `top_k` gives them: -1 for none, which are not listed.
        most: how many reasons a listed column has at most.

    Returns:
        Those of the listed columns, by row, then place in the list.

    Raises:
        InputError: the model cannot explain its scores.
    """
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    offsets, width = known.offsets.tolist(), max(columns.shape[1], 1)
    first = 0
    while first < known.num_rows:
        last = first + 1
        while last < known.num_rows and (offsets[last + 1] - offsets[first]) * width <= _CONTRIBUTIONS:
            last += 1
        block, listed = known[first:last], columns[first:last]
        step = max(1, _CONTRIBUTIONS // max(block.num_entries, 1))
        parts = [model.contributions(block, part).cpu() for part in listed.split(step, 1)]
        contributions = torch.cat(parts, 1).numpy()
        entries, bounds = block.columns.cpu().numpy(), block.offsets.tolist()
        for row, count in enumerate((listed >= 0).sum(1).tolist()):
            entry = slice(bounds[row], bounds[row + 1])
            found.append(_of_row(entries[entry], contributions[entry, :count], most))
        first = last
    return Reasons(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _of_row(entries: np.ndarray, contributions: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fields of `Reasons` of one row: entries (n,), and what they add to its listed columns (n, listed)."""
    order = np.argsort(-contributions, axis=0, kind="stable")[:most].T
    values = np.take_along_axis(contributions.T, order, axis=1)
    positive = values > 0
    return positive.sum(1), entries[order[positive]].astype(np.int64), values[positive].astype(np.float32)
