"""Compiled loops of a linear item model: co-occurrences of columns, and sums of its weights over a row's entries.

As those of `cpu`, they run on one thread, release the interpreter's lock, and check nothing.
"""

from __future__ import annotations

from nnsparse_stream.kernels.cpu.loops import Array, compiled

# Columns whose scores are summed at once.
_SUMS = 1024


@compiled
def add_co_occurrences(
    row_offsets: Array, columns: Array, weights: Array, order: Array, rows: Array, distinct: Array, starts: Array,
    matrix: Array,
) -> None:  # fmt: skip
    """Adds to `matrix[i, j]`, i <= j, the weights of the rows that have both columns; O(sum of squared row lengths).

    One row of the matrix is written at a time, so that it stays in the cache.

    Args:
        row_offsets: int32 (rows + 1,).
        columns: int32 (entries,), ascending within a row, each once.
        weights: (rows,), of the matrix's dtype.
        order: int32 (entries,), as the next three from `cpu.transpose`.
        rows: int32 (entries,).
        distinct: int32 (distinct,).
        starts: int32 (distinct + 1,).
        matrix: (columns, columns), what lies below its diagonal is not written.
    """
    for index in range(len(distinct)):
        sums = matrix[distinct[index]]
        for place in range(starts[index], starts[index + 1]):
            row = rows[place]
            weight = weights[row]
            for entry in range(order[place], row_offsets[row + 1]):
                sums[columns[entry]] += weight


@compiled
def weight_sums(rows: Array, distinct: Array, starts: Array, matrix: Array, start: int, out: Array) -> None:
    """For each row the sum of `matrix[i, start:start + width]` over its columns i, into `out` (rows, width).

    A part of a row of the matrix is added to all rows that have its column, one after the other: it is read from memory
    once, which makes this as fast as a dense product where rows have a quarter of all columns, and faster below.

    Args:
        rows: int32 (entries,), as the next two from `cpu.transpose`.
        distinct: int32 (distinct,).
        starts: int32 (distinct + 1,).
        matrix: (columns, columns).
        start: first column of the sums.
        out: (rows, width).
    """
    out[:] = 0
    width = out.shape[1]
    for first in range(0, width, _SUMS):
        last = min(first + _SUMS, width)
        for index in range(len(distinct)):
            weights = matrix[distinct[index], start + first : start + last]
            for place in range(starts[index], starts[index + 1]):
                sums = out[rows[place], first:last]
                for unit in range(len(sums)):
                    sums[unit] += weights[unit]


@compiled
def weight_sums_at(
    offsets: Array, columns: Array, matrix: Array, at_offsets: Array, at_columns: Array, out: Array
) -> None:
    """The sum of `matrix[i, j]` over the columns i of a row, at each of its entries `at` j, into `out` (entries,)."""
    for row in range(len(offsets) - 1):
        sums, at = out[at_offsets[row] : at_offsets[row + 1]], at_columns[at_offsets[row] : at_offsets[row + 1]]
        sums[:] = 0
        for entry in range(offsets[row], offsets[row + 1]):
            weights = matrix[columns[entry]]
            for place in range(len(at)):
                sums[place] += weights[at[place]]
