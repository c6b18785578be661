"""Reasons of listed columns: the largest contributions, however many are held at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.scoring import reasons as module
from nnsparse_stream.scoring.reasons import reasons
from nnsparse_stream.sparse.rows import SparseRows


class Sums(RatingAutoencoder):
    """Contributions that can be told from each other: weights of known column times scored column."""

    weights: Tensor

    def contributions(self, known: SparseRows, columns: Tensor) -> Tensor:
        listed = columns[known.row_indices().long()]
        found = self.weights[known.columns.long()[:, None], listed.clamp(min=0)]
        return found.masked_fill(listed < 0, 0.0)


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_reasons_are_the_largest_contributions_above_0(monkeypatch, at_once):
    monkeypatch.setattr(module, "_CONTRIBUTIONS", at_once)
    rng = np.random.default_rng(3)
    model = Sums(AutoencoderConfig(9, (2,)))
    model.weights = torch.from_numpy(rng.integers(-2, 3, (9, 9)).astype(np.float32))  # with ties
    known = [[0, 2, 5, 8], [], [1, 3, 4], [6]]
    rows = SparseRows.from_rows([(torch.tensor(row, dtype=torch.int64), torch.ones(len(row))) for row in known], 9)
    columns = torch.tensor([[1, 3, 4], [0, 5, -1], [0, 2, -1], [-1, -1, -1]])
    found = reasons(model, rows, columns, 2)
    expected = [
        sorted((-float(model.weights[entry, column]), entry) for entry in entries)[:2]
        for entries, listed in zip(known, columns.tolist(), strict=True)
        for column in listed
        if column >= 0
    ]
    expected = [[part for part in parts if part[0] < 0] for parts in expected]
    assert found.counts.tolist() == [len(parts) for parts in expected]
    assert found.columns.tolist() == [entry for parts in expected for _, entry in parts]
    assert found.contributions.tolist() == [-value for parts in expected for value, _ in parts]


def test_a_model_whose_scores_are_no_sums_says_so():
    rows = SparseRows.from_rows([(torch.tensor([1]), torch.ones(1))], 9)
    with pytest.raises(InputError, match="a model of kind autoencoder cannot explain its scores"):
        reasons(RatingAutoencoder(AutoencoderConfig(9, (2,))), rows, torch.tensor([[1]]), 2)
