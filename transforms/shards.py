"""WriteShards: shards of sparse rows to Parquet files under deterministic names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.data.dataset import write_shard
from nnsparse_stream.data.statistics import RatingStatistics
from nnsparse_stream.transforms import in_process


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

    def start_bundle(self) -> None:
        self._ahead = in_process.ahead()

    def process(self, element: tuple[int, int, pa.RecordBatch, int, int]) -> Iterator[dict[str, Any]]:
        return self._counted(self._ahead.start(self._write(*element)))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for written in self._counted(self._ahead.finish()):
            yield WindowedValue(written, window.max_timestamp(), [window])

    def _write(
        self, shard: int, num_shards: int, rows: pa.RecordBatch, merged: int, filtered: int
    ) -> Iterator[dict[str, Any]]:
        statistics = RatingStatistics.of(rows)
        yield {
            "shard": shard,
            "file": dataclasses.asdict(write_shard(self._url, shard, num_shards, rows)),
            "merged": merged,
            "filtered": filtered,
            "statistics": [list(statistics.fold_entries), *statistics[1:]],
        }

    def _counted(self, written: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for shard in written:
            self._rows_counter.inc(shard["file"]["rows"])
            self._entries_counter.inc(shard["file"]["entries"])
            self._bytes.update(shard["file"]["bytes"])
            yield shard
