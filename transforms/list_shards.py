"""ListShards: the shards of a data set as elements, so that no worker but one reads its manifest."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam

from nnsparse_stream.data.shards import Shard, list_shards


class ListShards(beam.PTransform):
    """The shards of a data set: the root of a pipeline, or of a branch of one.

    Args:
        url: the data set's directory.

    Returns:
        A PCollection of `Shard`, spread over the workers.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Shard]:
        """Applies the transform to the pipeline."""
        return begin | ListAligned([self._url]) | "Shard" >> beam.Map(operator.itemgetter(0)).with_output_types(Shard)


class ListAligned(beam.PTransform):
    """The shards of data sets that hold the same rows in as many shards: the root of a pipeline, or of a branch of one.

    A worker lists them, and not the driver: those of a large data set would not fit into the job's description.

    Args:
        urls: the data sets' directories.

    Returns:
        A PCollection of lists: the `Shard` of one number of each data set.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__()
        self._urls = urls

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[list[Shard]]:
        """Applies the transform to the pipeline."""
        return (
            begin
            | "Once" >> beam.Impulse()
            | "List" >> beam.FlatMap(_numbered, self._urls).with_output_types(tuple[int, list[Shard]])
            # A key for each, so that the runner spreads them over its workers.
            | "Spread" >> beam.GroupByKey()
            | "Shards" >> beam.Map(_only).with_output_types(list[Shard])
        )


def _numbered(_: bytes, urls: Sequence[str]) -> Iterator[tuple[int, list[Shard]]]:
    for number, shards in enumerate(zip(*map(list_shards, urls), strict=True)):
        yield number, list(shards)


def _only(numbered: tuple[int, Iterable[list[Shard]]]) -> list[Shard]:
    (shards,) = numbered[1]
    return shards


def with_position(shards: Mapping[int, beam.PCollection[Shard]]) -> beam.PCollection[tuple[int, Shard]]:
    """The shards of several data sets as one PCollection, each with the position of its data set."""
    return [
        of_one | f"Position {position}" >> beam.Map(_place, position).with_output_types(tuple[int, Shard])
        for position, of_one in shards.items()
    ] | "Of all" >> beam.Flatten()


def _place(shard: Shard, position: int) -> tuple[int, Shard]:
    return position, shard
