"""Rows of ratings to blocks and back: types that fit and those that do not, missing values, bounds."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.typehints.row_type import RowTypeConstraint

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.running import IN_PROCESS_RUNNER
from nnsparse_stream.ratings.reading import BLOCK_BYTES
from nnsparse_stream.transforms.rating_rows import block_schema, field_types, table_blocks, to_blocks, to_rows

SCHEMA = pa.schema([("user", pa.int64()), ("item", pa.string()), ("rating", pa.float32()), ("fold", pa.uint8())])


@pytest.fixture
def rows() -> beam.PCollection:
    """Fields in another order, of fewer bits, and one too many."""
    fields = [("fold", np.int8), ("rating", float), ("item", str), ("user", np.int32), ("colour", str)]
    row_type = RowTypeConstraint.from_fields(fields)
    return beam.Pipeline(IN_PROCESS_RUNNER) | beam.Create([]).with_output_types(row_type)


def test_the_schema_has_the_fields_of_a_rating_alone(rows: beam.PCollection) -> None:
    assert block_schema(rows, timestamp=False, fold=True) == SCHEMA
    assert block_schema(rows, timestamp=False, fold=False).names == ["user", "item", "rating"]
    with pytest.raises(InputError, match="no field timestamp, only fold, rating, item, user, colour"):
        block_schema(rows, timestamp=True, fold=False)


def test_rows_of_blocks_become_blocks_of_the_same_schema(rows: beam.PCollection) -> None:
    back = rows | "To blocks" >> to_blocks(rows, SCHEMA) | "To rows" >> to_rows(SCHEMA)
    assert list(field_types(back)) == SCHEMA.names
    assert block_schema(back, timestamp=False, fold=True) == SCHEMA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": None}, "a row has no user: {'user': None, 'item': 'tea'"),
        ({"rating": float("nan")}, "the rating of a row is not finite: {'user': 1"),
        ({"rating": 1e39}, "the rating of a row is not finite"),
        ({"fold": 5}, "the fold of a row is not an integer from 0 to 4: .*'fold': 5"),
    ],
)
def test_a_row_that_is_no_rating_is_shown(change: dict[str, Any], message: str) -> None:
    row = {"user": 1, "item": "tea", "rating": 2.5, "fold": 2}
    assert [block.to_pylist() for block in table_blocks(pa.Table.from_pylist([row]), SCHEMA)] == [[row]]
    with pytest.raises(InputError, match=message):
        list(table_blocks(pa.Table.from_pylist([row, {**row, **change}]), SCHEMA))


def test_a_row_of_an_interaction_without_a_rating_counts_as_a_1() -> None:
    row_type = RowTypeConstraint.from_fields([("item", str), ("user", np.int32)])
    rows = beam.Pipeline(IN_PROCESS_RUNNER) | beam.Create([]).with_output_types(row_type)
    with pytest.raises(InputError, match="the rows have no field rating, only item, user"):
        block_schema(rows, timestamp=False, fold=False)
    schema = block_schema(rows, timestamp=False, fold=False, rating=False)
    assert schema == SCHEMA.remove(3)
    (block,) = table_blocks(pa.table({"item": ["tea", "rice"], "user": [1, 2]}), schema)
    assert block.to_pylist() == [{"user": 1, "item": "tea", "rating": 1}, {"user": 2, "item": "rice", "rating": 1}]


def test_blocks_are_bounded() -> None:
    count = 200_000
    rows = pa.table(
        {
            "user": np.arange(count, dtype=np.int32),
            "item": ["tea"] * count,
            "rating": np.ones(count),
            "fold": [0] * count,
        }
    )
    blocks = list(table_blocks(rows, SCHEMA))
    assert max(block.nbytes for block in blocks) <= BLOCK_BYTES < sum(block.nbytes for block in blocks)
    assert pa.Table.from_batches(blocks)["user"].to_pylist() == list(range(count))
