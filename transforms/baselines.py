"""JudgeBaselines: the errors of what a model must beat, on one fold of a data set."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.evaluation.baselines import PASSES, Baselines
from nnsparse_stream.evaluation.comparison import PartErrors
from nnsparse_stream.evaluation.prediction_errors import ErrorSums
from nnsparse_stream.ratings.folds import FOLDS

#: Columns whose biases are added up under one key: 16 MiB of sums, 8 MiB of biases.
_COLUMNS_PER_KEY = 1 << 20

#: The number of a range of columns, and their biases: float64, as bytes.
_Biases = tuple[int, bytes]


class JudgeBaselines(beam.PTransform):
    """Fits the baselines to a data set's training fold, and judges them on another: takes a PCollection of its `Shard`.

    Args:
        data: URL of the data set.
        fold: "train", "validation" or "test".

    Returns:
        A PCollection of (baseline's name, shard's number, `ErrorSums`).
    """

    def __init__(self, data: str, fold: str) -> None:
        super().__init__()
        self._data, self._fold = data, FOLDS.index(fold)

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[PartErrors]:
        """Applies the transform."""
        baselines = Baselines.of(Manifest.read(self._data))
        biases: beam.pvalue.AsList[_Biases] | list[_Biases] = []
        for number in range(PASSES):
            fitted = (
                shards
                | f"Residuals {number}"
                >> beam.ParDo(_ColumnResiduals(baselines), biases).with_output_types(tuple[int, pa.RecordBatch])
                | f"Biases {number}" >> beam.CombinePerKey(_AddUp(baselines)).with_output_types(tuple[int, bytes])
            )
            biases = beam.pvalue.AsList(fitted)
        return shards | "Judge" >> beam.ParDo(_Judge(baselines, self._fold), biases)


class _ColumnResiduals(beam.DoFn):
    def __init__(self, baselines: Baselines) -> None:
        self._baselines = baselines

    def process(self, shard: Shard, parts: list[_Biases]) -> Iterator[tuple[int, pa.RecordBatch]]:
        biases = _joined(parts, self._baselines.num_columns)
        for batch in shard.batches():
            sums = self._baselines.column_residuals(batch, biases)
            ranges = sums["column"].to_numpy() // _COLUMNS_PER_KEY
            for key in np.unique(ranges).tolist():
                start, stop = np.searchsorted(ranges, [key, key + 1]).tolist()
                yield key, sums.slice(start, stop - start)


class _AddUp(beam.CombineFn):
    """Adds up what `Baselines.column_residuals` gives of a range of columns, in an int64 array (2, columns)."""

    def __init__(self, baselines: Baselines) -> None:
        self._baselines = baselines

    def create_accumulator(self) -> np.ndarray:
        return np.zeros((2, min(_COLUMNS_PER_KEY, self._baselines.num_columns)), dtype=np.int64)

    def add_input(self, total: np.ndarray, sums: pa.RecordBatch) -> np.ndarray:
        columns = sums["column"].to_numpy() % _COLUMNS_PER_KEY
        for row, name in enumerate(("residuals", "ratings")):
            total[row, columns] += sums[name].to_numpy()
        return total

    def merge_accumulators(self, totals: Iterable[np.ndarray]) -> np.ndarray:
        return functools.reduce(operator.add, totals)

    def extract_output(self, total: np.ndarray) -> bytes:
        return self._baselines.column_biases(*total).tobytes()

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return _SumsCoder()


class _SumsCoder(beam.coders.Coder):
    """An int64 array (2, columns) as its bytes."""

    def encode(self, value: np.ndarray) -> bytes:
        return value.tobytes()

    def decode(self, encoded: bytes) -> np.ndarray:
        return np.frombuffer(encoded, dtype=np.int64).reshape(2, -1).copy()

    def is_deterministic(self) -> bool:
        return True


class _Judge(beam.DoFn):
    def __init__(self, baselines: Baselines, fold: int) -> None:
        self._baselines, self._fold = baselines, fold

    def process(self, shard: Shard, parts: list[_Biases]) -> Iterator[PartErrors]:
        biases = _joined(parts, self._baselines.num_columns)
        totals: dict[str, ErrorSums] = {}
        for batch in shard.batches():
            for name, sums in self._baselines.judge(batch, self._fold, biases).items():
                totals[name] = totals.get(name, ErrorSums()) + sums
        for name, total in totals.items():
            yield name, shard.number, total


def _joined(parts: list[_Biases], num_columns: int) -> np.ndarray:
    """The biases of all columns, float64 (columns,); 0 in a range without training ratings."""
    biases = np.zeros(num_columns)
    for key, encoded in parts:
        part = np.frombuffer(encoded)[: num_columns - key * _COLUMNS_PER_KEY]
        biases[key * _COLUMNS_PER_KEY :][: len(part)] = part
    return biases
