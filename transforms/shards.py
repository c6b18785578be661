"""WriteShards: shards of sparse rows to Parquet files under deterministic names."""

from __future__ import annotations

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.dataset import write_shard
from nnsparse_stream.rating_statistics import RatingStatistics


class WriteShards(beam.PTransform):
    """Writes shards, each whole: what a retry writes has the same name and the same bytes.

    Args:
        url: the data set's directory; shards go to `rows/`.

    Returns:
        A PCollection of one dictionary a shard: `shard`, `file` (the manifest's entry), `merged` (ratings merged away)
        and `statistics` (the fields of RatingStatistics).
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def expand(
        self, shards: beam.PCollection[tuple[int, int, pa.RecordBatch, int]]
    ) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        return shards | "Write" >> beam.Map(_write, self._url)


def _write(element: tuple[int, int, pa.RecordBatch, int], url: str) -> dict[str, Any]:
    shard, num_shards, rows, merged = element
    file = write_shard(url, shard, num_shards, rows)
    statistics = RatingStatistics.of(rows)
    return {
        "shard": shard,
        "file": dataclasses.asdict(file),
        "merged": merged,
        "statistics": [list(statistics.fold_entries), *statistics[1:]],
    }
