"""Compiled loops over sparse rows on the CPU: products, gradients of distinct columns, and updates fused with them.

Numba compiles each function for float32 or float64 on its first call and keeps the machine code in a cache on disk. The
loops release the interpreter's lock. Nothing here checks its arguments: an index out of range reads or writes foreign
memory, so `kernels` checks every block first.

A loop with an argument `claimed` may run on several threads at once with the same arguments (`threads.share`): each
claims pieces of consecutive rows, or distinct columns, until none is left. Nothing is summed across pieces, so that
results do not depend on the number of threads, nor on which of them does what.

No gradient row is ever written to memory by an update: it is summed in a buffer of one row, which stays in the
processor's cache, and applied at once. That is where these loops beat the same steps by torch operations
(benchmarks/RESULTS.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core.caching import IndexDataCacheFile
from numba.extending import intrinsic
from numpy.typing import NDArray

# Sums may be reassociated, products and sums contracted to one instruction: that vectorises them, in an order which
# depends on the machine code only, so that results repeat bit by bit. NaN and infinity keep their meaning, which
# fastmath=True would drop.
# Python's error of a division by 0, which no loop here divides by, would keep divisions from being vectorised.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
_RADIX_BITS = 11
_CACHE_LINE = 64
# Rows and entries of a piece: enough to make up for what it takes to claim it, few enough for many threads.
_PIECE = 256
# How many rows ahead of its use a row is called into the cache: 2 takes half the time of none where the matrix does not
# fit into the cache, 1 takes a fifth more, 4 no less.
AHEAD = 2

# Vectors that are added to one sum of their own precision at most; the sums of more are added up in float64. A float32
# sum of many equal numbers stands still where it is large.
_SUMMANDS = 1024

_Function = TypeVar("_Function", bound=Callable[..., Any])
Array = NDArray[Any]


def compiled(function: _Function) -> _Function:
    """Compiles on first use; without a cache where no directory for one can be written, as in some containers."""
    try:
        dispatcher: Any = numba.njit(function, cache=True, **_OPTIONS)
    except RuntimeError:
        return cast(_Function, numba.njit(function, **_OPTIONS))
    file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if type(file) is IndexDataCacheFile:  # there is none where compiling is switched off
        file.__class__ = _CacheFile
    return cast(_Function, dispatcher)


class _CacheFile(IndexDataCacheFile):
    """The cache of one function, to which several processes may write at a time.

    Numba numbers the files of machine code by the index that it has read, and names a file there before it writes it:
    processes that compile a function for two types at once may give the code of one type to the other, for good.
    """

    def save(self, key: Any, data: Any) -> None:
        of_all = hashlib.sha256(repr((self._version, self._source_stamp, key)).encode()).digest()
        name = self._data_name(int.from_bytes(of_all[:8], "big"))
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


def _emit_prefetch(typing_context: Any, address: Any) -> Any:
    """Asks the processor for the cache line at an address; it changes nothing that a program can see."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        target = builder.module.declare_intrinsic("llvm.prefetch", [pointer], call)
        # To be read (0), and kept in all levels of the cache (3), of the data cache (1).
        flags = [ir.Constant(number, flag) for flag in (0, 3, 1)]
        builder.call(target, [builder.inttoptr(arguments[0], pointer), *flags])
        return context.get_dummy_value()

    return numba.types.void(numba.types.intp), generate


_prefetch: Any = intrinsic(_emit_prefetch)


@compiled
def prefetch_row(matrix: Array, columns: Array, place: int) -> None:
    """Calls the row of `matrix` into the cache that `columns` names at a place, where there is one."""
    if place < len(columns):
        start = matrix.ctypes.data + columns[place] * matrix.strides[0]
        for byte in range(0, matrix.shape[1] * matrix.itemsize, _CACHE_LINE):
            _prefetch(start + byte)


def _emit_fetch_add(typing_context: Any, address: Any) -> Any:
    """Adds 1 to the int64 at an address in one step, whatever other threads do, and returns what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(64)
        pointer = builder.inttoptr(arguments[0], number.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(number, 1), "monotonic")

    return numba.types.int64(numba.types.intp), generate


_fetch_add: Any = intrinsic(_emit_fetch_add)


@compiled
def _start_of(piece: int, offsets: Array) -> int:
    """Where a piece starts: the first row before which there are as many rows and entries as in the pieces before."""
    low, high = 0, len(offsets) - 1
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] + middle < piece * _PIECE:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def next_piece(offsets: Array, claimed: Array) -> tuple[int, int]:
    """Claims rows (or places of distinct columns) `start:stop` for the calling thread; none where they are empty.

    Args:
        offsets: int32 (rows + 1,), where the entries of each start.
        claimed: int64 (1,), the pieces that any thread has claimed; 0 before the first.
    """
    while True:
        piece = _fetch_add(claimed.ctypes.data)
        start, stop = _start_of(piece, offsets), _start_of(piece + 1, offsets)
        # A row of more entries than a piece has is followed by pieces without a row.
        if start < stop or start == len(offsets) - 1:
            return start, stop


class Factors(NamedTuple):
    """A row gradient as these loops read it: the row of a column is the sum of `weights[e] * vectors[row of e]`.

    Attributes:
        columns: int32 (distinct,), ascending.
        offsets: int32 (distinct + 1,), where the entries of each column start in `order`.
        order: int32 (entries,), the entries by column.
        rows: int32 (entries,), the row of each entry in that order.
        weights: (entries,), in the order of the block.
        vectors: (rows, units).
    """

    columns: Array
    offsets: Array
    order: Array
    rows: Array
    weights: Array
    vectors: Array


@compiled
def transpose(offsets: Array, columns: Array, num_columns: int) -> tuple[Array, Array, Array, Array]:
    """Sorts the entries of a block by column, stably, by a radix sort: O(entries), whatever the number of columns.

    Args:
        offsets: int32 (rows + 1,).
        columns: int32 (entries,), each in [0, num_columns).
        num_columns: columns of the block.

    Returns:
        `order` and `rows` (entries,), distinct columns and their offsets, all int32, as `Transposed` describes them.
    """
    num_entries = len(columns)
    keys, order = columns, np.empty(num_entries, np.int32)
    for entry in range(num_entries):
        order[entry] = entry
    starts = np.empty(1 << _RADIX_BITS, np.int64)
    shift = 0
    while shift == 0 or (num_columns - 1) >> shift > 0:
        starts[:] = 0
        for entry in range(num_entries):
            starts[(keys[entry] >> shift) & ((1 << _RADIX_BITS) - 1)] += 1
        total = 0
        for digit in range(len(starts)):
            total, starts[digit] = total + starts[digit], total
        sorted_keys, sorted_order = np.empty_like(keys), np.empty_like(order)
        for entry in range(num_entries):
            digit = (keys[entry] >> shift) & ((1 << _RADIX_BITS) - 1)
            sorted_keys[starts[digit]], sorted_order[starts[digit]] = keys[entry], order[entry]
            starts[digit] += 1
        keys, order = sorted_keys, sorted_order
        shift += _RADIX_BITS
    row_of = np.empty(num_entries, np.int32)
    for row in range(len(offsets) - 1):
        row_of[offsets[row] : offsets[row + 1]] = row
    rows = row_of[order]
    distinct, column_offsets = np.empty(num_entries, np.int32), np.empty(num_entries + 1, np.int32)
    count = 0
    for entry in range(num_entries):
        if entry == 0 or keys[entry] != keys[entry - 1]:
            distinct[count], column_offsets[count] = keys[entry], entry
            count += 1
    column_offsets[count] = num_entries
    return order, rows, distinct[:count].copy(), column_offsets[: count + 1].copy()


@compiled
def merge(
    columns: Array,
    offsets: Array,
    rows: Array,
    order: Array,
    other_columns: Array,
    other_offsets: Array,
    other_rows: Array,
    other_order: Array,
) -> tuple[Array, Array, Array, Array]:
    """Merges the transposes of two blocks by column, entries of the first before those of the second: O(entries).

    Args:
        columns, offsets, rows, order: int32, of the first block, as `Transposed` describes them.
        other_columns, other_offsets, other_rows, other_order: of the second; its rows and the numbers of its entries
            are those that they have behind the first's.

    Returns:
        As `transpose`.
    """
    count, others = len(columns), len(other_columns)
    num_entries = len(order) + len(other_order)
    merged_order, merged_rows = np.empty(num_entries, np.int32), np.empty(num_entries, np.int32)
    distinct, starts = np.empty(count + others, np.int32), np.zeros(count + others + 1, np.int32)
    mine = other = place = total = 0
    while mine < count or other < others:
        take = mine < count and (other == others or columns[mine] <= other_columns[other])
        take_other = other < others and (mine == count or other_columns[other] <= columns[mine])
        distinct[total] = columns[mine] if take else other_columns[other]
        if take:
            for entry in range(offsets[mine], offsets[mine + 1]):
                merged_order[place], merged_rows[place] = order[entry], rows[entry]
                place += 1
            mine += 1
        if take_other:
            for entry in range(other_offsets[other], other_offsets[other + 1]):
                merged_order[place], merged_rows[place] = other_order[entry], other_rows[entry]
                place += 1
            other += 1
        total += 1
        starts[total] = place
    return merged_order, merged_rows, distinct[:total].copy(), starts[: total + 1].copy()


@compiled
def _weighted_sum(first: int, last: int, columns: Array, weights: Array, matrix: Array, total: Array) -> None:
    """Sums `weights[e] * matrix[columns[e]]` over entries `first:last` into `total` (units,)."""
    total[:] = 0
    for entry in range(first, last):
        prefetch_row(matrix, columns, entry + AHEAD)
        weight, vector = weights[entry], matrix[columns[entry]]
        for unit in range(len(total)):
            total[unit] += weight * vector[unit]


@compiled
def weighted_sums(claimed: Array, offsets: Array, columns: Array, weights: Array, matrix: Array, out: Array) -> None:
    """For each row, sums `weights[e] * matrix[columns[e]]` over its entries into `out` (rows, units).

    With a block's values and the input matrix that encodes; with the gradient at the entries and the output matrix it
    is the gradient of the codes.
    """
    start, stop = next_piece(offsets, claimed)
    while start < stop:
        for row in range(start, stop):
            first, last, total = offsets[row], offsets[row + 1], out[row]
            if last - first <= _SUMMANDS:
                _weighted_sum(first, last, columns, weights, matrix, total)
                continue
            wide = np.zeros(len(total))
            for entry in range(first, last, _SUMMANDS):
                _weighted_sum(entry, min(entry + _SUMMANDS, last), columns, weights, matrix, total)
                wide += total
            total[:] = wide
        start, stop = next_piece(offsets, claimed)


@compiled
def products_at(claimed: Array, offsets: Array, columns: Array, code: Array, matrix: Array, out: Array) -> None:
    """Products `code[row] . matrix[column]` at each entry of a block, into `out` (entries,)."""
    start, stop = next_piece(offsets, claimed)
    while start < stop:
        for row in range(start, stop):
            vector = code[row]
            for entry in range(offsets[row], offsets[row + 1]):
                prefetch_row(matrix, columns, entry + AHEAD)
                weights = matrix[columns[entry]]
                total = code.dtype.type(0)
                for unit in range(len(vector)):
                    total += vector[unit] * weights[unit]
                out[entry] = total
        start, stop = next_piece(offsets, claimed)


@compiled
def own_products(
    claimed: Array, columns: Array, offsets: Array, order: Array, left: Array, right: Array, out: Array
) -> None:
    """Products of the rows of two matrices that an entry's column names, at each entry, into `out` (entries,).

    `columns`, `offsets` and `order` are those of the block's transpose.
    """
    start, stop = next_piece(offsets, claimed)
    while start < stop:
        for index in range(start, stop):
            prefetch_row(left, columns, index + AHEAD)
            prefetch_row(right, columns, index + AHEAD)
            row, other = left[columns[index]], right[columns[index]]
            total = left.dtype.type(0)
            for unit in range(len(row)):
                total += row[unit] * other[unit]
            for place in range(offsets[index], offsets[index + 1]):
                out[order[place]] = total
        start, stop = next_piece(offsets, claimed)


@compiled
def fill_at(offsets: Array, places: Array, value: float, out: Array) -> None:
    """Sets the places (entries,) of each row of `out` (rows, width) to a value, but for those of -1."""
    for row in range(len(offsets) - 1):
        for entry in range(offsets[row], offsets[row + 1]):
            if places[entry] >= 0:
                out[row, places[entry]] = value


@compiled
def _gradient_sum(factors: Factors, first: int, last: int, out: Array) -> None:
    """Adds the products of the entries at places `first:last` of the order to `out` (units,)."""
    for place in range(first, last):
        weight, vector = factors.weights[factors.order[place]], factors.vectors[factors.rows[place]]
        for unit in range(len(out)):
            out[unit] += weight * vector[unit]


@compiled
def _heavy_gradient_row(factors: Factors, start: int, end: int, out: Array) -> None:
    wide = np.zeros(len(out))
    for first in range(start, end, _SUMMANDS):
        out[:] = 0
        _gradient_sum(factors, first, min(first + _SUMMANDS, end), out)
        wide += out
    out[:] = wide


@compiled
def gradient_row(factors: Factors, index: int, out: Array) -> None:
    """The gradient row of the distinct column number `index`, into `out` (units,)."""
    start, end = factors.offsets[index], factors.offsets[index + 1]
    if end - start > _SUMMANDS:
        _heavy_gradient_row(factors, start, end, out)
        return
    out[:] = 0
    # As `_gradient_sum`; a call for each column would take as long as a sum of a few short vectors.
    for place in range(start, end):
        weight, vector = factors.weights[factors.order[place]], factors.vectors[factors.rows[place]]
        for unit in range(len(out)):
            out[unit] += weight * vector[unit]


@compiled
def gradient_rows(claimed: Array, factors: Factors, out: Array) -> None:
    """The gradient rows of all distinct columns, into `out` (distinct, units)."""
    start, stop = next_piece(factors.offsets, claimed)
    while start < stop:
        for index in range(start, stop):
            gradient_row(factors, index, out[index])
        start, stop = next_piece(factors.offsets, claimed)


@compiled
def squared_norms(claimed: Array, factors: Factors, out: Array) -> None:
    """The sum of the squares of each gradient row, into `out`, float64 (distinct,); no gradient row is kept."""
    gradient = np.empty(factors.vectors.shape[1], factors.vectors.dtype)
    start, stop = next_piece(factors.offsets, claimed)
    while start < stop:
        for index in range(start, stop):
            gradient_row(factors, index, gradient)
            # In the gradient's precision, which vectorises.
            total = gradient.dtype.type(0)
            for unit in range(len(gradient)):
                total += gradient[unit] * gradient[unit]
            out[index] = total
        start, stop = next_piece(factors.offsets, claimed)
