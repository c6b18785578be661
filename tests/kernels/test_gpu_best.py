"""The best columns by Triton's kernel equal those of a full sort: compiled on a GPU, by the interpreter elsewhere."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranked import SPECIAL, orders, sorted_whole

from nnsparse_stream.sparse.rows import SparseRows

gpu_best = pytest.importorskip("nnsparse_stream.kernels.gpu.best", reason="triton cannot be imported")

# Of the interpreter, where the middle of -inf and inf is asked for.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(scores: np.ndarray, rated: list[list[int]], eligible: np.ndarray, k: int, tile: int) -> None:
    """Some tiles, each of another memory, and poison where nothing is written yet."""
    num_rows, num_columns = scores.shape
    rows = [(torch.tensor(columns, dtype=torch.int64), torch.zeros(len(columns))) for columns in rated]
    known, k = SparseRows.from_rows(rows, num_columns).to(DEVICE), min(k, num_columns)
    best = gpu_best.GpuBest(known, torch.from_numpy(eligible).to(DEVICE), k)
    best._scores.fill_(torch.inf)
    for start in range(0, num_columns, tile):
        stop = min(start + tile, num_columns)
        best.add(start, stop, torch.from_numpy(scores[:, start:stop]).clone().to(DEVICE))
    columns, found = best.result()
    not_able = set(np.flatnonzero(~eligible).tolist())
    expected = sorted_whole(scores, [not_able.union(columns) for columns in rated], k)
    assert columns.tolist() == expected[0]
    assert found.tolist() == expected[1]
    assert columns.dtype == torch.int64
    assert columns.shape == (num_rows, k)


@given(data=st.data(), k=st.integers(1, 3), tile=st.integers(8, 24), width=st.integers(1, 40))
def test_any_scores_where_candidates_are_cut_at_any_tile(data, k, tile, width):
    values = st.one_of(st.integers(-3, 3), st.floats(width=32), st.sampled_from(SPECIAL))
    rows = data.draw(st.integers(0, 2))
    scores = np.array(data.draw(st.lists(values, min_size=rows * width, max_size=rows * width)), dtype=np.float32)
    columns = st.lists(st.integers(0, width - 1), max_size=width)  # in any order, any of them twice
    eligible = np.array(data.draw(st.lists(st.booleans(), min_size=width, max_size=width)))
    rated = data.draw(st.lists(columns, min_size=rows, max_size=rows))
    with mock.patch.multiple(gpu_best, _ROOM=0, _SORTED_ROOM=0, _BLOCK=16):
        check(scores.reshape(rows, width), rated, eligible, k, tile)


@pytest.mark.parametrize("kind", orders(np.random.default_rng(0), 1))
def test_orders_of_scores_that_fill_the_buffer_of_candidates(kind):
    rng = np.random.default_rng(5)
    scores = orders(rng, 3000)[kind].astype(np.float32)[:2]
    check(scores, [rng.choice(3000, 100, replace=False).tolist(), []], rng.random(3000) < 0.9, 40, 1024)


def test_a_list_of_all_columns():
    rng = np.random.default_rng(6)
    check(rng.integers(0, 9, (2, 700)).astype(np.float32), [[3, 1], [699]], np.ones(700, dtype=bool), 700, 512)


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU to wait for")
def test_nothing_waits_for_the_gpu():
    known = SparseRows.from_rows([(torch.tensor([2]), torch.ones(1))] * 3, 5000).to(DEVICE)
    eligible, scores = torch.ones(5000, dtype=torch.bool, device=DEVICE), torch.randn(3, 5000, device=DEVICE)
    gpu_best.GpuBest(known, eligible, 20).result()  # compiles
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        best = gpu_best.GpuBest(known, eligible, 20)
        for start in range(0, 5000, 2048):
            best.add(start, min(start + 2048, 5000), scores[:, start : start + 2048].clone())
        best.result()
    finally:
        torch.cuda.set_sync_debug_mode(before)
