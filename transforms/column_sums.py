"""AddUpColumns: whole numbers of columns, added up over blocks; however many columns, no element is large."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

#: Columns that are added up under one key: 8 MiB for each number of a column.
_COLUMNS_PER_KEY = 1 << 20

#: What was added up, the number of a range of columns, and their sums, int64 (numbers, columns of the range), as bytes.
ColumnSums = tuple[str, int, bytes]


class AddUpColumns(beam.PTransform):
    """Adds up numbers of columns: takes a PCollection of (name of what they are, block).

    A block has the columns `column` (ascending) and, int64, one for each number; blocks of one name have as many.

    Args:
        num_columns: columns of the data set.

    Returns:
        A PCollection of `ColumnSums`, for `joined`.
    """

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self._num_columns = num_columns

    def expand(self, blocks: beam.PCollection[tuple[str, pa.RecordBatch]]) -> beam.PCollection[ColumnSums]:
        """Applies the transform."""
        keyed = tuple[tuple[str, int], pa.RecordBatch]
        return (
            blocks
            | "By range" >> beam.FlatMap(_by_range).with_output_types(keyed)
            | "Add up" >> beam.CombinePerKey(_AddUp(self._num_columns)).with_output_types(tuple[tuple[str, int], bytes])
            | "Sums" >> beam.MapTuple(_unkeyed).with_output_types(ColumnSums)
        )


def _by_range(named: tuple[str, pa.RecordBatch]) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    name, block = named
    ranges = block["column"].to_numpy() // _COLUMNS_PER_KEY
    for key in np.unique(ranges).tolist():
        start, stop = np.searchsorted(ranges, [key, key + 1]).tolist()
        yield (name, key), block.slice(start, stop - start)


class _AddUp(beam.CombineFn):
    """Adds up the numbers of a range of columns, in an int64 array (numbers, columns)."""

    def __init__(self, num_columns: int) -> None:
        self._columns = min(_COLUMNS_PER_KEY, num_columns)

    def create_accumulator(self) -> np.ndarray:
        return np.zeros((0, self._columns), dtype=np.int64)

    def add_input(self, total: np.ndarray, block: pa.RecordBatch) -> np.ndarray:
        numbers = block.columns[1:]
        if not len(total):
            total = np.zeros((len(numbers), self._columns), dtype=np.int64)
        columns = block["column"].to_numpy() % _COLUMNS_PER_KEY
        for row, number in zip(total, numbers, strict=True):
            row[columns] += number.to_numpy()
        return total

    def merge_accumulators(self, totals: Iterable[np.ndarray]) -> np.ndarray:
        filled = [total for total in totals if len(total)]
        return functools.reduce(operator.add, filled) if filled else self.create_accumulator()

    def extract_output(self, total: np.ndarray) -> bytes:
        return total.tobytes()

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return _SumsCoder(self._columns)


class _SumsCoder(beam.coders.Coder):
    """An int64 array (numbers, columns) as its bytes."""

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def encode(self, value: np.ndarray) -> bytes:
        return value.tobytes()

    def decode(self, encoded: bytes) -> np.ndarray:
        return np.frombuffer(encoded, dtype=np.int64).reshape(-1, self._columns).copy()

    def is_deterministic(self) -> bool:
        return True


def _unkeyed(key: tuple[str, int], sums: bytes) -> ColumnSums:
    return *key, sums


def joined(parts: Iterable[ColumnSums], name: str, numbers: int, num_columns: int) -> np.ndarray:
    """The sums of one name of all columns, int64 (numbers, columns); 0 in a range of which there was no block."""
    sums = np.zeros((numbers, num_columns), dtype=np.int64)
    for of_what, key, encoded in parts:
        if of_what == name:
            part = np.frombuffer(encoded, dtype=np.int64).reshape(numbers, -1)
            start = key * _COLUMNS_PER_KEY
            sums[:, start : start + part.shape[1]] = part[:, : num_columns - start]
    return sums
