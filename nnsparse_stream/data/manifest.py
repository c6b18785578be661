"""The manifest of a data set: what it holds, its files and their checksums."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from nnsparse_stream.data.features import FeaturesFile
from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.folds import FOLD_NAMES, FOLDS
from nnsparse_stream.ratings.selection import Feedback
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.json_types import typed

KIND = "nnsparse-stream dataset"
SCHEMA_VERSION = 1
AXES = ("user", "item")
_PATH = re.compile(r"(columns/part|features/part|rows/shard)-\d{5,}-of-\d{5,}\.parquet")


@dataclasses.dataclass(frozen=True)
class ColumnsFile:
    """One part of the vocabulary: path in the data set, rows, bytes, SHA-256."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """One shard: path in the data set, rows, entries, bytes, SHA-256, and (rows, entries) of each row group.

    `features` is the file with its rows' features, where the data set has any.
    """

    path: str
    rows: int
    entries: int
    bytes: int
    sha256: str
    row_groups: tuple[tuple[int, int], ...]
    features: ColumnsFile | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data set holds; `manifest.json`, written last. docs/data-layout.md describes each field.

    Attributes:
        axis: "user" (a row is a user, columns are items) or "item".
        row_id_type, column_id_type: "int64" or "string".
        num_columns, num_rows, num_entries: sizes over all shards and folds.
        fold_entries: entries of "train", "validation", "test"; where rows are held out altogether, also of
            "validation_shown" and "test_shown", those that are shown when the rows' others are judged.
        folds: the "method", "hash", "time", "last", "rows" or "files", with its parameters.
        ratings: "min" and "max" over all folds; "mean" and "std" (population) over the train fold, None where it is
            empty.
        records: "read", "bad", "filtered" (left out) and "duplicates" (merged away); read = num_entries + the others.
        duplicates: the policy, "error", "first", "last", "mean", "sum", "max" or "count".
        columns: the vocabulary's files.
        earlier_vocabularies: the vocabularies that this one goes on from, the oldest first, each "fingerprint" (see
            `vocabulary_fingerprint`) and "num_columns": the first so many ids are the same.
        shards: the shards; a row lies in shard `hash of its id % len(shards)`.
        input: how the rating files were read, each way once: "files", how many; "format"; of text its dialect;
            "columns"; and "example", the first record.
        filters: the filters that were asked for: "time_from", "time_to", "positive_from", "min_row_ratings",
            "min_column_ratings".
        feedback: what the values are: "explicit", ratings; or "implicit", of interactions how many or how much, or 1
            with `positive_from`.
        features: the vocabulary of the rows' features; None where nothing but ratings is known of them.
    """

    axis: str
    row_id_type: str
    column_id_type: str
    num_columns: int
    num_rows: int
    num_entries: int
    fold_entries: dict[str, int]
    folds: dict[str, Any]
    ratings: dict[str, float | None]
    records: dict[str, int]
    duplicates: str
    columns: tuple[ColumnsFile, ...]
    shards: tuple[ShardFile, ...]
    filters: dict[str, int | float] = dataclasses.field(default_factory=dict)
    earlier_vocabularies: tuple[dict[str, Any], ...] = ()
    input: tuple[dict[str, Any], ...] = ()
    feedback: Feedback = "explicit"
    features: FeaturesFile | None = None

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`: equal manifests give equal bytes."""
        return storage.to_json({"kind": KIND, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)})

    def fingerprint(self) -> str:
        """Identifies the data set: SHA-256 of its manifest, which holds the checksums of its files."""
        return storage.sha256(self.to_json())

    @classmethod
    def read(cls, url: str) -> Manifest:
        """Reads the manifest of the data set at a URL.

        Raises:
            InputError: there is no data set, it is of another kind or schema version, or the manifest is damaged.
        """
        path = storage.join(url, "manifest.json")
        if not storage.exists(path):
            raise InputError(
                f"{url} is not a data set: it has no manifest.json; make one with `nnsparse-stream prepare`"
            )
        value = storage.read_json(path, "a manifest")
        kind, version = value.pop("kind", None), value.pop("schema_version", None)
        if kind != KIND:
            raise InputError(f"{path} is not the manifest of a data set: its kind is {kind!r}, not {KIND!r}")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {version!r}; this release reads version {SCHEMA_VERSION}: "
                "prepare the data set again"
            )
        try:
            manifest = typed(cls, value)
            damage = manifest._damage()
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is damaged ({storage.one_line(error)}); prepare the data set again") from error
        if damage:
            raise InputError(f"{path} is damaged ({damage}); prepare the data set again")
        return manifest

    def _damage(self) -> str | None:
        """What is wrong with the fields that are computed with, though they are of the right types; or None."""
        if self.axis not in AXES or {self.row_id_type, self.column_id_type} - {"int64", "string"}:
            return f"axis is {self.axis!r}, the types of ids are {self.row_id_type!r} and {self.column_id_type!r}"
        for field, wanted in (("fold_entries", FOLDS), ("ratings", ("min", "max", "mean", "std"))):
            lacks = set(wanted) - getattr(self, field).keys()
            if lacks:
                return f"{field} lack {min(lacks)}"
        if self.fold_entries.keys() - set(FOLD_NAMES):
            return f"fold_entries are of {', '.join(self.fold_entries)}"
        parts = [shard.features for shard in self.shards if shard.features]
        files: tuple[ColumnsFile | ShardFile, ...] = (*self.columns, *self.shards, *parts)
        if len(parts) != len(self.shards) * (self.features is not None):
            return "features are not there for all shards, or for none"
        for file in files:
            if not _PATH.fullmatch(file.path) or min(file.rows, file.bytes) < 0:
                return f"{file.path} of {file.rows} rows and {file.bytes} bytes"
        if len({file.path for file in files}) < len(files):
            return "a file is named twice"
        for shard in self.shards:
            sums = (sum(rows for rows, _ in shard.row_groups), sum(entries for _, entries in shard.row_groups))
            if sums != (shard.rows, shard.entries):
                return f"row_groups of {shard.path}"
        for what, sizes, total in (
            ("columns", [file.rows for file in self.columns], self.num_columns),
            ("rows", [shard.rows for shard in self.shards], self.num_rows),
            ("entries", [shard.entries for shard in self.shards], self.num_entries),
            ("fold_entries", [*self.fold_entries.values()], self.num_entries),
        ):
            if min(sizes, default=0) < 0 or sum(sizes) != total:
                return f"the {what} do not sum to {total}"
        return None


def vocabulary_fingerprint(manifest: Manifest) -> str:
    """Identifies a data set's vocabulary: a checksum of the checksums of its files."""
    return storage.sha256("".join(part.sha256 for part in manifest.columns).encode())
