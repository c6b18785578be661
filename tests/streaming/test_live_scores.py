"""Scores of what is known now, held against those of a batch and against one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from example_models import COLUMNS, EXAMPLES
from hypothesis import given
from hypothesis import strategies as st
from samples import Trained

from nnsparse_stream.checkpoints.checkpoint import Checkpoint, load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.scoring.tables import top_k_tables
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.streaming import live_scores
from nnsparse_stream.streaming.events import event_schema, known_schema
from nnsparse_stream.streaming.live_model import Current, fingerprint_of
from nnsparse_stream.streaming.live_scores import live_schema, score_flushes, score_rows, scored_schema
from nnsparse_stream.streaming.shard_state import Flush

#: Their order is not that of their indices.
IDS = ["m", "b", "x", "a", "k", "z", "c", "q", "e"]
EVENTS = event_schema("int64", "string")


def current(kind: str = "autoencoder", ids: list[str] = IDS) -> Current:
    """A small model whose columns have these ids."""
    model = EXAMPLES[kind]()
    model.column_counts.fill_(1)
    checkpoint = Checkpoint("", {"row_id_type": "int64", "column_id_type": "string"}, model)
    checkpoint.vocabulary = Vocabulary(pa.array(ids), np.ones(len(ids), dtype=np.int64))
    return Current(checkpoint, 7, "abcdef")


def block(rows: dict[Any, dict[str, float]]) -> pa.RecordBatch:
    records = [
        {"row": row, "columns": sorted(known), "values": [known[column] for column in sorted(known)]}
        for row, known in sorted(rows.items())
    ]
    return pa.RecordBatch.from_pylist(records, schema=known_schema("int64", "string"))


def flush(rows: pa.RecordBatch, pairs: pa.RecordBatch | None = None, revision: int = 3) -> Flush:
    return Flush(0, 1, 0, revision, rows, events() if pairs is None else pairs, 0)


def events(*pairs: tuple[int, str, float]) -> pa.RecordBatch:
    named = [{"row": row, "column": column, "value": value, "time": 5} for row, column, value in pairs]
    return pa.RecordBatch.from_pylist(named, schema=EVENTS)


def known_rows(trained: Trained, shard: int) -> pa.RecordBatch:
    """A shard's rows with all their ratings, by ids."""
    dataset = Dataset(trained.data)
    ids = dataset.vocabulary().ids.to_pylist()
    records = []
    for batch in dataset.shard_batches(shard):
        for row in batch.to_pylist():
            known = sorted((ids[column], value) for column, value in zip(row["columns"], row["values"], strict=True))
            records.append({"row": row["row"], "columns": [c for c, _ in known], "values": [v for _, v in known]})
    return pa.RecordBatch.from_pylist(records, schema=known_schema("string", "string"))


@pytest.mark.parametrize("rules", [ListRules(), ListRules(exclude_known=False, min_column_ratings=100)])
def test_lists_are_those_of_a_batch_of_the_same_rows(trained: Trained, rules: ListRules) -> None:
    checkpoint = load_model(trained.run)
    expected = pa.concat_tables(top_k_tables(checkpoint, Dataset(trained.data).shard_batches(1), 5, (0, 1, 2), rules))
    current = Current(checkpoint, 3, fingerprint_of(checkpoint))
    (scored,) = score_flushes([flush(known_rows(trained, 1), revision=8)], current, 5, rules)
    assert scored.table.schema == live_schema("string", "string", ranked=True)
    assert scored.table.select(["row_id", "column_id", "score", "rank"]).equals(expected)
    assert set(scored.table["revision"].to_pylist()) == {8}
    assert set(scored.table["model_step"].to_pylist()) == {3}
    assert set(scored.table["model"].to_pylist()) == {fingerprint_of(checkpoint)}


KNOWN = st.dictionaries(st.sampled_from([*IDS, "new", "~"]), st.floats(-5, 5, width=32), max_size=6)
BLOCKS = st.lists(st.dictionaries(st.integers(-3, 3), KNOWN, max_size=3).map(block), max_size=4)


@given(BLOCKS, st.sampled_from(sorted(EXAMPLES)))
def test_blocks_that_are_scored_together_are_scored_as_each_alone(blocks: list[pa.RecordBatch], kind: str) -> None:
    """A row may be in several, as it is known at different times."""
    model = current(kind)
    together = score_rows(blocks, model, 4)
    assert len(together) == len(blocks)
    for rows, scored in zip(blocks, together, strict=True):
        (alone,) = score_rows([rows], model, 4)
        listed = [scored.table.column(name).equals(alone.table.column(name)) for name in ("row_id", "rank")]
        assert all(listed)
        np.testing.assert_allclose(scored.table["score"], alone.table["score"], rtol=1e-5, atol=1e-6)
        unknown = [column for row in rows.to_pylist() for column in row["columns"] if column not in IDS]
        assert scored.unknown == alone.unknown == len(unknown)


def test_unknown_columns_are_no_input_and_are_counted_until_a_model_knows_them() -> None:
    with_new, without = block({1: {"a": 2.0, "new": 5.0}, 2: {"~": 1.0}}), block({1: {"a": 2.0}, 2: {}})
    old = current(ids=IDS)
    scored, expected = score_rows([with_new], old, COLUMNS)[0], score_rows([without], old, COLUMNS)[0]
    assert scored.table.equals(expected.table)
    assert (scored.unknown, expected.unknown) == (2, 0)
    newer = current(ids=["new", *IDS[1:]])
    (scored,), (expected,) = score_rows([with_new], newer, COLUMNS), score_rows([without], newer, COLUMNS)
    assert (scored.unknown, expected.unknown) == (1, 0)
    listed = dict(zip(scored.table["row_id"].to_pylist(), scored.table["score"].to_pylist(), strict=False))
    assert listed != dict(zip(expected.table["row_id"].to_pylist(), expected.table["score"].to_pylist(), strict=False))
    columns = {row: set() for row in (1, 2)}
    for row, column in zip(scored.table["row_id"].to_pylist(), scored.table["column_id"].to_pylist(), strict=True):
        columns[row].add(column)
    assert columns == {1: {*IDS[1:]} - {"a"}, 2: {"new", *IDS[1:]}}


@given(BLOCKS.filter(len), st.data(), st.sampled_from(sorted(EXAMPLES)))
def test_a_pair_is_predicted_from_the_row_s_other_ratings(
    blocks: list[pa.RecordBatch], data: st.DataObject, kind: str
) -> None:
    """Also at a pair that is not known any more, of a row that is not there, and of a column that no model knows."""
    pair = st.tuples(st.integers(-4, 4), st.sampled_from([*IDS, "new"]), st.floats(-5, 5, width=32))
    chosen = [sorted(data.draw(st.lists(pair, max_size=5, unique_by=lambda of: of[:2]))) for _ in blocks]
    model, places = current(kind), {id: place for place, id in enumerate(IDS)}
    flushes = [flush(rows, events(*pairs), 4) for rows, pairs in zip(blocks, chosen, strict=True)]
    for rows, pairs, scored in zip(blocks, chosen, score_flushes(flushes, model, None), strict=True):
        assert scored.table.schema == live_schema("int64", "string", ranked=False)
        found = scored.table.to_pylist()
        assert [(one["row_id"], one["column_id"], one["rating"]) for one in found] == pairs
        known = {row["row"]: dict(zip(row["columns"], row["values"], strict=True)) for row in rows.to_pylist()}
        for one in found:
            others = {
                places[c]: v for c, v in known.get(one["row_id"], {}).items() if c in places and c != one["column_id"]
            }
            columns = sorted(others)
            row = SparseRows(
                torch.tensor([0, len(columns)]),
                torch.tensor(columns, dtype=torch.int32),
                torch.tensor([others[column] for column in columns]),
                COLUMNS,
            )
            place = places.get(one["column_id"])
            with torch.no_grad():
                expected = model.checkpoint.model.at_unknown(row) if place is None else predicted(model, row, place)
            assert one["score"] == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def predicted(model: Current, row: SparseRows, place: int) -> torch.Tensor:
    at = SparseRows(torch.tensor([0, 1]), torch.tensor([place], dtype=torch.int32), torch.zeros(1), COLUMNS)
    return model.checkpoint.model.predict_at(row, at)


def test_pairs_are_predicted_in_blocks_of_bounded_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = block({row: {column: float(row) for column in IDS[row:]} for row in range(4)})
    pairs = events(*[(row, column, 1.0) for row in range(5) for column in sorted(IDS)])
    (whole,) = score_flushes([flush(rows, pairs)], current(), None)
    monkeypatch.setattr(live_scores, "_PAIR_ENTRIES", 10)
    (cut,) = score_flushes([flush(rows, pairs)], current(), None)
    assert cut.table.drop_columns("score").equals(whole.table.drop_columns("score"))
    np.testing.assert_allclose(cut.table["score"], whole.table["score"], rtol=1e-5)


def test_of_nothing_there_are_tables_of_the_schema() -> None:
    assert score_rows([], current(), 3) == score_flushes([], current(), None) == []
    empty = block({})
    (scored,) = score_rows([empty], current(), 3)
    assert scored.table.schema == scored_schema("int64", "string", ranked=True)
    (scored,) = score_flushes([flush(empty)], current(), None)
    assert scored.table.schema == live_schema("int64", "string", ranked=False)
    (scored,) = score_flushes([flush(block({1: dict.fromkeys(IDS, 1.0)}))], current(), 3)  # all is known
    assert len(scored.table) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"row": [1], "columns": [["a"]]}, "a block of rows has no column `values`, only row, columns"),
        ({"row": ["1"], "columns": [["a"]], "values": [[1.0]]}, "`row` of a block of rows is string, .* have int64"),
        ({"row": [1], "columns": [[1]], "values": [[1.0]]}, "`columns` of a block of rows is list<item: int64>"),
        ({"row": [1], "columns": [["a"]], "values": [None]}, "`values` of a block of rows has nulls"),
        ({"row": [1], "columns": [["a", None]], "values": [[1.0, 1.0]]}, "`columns` of a block of rows has nulls"),
        ({"row": [1], "columns": [["a", "b"]], "values": [[1.0]]}, "of a row are of different lengths"),
        ({"row": [1], "columns": [["a"]], "values": [[np.inf]]}, "`values` of a block of rows are not all finite"),
        ({"row": [1], "columns": [["a", "a"]], "values": [[1.0, 2.0]]}, "the row 1 has the column 'a' twice"),
    ],
)
def test_what_is_wrong_with_a_block_is_said(rows: dict[str, list[Any]], message: str) -> None:
    given = {
        name: pa.array(values, pa.list_(pa.float32()) if name == "values" else None) for name, values in rows.items()
    }
    with pytest.raises(InputError, match=message):
        score_rows([pa.record_batch(given)], current(), 3)
