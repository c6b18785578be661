"""ListShards: the shards of a data set as elements, so that no worker but one reads its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam

from nnsparse_stream.data.shards import Shard, list_shards


class ListShards(beam.PTransform):
    """The shards of a data set: the root of a pipeline, or of a branch of one.

    A worker lists them, and not the driver: those of a large data set would not fit into the job's description.

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
        return (
            begin
            | "Once" >> beam.Impulse()
            | "List" >> beam.FlatMap(_numbered, self._url).with_output_types(tuple[int, Shard])
            # A key for each, so that the runner spreads them over its workers.
            | "Spread" >> beam.GroupByKey()
            | "Shard" >> beam.Map(_only).with_output_types(Shard)
        )


def with_position(shards: Sequence[beam.PCollection[Shard]]) -> beam.PCollection[tuple[int, Shard]]:
    """The shards of several data sets as one PCollection, each with the position of its data set."""
    return [
        of_one | f"Position {position}" >> beam.Map(_place, position).with_output_types(tuple[int, Shard])
        for position, of_one in enumerate(shards)
    ] | "Of all" >> beam.Flatten()


def _place(shard: Shard, position: int) -> tuple[int, Shard]:
    return position, shard


def _numbered(_: bytes, url: str) -> Iterator[tuple[int, Shard]]:
    for shard in list_shards(url):
        yield shard.number, shard


def _only(numbered: tuple[int, Iterable[Shard]]) -> Shard:
    (shard,) = numbered[1]
    return shard
