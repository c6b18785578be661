"""A shard by itself: what a worker needs to read it, without the manifest of its data set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from nnsparse_stream.data.dataset import shard_batches
from nnsparse_stream.data.manifest import ColumnsFile, Manifest, ShardFile


class Shard(NamedTuple):
    """One shard of a data set on storage.

    Attributes:
        data: URL of the data set's directory.
        number: the shard's position among those of the data set.
        file: the manifest's entry for it.
    """

    data: str
    number: int
    file: ShardFile

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its row groups, in order, one at a time, as `Dataset.shard_batches` gives them.

        Raises:
            InputError: the shard is missing, truncated or altered.
        """
        return shard_batches(self.data, self.file)

    def to_json(self) -> bytes:
        """The shard as JSON: equal shards give equal bytes."""
        return json.dumps([self.data, self.number, dataclasses.astuple(self.file)]).encode()

    @classmethod
    def from_json(cls, encoded: bytes) -> Shard:
        """The shard that `to_json` wrote."""
        data, number, (*numbers, groups, features) = json.loads(encoded)
        # JSON has made lists of the tuples.
        row_groups = tuple((group[0], group[1]) for group in groups)
        return cls(data, number, ShardFile(*numbers, row_groups, features and ColumnsFile(*features)))


def list_shards(url: str) -> list[Shard]:
    """The shards of the data set at a URL, in order; reads its manifest.

    Raises:
        InputError: what `Manifest.read` raises.
    """
    return [Shard(url, number, file) for number, file in enumerate(Manifest.read(url).shards)]
