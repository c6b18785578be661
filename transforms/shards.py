"""WriteShards: shards of sparse rows to Parquet files under deterministic names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from nnsparse_stream.dataset import write_shard
from nnsparse_stream.rating_statistics import RatingStatistics


class WriteShards(beam.PTransform):
    """Writes shards, each whole: what a retry writes has the same name and the same bytes.

    Args:
        url: the data set's directory; shards go to `rows/`.

    Returns:
        A PCollection of one dictionary a shard: `shard`, `file` (the manifest's entry), `merged` and `filtered`
        (ratings merged away, and left out) and `statistics` (the fields of RatingStatistics).
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def expand(
        self, shards: beam.PCollection[tuple[int, int, pa.RecordBatch, int, int]]
    ) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        return shards | "Write" >> beam.ParDo(_Write(self._url))


class _Write(beam.DoFn):
    def __init__(self, url: str) -> None:
        self._url = url
        self._rows_counter = Metrics.counter("ratings", "rows")
        self._entries_counter = Metrics.counter("ratings", "entries")
        self._bytes = Metrics.distribution("ratings", "shard_bytes")

    def process(self, element: tuple[int, int, pa.RecordBatch, int, int]) -> Iterator[dict[str, Any]]:
        shard, num_shards, rows, merged, filtered = element
        file = write_shard(self._url, shard, num_shards, rows)
        statistics = RatingStatistics.of(rows)
        self._rows_counter.inc(file.rows)
        self._entries_counter.inc(file.entries)
        self._bytes.update(file.bytes)
        yield {
            "shard": shard,
            "file": dataclasses.asdict(file),
            "merged": merged,
            "filtered": filtered,
            "statistics": [list(statistics.fold_entries), *statistics[1:]],
        }
