"""A model on rows that have columns more than it: what it says of its own columns does not change."""

from __future__ import annotations

import pytest
import torch
from example_models import COLUMNS, VARIANTS

from nnsparse_stream.evaluation.earlier_columns import EarlierColumns
from nnsparse_stream.sparse.rows import SparseRows

MORE = COLUMNS + 3
#: The last row knows new columns alone.
KNOWN = [{0: 4.0, 3: 2.0}, {2: 5.0, COLUMNS: 1.0, COLUMNS + 1: 5.0}, {COLUMNS + 2: 3.0}]
AT = [{1: 0.0, COLUMNS: 0.0}, {0: 0.0, 4: 0.0, COLUMNS + 2: 0.0}, {5: 0.0, COLUMNS + 1: 0.0}]


def rows(entries: list[dict[int, float]], num_columns: int) -> SparseRows:
    kept = [{column: value for column, value in row.items() if column < num_columns} for row in entries]
    offsets = torch.tensor([0, *(len(row) for row in kept)]).cumsum(0)
    columns = torch.tensor([column for row in kept for column in row], dtype=torch.int64)
    values = torch.tensor([value for row in kept for value in row.values()])
    features = SparseRows(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 2]), torch.ones(2), COLUMNS)
    return SparseRows(offsets, columns, values, num_columns, features)


@pytest.mark.parametrize("kind", VARIANTS)
def test_new_columns_are_left_out_of_what_is_shown_and_scored_as_unknown(kind: str) -> None:
    model = VARIANTS[kind](1)
    model.column_counts.fill_(2)
    model.column_counts[-1] = 0  # of the linear one, which has weights of eight
    judged, shown = EarlierColumns(model, MORE), rows(KNOWN, COLUMNS)
    assert judged.column_counts.tolist() == [*model.column_counts.tolist(), 0, 0, 0]
    found = judged.predict_at(rows(KNOWN, MORE), rows(AT, MORE)).split([len(row) for row in AT])
    expected = model.predict_at(shown, rows(AT, COLUMNS)).split([len(row) - 1 for row in AT])
    for row, (scores, of_known, unknown) in enumerate(zip(found, expected, model.at_unknown(shown), strict=True)):
        assert torch.equal(scores, torch.cat([of_known, unknown[None]])), row
    columns, scores = judged.top_k(rows(KNOWN, MORE), MORE)
    ours, theirs = model.top_k(shown, MORE)
    assert columns.shape == scores.shape == (3, MORE)
    assert torch.equal(columns[:, : ours.shape[1]], ours)
    assert torch.equal(scores[:, : ours.shape[1]], theirs)
    assert (columns[:, ours.shape[1] :] == -1).all()
