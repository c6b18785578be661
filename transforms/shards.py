"""WriteShards: shards of sparse rows to Parquet files under deterministic names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from nnsparse_stream.data.shard_steps import write_grouped
from nnsparse_stream.transforms.windows import refuse_windows


class WriteShards(beam.PTransform):
    """Writes shards, each whole: what a retry writes has the same name and the same bytes.

    Args:
        url: the data set's directory; shards go to `rows/`.

    Returns:
        A PCollection of one dictionary a shard, see `nnsparse_stream.data.shard_steps.write_grouped`.

    Raises:
        InputError: when it is applied: the shards are cut into windows.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def expand(
        self, shards: beam.PCollection[tuple[int, int, pa.RecordBatch, int, int]]
    ) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        refuse_windows(self, shards)
        return shards | "Write" >> beam.ParDo(_Write(self._url))


class _Write(beam.DoFn):
    def __init__(self, url: str) -> None:
        self._url = url
        self._rows_counter = Metrics.counter("ratings", "rows")
        self._entries_counter = Metrics.counter("ratings", "entries")
        self._bytes = Metrics.distribution("ratings", "shard_bytes")

    def process(self, grouped: tuple[int, int, pa.RecordBatch, int, int]) -> Iterator[dict[str, Any]]:
        written = write_grouped(self._url, grouped)
        self._rows_counter.inc(written["file"]["rows"])
        self._entries_counter.inc(written["file"]["entries"])
        self._bytes.update(written["file"]["bytes"])
        yield written
