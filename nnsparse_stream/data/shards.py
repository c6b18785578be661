"""A shard by itself: what a worker needs to read it, without the manifest of its data set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from nnsparse_stream.data.dataset import read_features, shard_batches
from nnsparse_stream.data.features import RowFeatures
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

    def features(self) -> RowFeatures | None:
        """The features of its rows, where the data set has any.

        Raises:
            InputError: their file is missing, truncated or altered.
        """
        return None if self.file.features is None else read_features(self.data, self.file.features)

    def to_json(self) -> bytes:
        """The shard as JSON: equal shards give equal bytes."""
        return json.dumps([self.data, self.number, dataclasses.astuple(self.file)]).encode()

    @classmethod
    def from_json(cls, encoded: bytes) -> Shard:
        """The shard that `to_json` wrote."""
        data, number, (path, rows, entries, size, checksum, groups, features) = json.loads(encoded)
        # JSON has made lists of the tuples.
        row_groups = tuple((group[0], group[1]) for group in groups)
        part = None if features is None else ColumnsFile(*features)
        return cls(data, number, ShardFile(path, rows, entries, size, checksum, row_groups, part))


def list_shards(url: str) -> list[Shard]:
    """The shards of the data set at a URL, in order; reads its manifest.

    Raises:
        InputError: what `Manifest.read` raises.
    """
    return [Shard(url, number, file) for number, file in enumerate(Manifest.read(url).shards)]
