"""Count and AddUp: what the solution of an objective of a closed form needs, added up over shards by all workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import apache_beam as beam
import numpy as np
import pyarrow as pa

from nnsparse_stream.data.shards import Shard
from nnsparse_stream.storage import files as storage
from nnsparse_stream.transforms.coders import RecordBatchCoder

if TYPE_CHECKING:
    from nnsparse_stream.objectives.objective import ClosedForm
    from nnsparse_stream.objectives.recipe import Recipe

#: Sums that are made beside each other at most. A part of some MiB of all of them is grouped under one key, and a
#: worker has one of them whole in its memory.
_GROUPS = 16


#: The number of a part, or 0 for what has none, and its sums.
_Keyed = tuple[int, pa.RecordBatch]

#: The folder of a run's directory for the files of the parts.
SUMS = "_sums"


def empty_sums(recipe: Recipe, counts: pa.RecordBatch) -> ClosedForm:
    """Room for the sums, after what `Count` gives.

    Raises:
        InputError: they take more memory than the recipe allows.
    """
    from nnsparse_stream.training.closed_form_run import closed_form_of

    return closed_form_of(recipe)(recipe, counts["sums"].to_numpy())


def read_sums(recipe: Recipe, counts: pa.RecordBatch, parts: Iterable[tuple[int, str]]) -> ClosedForm:
    """The sums that `AddUp` has written.

    Raises:
        InputError: a file is missing, or they take more memory than the recipe allows.
    """
    sums = empty_sums(recipe, counts)
    for number, url in parts:
        sums.set_part(number, np.frombuffer(storage.read_file(url), dtype=np.int32))
    return sums


class Count(beam.PTransform):
    """What must be known of all rows before their sums: takes a PCollection of `Shard`.

    Args:
        recipe: of an objective of a closed form.
        num_columns: columns of the data set.

    Returns:
        A PCollection of one record batch, whose column `sums` has what `ClosedForm.count` gives, flat.
    """

    def __init__(self, recipe: Recipe, num_columns: int) -> None:
        super().__init__()
        self._recipe, self._num_columns = recipe, num_columns

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[pa.RecordBatch]:
        """Applies the transform."""
        return (
            shards
            | "Count" >> beam.ParDo(_Count(self._recipe, self._num_columns)).with_output_types(_Keyed)
            | "All" >> beam.CombinePerKey(_Total()).with_output_types(_Keyed)
            | beam.Values().with_output_types(pa.RecordBatch)
        )


class AddUp(beam.PTransform):
    """Adds up a data set's training entries, in parts, to files: takes a PCollection of `Shard`.

    Args:
        recipe: of an objective of a closed form.
        num_columns: columns of the data set.
        counts: side input of one element, from `Count`.
        begun: side input of one element, which is there when files may be written.
        folder: URL of the directory that receives a file for each part.

    Returns:
        A PCollection of number and URL of each part.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_columns: int,
        counts: beam.pvalue.AsSingleton,
        begun: beam.pvalue.AsSingleton,
        folder: str,
    ) -> None:
        super().__init__()
        self._add, self._counts = _Add(recipe, num_columns), counts
        self._begun, self._folder = begun, folder

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[tuple[int, str]]:
        """Applies the transform."""
        return (
            shards
            | "Group" >> beam.Map(_group).with_output_types(tuple[int, Shard])
            | "By group" >> beam.GroupByKey()
            | "Add" >> beam.ParDo(self._add, self._counts).with_output_types(_Keyed)
            | "By part" >> beam.CombinePerKey(_Total()).with_output_types(_Keyed)
            | "Write" >> beam.Map(_write, self._folder, self._begun).with_output_types(tuple[int, str])
        )


def _group(shard: Shard) -> tuple[int, Shard]:
    return shard.number % _GROUPS, shard


class _Count(beam.DoFn):
    def __init__(self, recipe: Recipe, num_columns: int) -> None:
        self._recipe, self._num_columns = recipe, num_columns

    def process(self, shard: Shard) -> Iterator[tuple[int, pa.RecordBatch]]:
        from nnsparse_stream.training.closed_form_run import closed_form_of, training_rows

        objective = closed_form_of(self._recipe)
        for rows in training_rows(shard.batches(), self._num_columns):
            yield 0, _batch(objective.count(self._recipe, rows))


class _Add(beam.DoFn):
    """Adds up the shards of a group, and gives the parts of their sums."""

    def __init__(self, recipe: Recipe, num_columns: int) -> None:
        self._recipe, self._num_columns = recipe, num_columns

    def process(
        self, group: tuple[int, Iterable[Shard]], counts: pa.RecordBatch
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        from nnsparse_stream.training.closed_form_run import training_rows

        sums = empty_sums(self._recipe, counts)
        for shard in group[1]:
            for rows in training_rows(shard.batches(), self._num_columns):
                sums.add(rows)
        for number, part in sums.parts():
            yield number, _batch(part)


class _Total(beam.CombineFn):
    """Adds up arrays of one shape: whole numbers, which have one sum in any order."""

    def create_accumulator(self) -> pa.RecordBatch | None:
        return None

    def add_input(self, total: pa.RecordBatch | None, part: pa.RecordBatch) -> pa.RecordBatch:
        return part if total is None else _batch(total["sums"].to_numpy() + part["sums"].to_numpy())

    def merge_accumulators(self, totals: Iterable[pa.RecordBatch | None]) -> pa.RecordBatch | None:
        merged = None
        for total in totals:
            merged = merged if total is None else self.add_input(merged, total)
        return merged

    def extract_output(self, total: pa.RecordBatch | None) -> pa.RecordBatch | None:
        return total

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return beam.coders.NullableCoder(RecordBatchCoder())


def _batch(sums: np.ndarray) -> pa.RecordBatch:
    return pa.record_batch({"sums": sums.ravel()})


def _write(part: tuple[int, pa.RecordBatch], folder: str, _begun: object) -> tuple[int, str]:
    number, sums = part
    url = storage.join(folder, f"part-{number:06d}.bin")
    storage.write_file(url, sums["sums"].to_numpy().tobytes())
    return number, url
