"""Features of rows: categories, tags and bins of numbers, each as an index; rows find theirs by id."""

from __future__ import annotations

import pyarrow as pa
import pytest

from nnsparse_stream.data.features import BINS, LEAST_ROWS, FeatureField, FeatureVocabulary, RowFeatures
from nnsparse_stream.errors import InputError

COUNT = 40
RECORDS = pa.table(
    {
        "row": list(range(COUNT))[::-1],
        "kind": ["a", "b", "b", " ", None] * (COUNT // 5),
        "tags": ["x|y", "x|x", "x", "z|", "rare"] * 4 + ["y"] * (COUNT - 20),
        "year": [str(1950 + row) for row in range(COUNT - 1)] + [None],
        "title": [f"no {row}" for row in range(COUNT)],
    }
)


def named(vocabulary: FeatureVocabulary, features: list[int]) -> list[tuple[str, str]]:
    fields, values = (vocabulary.table[name].to_pylist() for name in ("field", "value"))
    return [(fields[feature], values[feature]) for feature in features]


def test_columns_become_fields_by_what_they_hold() -> None:
    vocabulary = FeatureVocabulary.of(RECORDS)
    assert vocabulary.fields == (
        FeatureField("kind", "category"),
        FeatureField("tags", "tags"),
        FeatureField("year", "number"),
        FeatureField("title", "category"),
    )
    rows = [tuple(row.values()) for row in vocabulary.table.to_pylist()]
    assert rows[:4] == [("kind", "b", 16), ("kind", "a", 8), ("tags", "y", 24), ("tags", "x", 12)]
    assert {value for field, value, _ in rows if field == "tags"} == {"x", "y"}  # the others are too rare
    assert LEAST_ROWS > 4
    years = [count for field, _, count in rows if field == "year"]
    assert len(years) == BINS
    assert sum(years) == COUNT - 1
    assert max(years) <= 2 * min(years)
    assert not any(field == "title" for field, *_ in rows)


def test_records_are_encoded_by_the_vocabulary_whatever_their_order() -> None:
    vocabulary = FeatureVocabulary.of(RECORDS)
    found = vocabulary.encode(RECORDS, "f")
    assert found["row"].to_pylist() == list(range(COUNT))
    lists = found["features"].to_pylist()
    assert all(features == sorted(set(features)) for features in lists)
    assert named(vocabulary, lists[COUNT - 1]) == [("kind", "a"), ("tags", "y"), ("tags", "x"), ("year", "1950.0")]
    assert named(vocabulary, lists[0]) == [("tags", "y")]  # neither kind nor year, and a title that no other row has
    other = pa.table({"title": ["t"], "year": [2050.5], "tags": [["x", "new"]], "kind": ["c"], "row": ["r"]})
    assert named(vocabulary, vocabulary.encode(other, "f")["features"][0].as_py()) == [
        ("tags", "x"),
        ("year", vocabulary.table["value"][-1].as_py()),
    ]
    odd = other.set_column(1, "year", pa.array(["unknown"]))
    assert named(vocabulary, vocabulary.encode(odd, "f")["features"][0].as_py()) == [("tags", "x")]


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="f has no column 'kind'"):
        FeatureVocabulary.of(RECORDS).encode(RECORDS.drop_columns(["kind"]), "f")


def test_few_different_numbers_are_codes() -> None:
    records = pa.table({"row": list(range(COUNT)), "age": [18, 25] * (COUNT // 2)})
    vocabulary = FeatureVocabulary.of(records)
    assert vocabulary.fields == (FeatureField("age", "category"),)
    assert vocabulary.table["value"].to_pylist() == ["18", "25"]


def test_rows_without_a_record_have_no_features() -> None:
    lists = pa.table(
        {"row": ["a", "b"], "features": pa.array([[0, 2], [1]], pa.list_(pa.int32()))},
    )
    rows = pa.record_batch({"row": ["b", "c", "a"]})
    beside = RowFeatures(lists).beside(rows)
    assert beside["features"].to_pylist() == [[1], [], [0, 2]]
    assert RowFeatures(lists).beside(beside) is beside
    assert RowFeatures(lists.slice(0, 0)).beside(rows)["features"].to_pylist() == [[], [], []]
