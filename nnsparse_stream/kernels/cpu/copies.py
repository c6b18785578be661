"""Compiled loops that copy entries of sparse rows: those of one fold, and those of rows in another order."""

from __future__ import annotations

import numpy as np

from nnsparse_stream.kernels.cpu.loops import Array, compiled, prefetch_row

# How many pieces ahead of its use the start of one is called into the cache: pieces of 10 entries then take about half
# the time.
_AHEAD = 4


@compiled
def keep_fold(
    folds: Array, fold: int, offsets: Array, columns: Array, values: Array, out: tuple[Array, Array]
) -> Array:
    """Copies the entries of one fold, in their order.

    Args:
        folds: uint8 (entries,).
        fold: whose entries to copy.
        offsets: int32 (rows + 1,); entries are counted from offsets[0] on.
        columns: int32 (entries,).
        values: float32 (entries,).
        out: columns and values, as long as the fold has entries.

    Returns:
        int64 (rows,): how many entries of each row are copied.
    """
    out_columns, out_values = out
    lengths = np.empty(len(offsets) - 1, np.int64)
    place = 0
    for row in range(len(lengths)):
        begin = place
        for entry in range(offsets[row] - offsets[0], offsets[row + 1] - offsets[0]):
            if folds[entry] == fold:
                out_columns[place] = columns[entry]
                out_values[place] = values[entry]
                place += 1
        lengths[row] = place - begin
    return lengths


@compiled
def gather(columns: Array, values: Array, starts: Array, lengths: Array, out: tuple[Array, Array]) -> None:
    """Copies pieces of consecutive entries, one after the other.

    Args:
        columns: int32 (entries,).
        values: float32 (entries,).
        starts: int64 (pieces,), where each begins.
        lengths: int64 (pieces,).
        out: columns and values, as long as all pieces together.
    """
    out_columns, out_values = out
    place = 0
    for piece in range(len(starts)):
        prefetch_row(columns.reshape(-1, 1), starts, piece + _AHEAD)
        prefetch_row(values.reshape(-1, 1), starts, piece + _AHEAD)
        start, length = starts[piece], lengths[piece]
        for entry in range(length):
            out_columns[place + entry] = columns[start + entry]
        for entry in range(length):
            out_values[place + entry] = values[start + entry]
        place += length
