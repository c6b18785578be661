"""Cuts any number of sparse rows into minibatches of bounded size, and passes them through a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows

Output = TypeVar("Output", Tensor, np.ndarray)


class Batchifier:
    """Cuts rows into minibatches, in order, each bounded by rows and by entries.

    Small consecutive blocks are merged and large ones cut, so that the minibatches do not depend on how the rows were
    split into blocks. A row with more than ``max_entries`` entries makes a minibatch of its own.
    """

    def __init__(self, max_rows: int, max_entries: int) -> None:
        """Sets the bounds.

        Args:
            max_rows: most rows of a minibatch, at least 1.
            max_entries: most entries of a minibatch, at least 1.

        Raises:
            ValueError: a bound is less than 1.
        """
        if max_rows < 1 or max_entries < 1:
            raise ValueError(f"max_rows and max_entries must be at least 1, got {max_rows} and {max_entries}")
        self.max_rows = max_rows
        self.max_entries = max_entries

    def __call__(self, rows: SparseRows | Iterable[SparseRows]) -> Iterator[SparseRows]:
        """Yields the minibatches.

        Lazy: a minibatch is yielded as soon as it is full, and at most one block is read beyond it.

        Args:
            rows: one block, or a list or iterator of blocks with the same columns, dtype and device.

        Raises:
            ValueError: two blocks of one minibatch do not fit together.
        """
        pieces: list[SparseRows] = []
        num_rows = num_entries = 0
        for block in [rows] if isinstance(rows, SparseRows) else rows:
            offsets = block.offsets.cpu().numpy()
            start = 0
            while start < block.num_rows:
                # int64: int32 would overflow for bounds near 2**31.
                limit = np.int64(offsets[start]) + self.max_entries - num_entries
                # A minibatch ends where it reaches the limit: empty rows that follow may stand in another block.
                fitting = int(np.searchsorted(offsets, limit))
                if fitting > block.num_rows or offsets[fitting] > limit:
                    fitting -= 1
                end = min(start + self.max_rows - num_rows, fitting)
                if end <= start and not pieces:
                    end = start + 1
                if end > start:
                    pieces.append(block[start:end])
                    num_rows += end - start
                    num_entries += int(offsets[end] - offsets[start])
                    start = end
                if start < block.num_rows or num_rows == self.max_rows or num_entries >= self.max_entries:
                    yield SparseRows.concatenate(pieces)
                    pieces, num_rows, num_entries = [], 0, 0
        if pieces:
            yield SparseRows.concatenate(pieces)

    def blocks(
        self, network: Callable[[SparseRows], Tensor], rows: SparseRows | Iterable[SparseRows]
    ) -> Iterator[Tensor]:
        """Yields the network's output ``(rows of the minibatch, ...)`` for one minibatch after the other.

        No gradient is recorded. The network stays in the mode that it is in: call its ``eval`` first.
        """
        for batch in self(rows):
            with torch.no_grad():
                output = network(batch)
            yield output

    def forward(
        self,
        network: Callable[[SparseRows], Tensor],
        rows: SparseRows | Iterable[SparseRows],
        out: Output | None = None,
    ) -> Tensor | Output:
        """The network's output for all rows, ``(rows, ...)``.

        Args:
            network: maps sparse rows to a tensor with one element or row for each.
            rows: one block, or a list or iterator of blocks.
            out: where to write the output: a tensor on any device, or a writable NumPy array or memory map.

        Returns:
            ``out``, or a new tensor without it.

        Raises:
            ValueError: there are no rows and no ``out``, or ``out`` is read-only or of another shape than the output.
        """
        if out is None:
            outputs = list(self.blocks(network, rows))
            if not outputs:
                raise ValueError("there are no rows to pass through the network")
            return torch.cat(outputs)
        if isinstance(out, np.ndarray) and not out.flags.writeable:
            raise ValueError("out is read-only: open the memory map with mode 'r+' or 'w+'")
        target = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
        end = 0
        for output in self.blocks(network, rows):
            start, end = end, end + len(output)
            if end > len(target) or output.shape[1:] != target.shape[1:]:
                raise ValueError(
                    f"out has shape {tuple(target.shape)}, but the output has rows of shape {tuple(output.shape[1:])} "
                    f"and at least {end} of them"
                )
            target[start:end] = output
        if end < len(target):
            raise ValueError(f"out has {len(target)} rows, but only {end} came")
        return out
