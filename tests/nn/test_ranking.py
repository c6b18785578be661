"""The best columns equal those of a full sort, whatever the scores, tiles, exclusions and code path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from backend_cases import ON_CPU
from hypothesis import given
from hypothesis import strategies as st
from ranked import SPECIAL, orders, sorted_whole

from nnsparse_stream.kernels.backends import using
from nnsparse_stream.nn.ranking import Eligible, best_columns
from nnsparse_stream.sparse.rows import SparseRows


def everywhere(eligible: np.ndarray) -> Eligible:
    return Eligible.of(torch.from_numpy(eligible), torch.device("cpu"))


def check(name: str, scores: np.ndarray, rated: list[list[int]], eligible: np.ndarray, k: int, tile: int) -> None:
    rows = [(torch.tensor(columns, dtype=torch.int64), torch.zeros(len(columns))) for columns in rated]
    known = SparseRows.from_rows(rows, scores.shape[1])
    dense = torch.from_numpy(scores)
    with using(name):
        found = best_columns(lambda start, stop: dense[:, start:stop].clone(), known, everywhere(eligible), k, tile)
    able = set(np.flatnonzero(~eligible).tolist())
    expected = sorted_whole(scores, [able.union(columns) for columns in rated], k)
    assert found[0].tolist() == expected[0]
    assert found[1].tolist() == expected[1]


@pytest.mark.parametrize("name", ON_CPU)
@given(data=st.data(), k=st.integers(1, 12), tile=st.integers(1, 30), width=st.integers(1, 25))
def test_any_scores_with_ties_in_any_tiles(name, data, k, tile, width):
    values = st.one_of(st.integers(-3, 3), st.sampled_from(SPECIAL))
    rows = data.draw(st.integers(0, 3))
    scores = np.array(data.draw(st.lists(values, min_size=rows * width, max_size=rows * width)), dtype=np.float32)
    columns = st.lists(st.integers(0, width - 1), max_size=width)  # in any order, any of them twice
    eligible = data.draw(st.lists(st.booleans(), min_size=width, max_size=width))
    rated = data.draw(st.lists(columns, min_size=rows, max_size=rows))
    check(name, scores.reshape(rows, width), rated, np.array(eligible), k, tile)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("kind", orders(np.random.default_rng(0), 1))
@pytest.mark.parametrize("k", [1, 40, 2000])
def test_orders_of_scores_that_fill_the_buffer_of_candidates(name, kind, k):
    rng = np.random.default_rng(5)
    scores = orders(rng, 3000)[kind].astype(np.float32)
    eligible = rng.random(3000) < 0.9
    rated = [rng.choice(3000, 100, replace=False).tolist() for _ in range(3)]
    check(name, scores, rated, eligible, k, 1024)


@pytest.mark.parametrize("name", ON_CPU)
def test_tiles_without_an_eligible_column_are_not_scored(name):
    eligible = np.zeros(10, dtype=bool)
    eligible[5] = True
    scored = []

    def score(start: int, stop: int) -> torch.Tensor:
        scored.append(start)
        return torch.ones(1, stop - start)

    with using(name):
        columns, scores = best_columns(
            score, SparseRows.from_rows([(torch.tensor([0]), torch.ones(1))], 10), everywhere(eligible), 3, 2
        )
    assert scored == [4]
    assert columns.tolist() == [[5, -1, -1]]
    assert scores.tolist() == [[1.0, -torch.inf, -torch.inf]]
