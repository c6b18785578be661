"""Coders of what is shuffled: blocks as Arrow IPC streams, the rest as JSON; Beam would pickle them."""

from __future__ import annotations

import json
from typing import Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream.data.shards import Shard
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.reading import Split
from nnsparse_stream.storage.block_store import from_ipc, to_ipc
from nnsparse_stream.streaming.shard_state import Flush


class RecordBatchCoder(beam.coders.Coder):
    """A RecordBatch as an Arrow IPC stream."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        """Writes schema and data; a slice costs its own size."""
        return to_ipc(value)

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        """The batch; its buffers lie in `encoded`."""
        return from_ipc(encoded)

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Bytes of the data, without writing it."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """A block is no key."""
        return False

    def to_type_hint(self) -> Any:
        """The type that is coded."""
        return pa.RecordBatch


class SplitCoder(beam.coders.Coder):
    """A Split as JSON."""

    def encode(self, value: Split) -> bytes:
        """Writes the fields in their order."""
        return json.dumps([list(value.file), *value[1:]]).encode()

    def decode(self, encoded: bytes) -> Split:
        """The split."""
        fields, *rest = json.loads(encoded)
        file = RatingFile(*fields)
        # JSON has made lists of the tuples.
        file = file._replace(
            names=tuple(file.names),
            positions=tuple(file.positions),
            row_groups=tuple(file.row_groups),
            dialect=Dialect(*file.dialect),
            json_ids=(file.json_ids[0], file.json_ids[1]),
        )
        return Split(file, *rest)

    def is_deterministic(self) -> bool:
        """Equal splits give equal bytes."""
        return True

    def to_type_hint(self) -> Any:
        """The type that is coded."""
        return Split


class ShardCoder(beam.coders.Coder):
    """A Shard as JSON."""

    def encode(self, value: Shard) -> bytes:
        """Writes the fields in their order."""
        return value.to_json()

    def decode(self, encoded: bytes) -> Shard:
        """The shard."""
        return Shard.from_json(encoded)

    def is_deterministic(self) -> bool:
        """Equal shards give equal bytes."""
        return True

    def to_type_hint(self) -> Any:
        """The type that is coded."""
        return Shard


class FlushCoder(beam.coders.Coder):
    """A Flush as its numbers in JSON and two Arrow blocks, each before the next one's length."""

    def __init__(self) -> None:
        self._parts = beam.coders.TupleCoder([beam.coders.BytesCoder(), RecordBatchCoder(), RecordBatchCoder()])

    def encode(self, value: Flush) -> bytes:
        """Writes the fields."""
        numbers = [value.window, value.shard, value.pane, value.revision, value.late]
        return bytes(self._parts.encode((json.dumps(numbers).encode(), value.rows, value.pairs)))

    def decode(self, encoded: bytes) -> Flush:
        """The flush."""
        numbers, rows, pairs = self._parts.decode(encoded)
        window, shard, pane, revision, late = json.loads(numbers)
        return Flush(window, shard, pane, revision, rows, pairs, late)

    def is_deterministic(self) -> bool:
        """A flush is no key."""
        return False

    def to_type_hint(self) -> Any:
        """The type that is coded."""
        return Flush


def register() -> None:
    """Makes Beam use these coders for these types; to be called before a pipeline is built."""
    beam.coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)
    beam.coders.registry.register_coder(Split, SplitCoder)
    beam.coders.registry.register_coder(Shard, ShardCoder)
    beam.coders.registry.register_coder(Flush, FlushCoder)
