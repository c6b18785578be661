"""Features of rows: what is known of a user or an item beside its ratings, as indices of a vocabulary.

Each column of a file of features becomes a field: a category (one value), tags (any number of values, separated by
`|`), or a number, which is cut into bins of about as many rows each. A feature is a value of a field, or a bin.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage

#: Path of the vocabulary in a data set, and in a run.
VOCABULARY = "features/vocabulary.parquet"
#: A value that fewer rows have is no feature.
LEAST_ROWS = 5
#: A column of more different numbers is a field of numbers; others are codes, as those of occupations.
MOST_CODES = 32
#: Bins of a field of numbers, at most.
BINS = 16

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclasses.dataclass(frozen=True)
class FeatureField:
    """A column of a file of features: its name, and its kind, "category", "tags" or "number"."""

    name: str
    kind: str


class FeatureVocabulary(NamedTuple):
    """Which feature has which index: the features of a field follow each other.

    Attributes:
        fields: in the order of the file's columns.
        table: columns field and value (string) and count (int64: rows that have it), by index. The values of a field
            ascend by count, the most frequent first; those of a number are the bins' lower bounds, ascending.
    """

    fields: tuple[FeatureField, ...]
    table: pa.Table

    def __len__(self) -> int:
        """The number of features."""
        return len(self.table)

    @classmethod
    def of(cls, records: pa.Table) -> FeatureVocabulary:
        """The vocabulary of records, from `nnsparse_stream.ratings.side_table.read_side_table`."""
        fields = tuple(FeatureField(name, _kind(records[name])) for name in records.column_names[1:])
        return cls(fields, pa.concat_tables([_schema().empty_table(), *(_values(records, field) for field in fields)]))

    def encode(self, records: pa.Table, where: str) -> pa.Table:
        """The features of records.

        Args:
            records: from `read_side_table`; may have further columns.
            where: the file, for the error's message.

        Returns:
            Columns row, ascending, and features (list<int32>, ascending).

        Raises:
            InputError: a field is missing.
        """
        rows, indices = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for field in self.fields:
            if field.name not in records.column_names:
                raise InputError(f"{where} has no column {field.name!r}, which is a field of the features; add it")
            known = pc.equal(self.table["field"], field.name)
            first = pc.index(known, True).as_py()
            row, index = _encoded(records[field.name], field.kind, self.table["value"].filter(known).combine_chunks())
            rows.append(row)
            indices.append(index + first)
        keys = np.unique(np.concatenate(rows) * max(len(self), 1) + np.concatenate(indices))
        offsets = np.searchsorted(keys, np.arange(len(records) + 1) * max(len(self), 1))
        lists = pa.ListArray.from_arrays(
            pa.array(offsets, type=pa.int32()), pa.array(keys % max(len(self), 1), type=pa.int32())
        )
        return pa.table([records["row"], lists], schema=_lists_schema(records["row"].type)).sort_by("row")

    def to_parquet(self) -> bytes:
        """The vocabulary as a Parquet file, without the kinds of the fields: equal ones give equal bytes."""
        return features_parquet(self.table)

    @classmethod
    def read(cls, url: str, features: FeaturesFile) -> FeatureVocabulary:
        """Reads the vocabulary of a data set, or of a run.

        Raises:
            InputError: its file is missing, truncated or altered.
        """
        path = storage.join(url, features.path)
        data = storage.read_checked(path, features.bytes, features.sha256)
        try:
            return cls(features.fields, pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is damaged ({storage.one_line(error)}); prepare again") from error


@dataclasses.dataclass(frozen=True)
class FeaturesFile:
    """The vocabulary of a data set's features: path in the data set, features, bytes, SHA-256; and the fields."""

    path: str
    rows: int
    bytes: int
    sha256: str
    fields: tuple[FeatureField, ...]


class RowFeatures:
    """The features of the rows of a shard.

    Args:
        lists: from `FeatureVocabulary.encode`.
    """

    def __init__(self, lists: pa.Table) -> None:
        self._rows = lists["row"].combine_chunks()
        # The last one is that of rows without a record.
        none = pa.array([[]], type=lists.schema.field("features").type)
        self._lists = pa.concat_arrays([*lists["features"].chunks, none])

    def beside(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows as a shard holds them with their features, column features (list<int32>); empty where none are known."""
        if "features" in rows.schema.names:
            return rows
        place = pc.fill_null(pc.index_in(rows["row"], value_set=self._rows), len(self._rows))
        return rows.append_column("features", self._lists.take(place))

    @classmethod
    def from_parquet(cls, data: bytes, url: str) -> RowFeatures:
        """The features that `features_parquet` wrote.

        Raises:
            InputError: the file is damaged.
        """
        try:
            return cls(pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{url} is damaged ({storage.one_line(error)}); prepare again") from error


def features_parquet(table: pa.Table) -> bytes:
    """A table of this module as a Parquet file: equal ones give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")
    return bytes(sink.getvalue())


def _schema() -> pa.Schema:
    return pa.schema([("field", pa.string()), ("value", pa.string()), ("count", pa.int64())])


def _lists_schema(row_type: pa.DataType) -> pa.Schema:
    return pa.schema([("row", row_type), ("features", pa.list_(pa.int32()))])


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """A column's values as strings; null where a record has none."""
    texts = column.cast(pa.string()).combine_chunks()
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _is_list(column: pa.ChunkedArray) -> bool:
    return pa.types.is_list(column.type) or pa.types.is_large_list(column.type)


def _kind(column: pa.ChunkedArray) -> str:
    if _is_list(column):
        return "tags"
    texts = _texts(column)
    if pc.any(pc.match_substring(texts, "|")).as_py():
        return "tags"
    different = texts.unique().drop_null()
    numbers = pc.all(pc.match_substring_regex(different, _NUMBER)).as_py()
    return "number" if numbers and len(different) > MOST_CODES else "category"


def _split(column: pa.ChunkedArray, kind: str) -> tuple[np.ndarray, pa.Array]:
    """The values of a column: int64 (n,), of which record each is, and the strings (n,)."""
    if not _is_list(column):
        texts = _texts(column)
        if kind != "tags":
            rows = np.flatnonzero(pc.is_valid(texts).to_numpy(zero_copy_only=False))
            return rows, texts.drop_null()
        column = pc.split_pattern(texts, "|")
    else:
        column = column.combine_chunks()
    rows = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    texts = _texts(pa.chunked_array([pc.list_flatten(column)]))
    valid = pc.is_valid(texts).to_numpy(zero_copy_only=False)
    return rows[valid], texts.drop_null()


def _values(records: pa.Table, field: FeatureField) -> pa.Table:
    """The features of one field, as a vocabulary has them."""
    rows, texts = _split(records[field.name], field.kind)
    if field.kind == "number":
        numbers = texts.cast(pa.float64()).to_numpy()
        bounds = np.unique(np.quantile(numbers, np.arange(BINS) / BINS, method="lower"))
        counts = np.bincount(_bins(bounds, numbers), minlength=len(bounds))
        values, counted = pa.array([repr(float(bound)) for bound in bounds], pa.string()), pa.array(counts)
    else:
        # A tag that a record names twice counts once.
        once = pa.table({"row": rows, "value": texts}).group_by(["row", "value"]).aggregate([])
        found = once.group_by("value").aggregate([([], "count_all")])
        found = found.filter(pc.greater_equal(found["count_all"], LEAST_ROWS))
        found = found.sort_by([("count_all", "descending"), ("value", "ascending")])
        values, counted = found["value"], found["count_all"]
    names = pa.array([field.name] * len(values), pa.string())
    return pa.table([names, values, counted], names=_schema().names).cast(_schema())


def _bins(bounds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.maximum(np.searchsorted(bounds, numbers, side="right") - 1, 0)


def _encoded(column: pa.ChunkedArray, kind: str, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Of which record a feature of a field is, and which of the field's features it is: int64 (n,) each."""
    rows, texts = _split(column, kind)
    if kind != "number":
        places = pc.fill_null(pc.index_in(texts, value_set=values), -1).to_numpy().astype(np.int64)
        return rows[places >= 0], places[places >= 0]
    numeric = pc.match_substring_regex(texts, _NUMBER)
    numbers = texts.filter(numeric).cast(pa.float64()).to_numpy()
    return rows[numeric.to_numpy(zero_copy_only=False)], _bins(values.cast(pa.float64()).to_numpy(), numbers)


def describe_fields(vocabulary: FeatureVocabulary) -> str:
    """The fields in words, for people: kind and number of features of each."""
    counts = [pc.sum(pc.equal(vocabulary.table["field"], field.name)).as_py() or 0 for field in vocabulary.fields]
    return ", ".join(
        f"{field.name} ({field.kind}, {count})" for field, count in zip(vocabulary.fields, counts, strict=True)
    )
