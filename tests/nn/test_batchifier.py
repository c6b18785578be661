"""Batchifier: bounds, order, laziness, and passing minibatches through a network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import entries_of, sparse_rows
from torch import nn

from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.nn.layers import SparseLinearBatch
from nnsparse_stream.sparse.rows import SparseRows

BLOCKS = st.lists(sparse_rows(num_columns=4, max_rows=8), max_size=5)


@given(BLOCKS, st.integers(1, 10), st.integers(1, 15))
def test_nothing_is_lost_order_and_bounds_are_kept(blocks, max_rows, max_entries):
    batches = list(Batchifier(max_rows, max_entries)(iter(blocks)))
    assert [row for batch in batches for row in entries_of(batch)] == [row for b in blocks for row in entries_of(b)]
    for batch in batches:
        batch.validate()
        assert 1 <= batch.num_rows <= max_rows
        assert batch.num_entries <= max_entries or batch.num_rows == 1


@given(BLOCKS, st.integers(1, 10), st.integers(1, 15))
def test_minibatches_are_as_full_as_the_bounds_allow(blocks, max_rows, max_entries):
    batches = list(Batchifier(max_rows, max_entries)(blocks))
    for batch, following in pairwise(batches):
        assert (
            batch.num_rows == max_rows
            or batch.num_entries >= max_entries
            or batch.num_entries + following[0].num_entries > max_entries
        )


@given(BLOCKS.filter(bool), st.integers(1, 10), st.integers(1, 15))
def test_minibatches_do_not_depend_on_how_rows_were_split_into_blocks(blocks, max_rows, max_entries):
    batchifier = Batchifier(max_rows, max_entries)
    batches = list(batchifier(blocks))
    whole = list(batchifier(SparseRows.concatenate(blocks)))
    assert [entries_of(batch) for batch in batches] == [entries_of(batch) for batch in whole]


def test_look_ahead_is_one_block():
    block = SparseRows.from_rows([([0], [1.0])] * 2, 1)
    read = 0

    def endless() -> Iterator[SparseRows]:
        nonlocal read
        while True:
            read += 1
            yield block

    batches = Batchifier(max_rows=4, max_entries=100)(endless())
    assert read == 0
    for count in range(1, 5):
        assert next(batches).num_rows == 4
        assert read == 2 * count  # full: not one block more
    for max_entries in (3, 4):
        by_entries = Batchifier(max_rows=100, max_entries=max_entries)(endless())
        read = 0
        assert next(by_entries).num_rows == max_entries
        assert read == 2


def test_a_heavy_row_is_a_minibatch_of_its_own():
    rows = SparseRows.from_rows([([0], [1.0]), ([0, 1, 2, 3, 4], [1.0] * 5), ([1], [1.0]), ([2], [1.0])], 5)
    assert [batch.lengths().tolist() for batch in Batchifier(10, 3)(rows)] == [[1], [5], [1, 1]]


def test_empty_rows_after_a_full_minibatch_go_to_the_next_in_one_block_and_in_two():
    rows = SparseRows.from_rows([([0, 1], [1.0, 1.0]), ([], []), ([1], [1.0])], 2)
    for blocks in (rows, [rows[:1], rows[1:]], [rows[:2], rows[2:]]):
        assert [batch.lengths().tolist() for batch in Batchifier(10, 2)(blocks)] == [[2], [0, 1]]


def test_minibatches_of_one_block_share_its_memory():
    rows = SparseRows.from_rows([([0], [1.0])] * 4, 1)
    assert [batch.values.data_ptr() for batch in Batchifier(2, 9)(rows)] == [
        rows.values.data_ptr(),
        rows.values[2:].data_ptr(),
    ]


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0)])
def test_bounds_must_be_positive(bounds):
    with pytest.raises(ValueError, match="must be at least 1"):
        Batchifier(*bounds)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(SparseLinearBatch(6, 3), nn.Tanh())


def many_rows() -> SparseRows:
    return SparseRows.from_rows([([row % 6, (row * 5 + 1) % 6], [1.0, row / 50]) for row in range(50)], 6)


def test_forward_is_one_pass_whatever_holds_the_output(tmp_path):
    net, rows = network(), many_rows()
    expected = net(rows).detach()
    batchifier = Batchifier(7, 1000)
    assert torch.equal(batchifier.forward(net, rows), expected)
    assert torch.equal(batchifier.forward(net, iter([rows[:3], rows[3:]])), expected)
    assert torch.equal(torch.cat(list(batchifier.blocks(net, rows))), expected)
    out = torch.empty(50, 3)
    assert batchifier.forward(net, rows, out) is out
    assert torch.equal(out, expected)
    mapped = np.memmap(tmp_path / "out.bin", np.float32, "w+", shape=(50, 3))
    assert batchifier.forward(net, rows, mapped) is mapped
    mapped.flush()
    assert np.array_equal(np.fromfile(tmp_path / "out.bin", np.float32).reshape(50, 3), expected.numpy())


def test_no_gradient_is_recorded_and_the_callers_mode_is_kept():
    blocks = Batchifier(7, 1000).blocks(network(), many_rows())
    assert not next(blocks).requires_grad
    assert torch.is_grad_enabled()


def test_an_output_that_does_not_fit_is_an_error(tmp_path):
    net, rows, batchifier = network(), many_rows(), Batchifier(20, 1000)
    with pytest.raises(ValueError, match=r"out has shape \(49, 3\), but the output has rows of shape \(3,\)"):
        batchifier.forward(net, rows, torch.empty(49, 3))
    with pytest.raises(ValueError, match=r"out has shape \(50, 4\)"):
        batchifier.forward(net, rows, torch.empty(50, 4))
    with pytest.raises(ValueError, match="out has 51 rows, but only 50 came"):
        batchifier.forward(net, rows, torch.empty(51, 3))
    with pytest.raises(ValueError, match="there are no rows"):
        batchifier.forward(net, [])
    np.zeros((50, 3), np.float32).tofile(tmp_path / "out.bin")
    with pytest.raises(ValueError, match="out is read-only"):
        batchifier.forward(net, rows, np.memmap(tmp_path / "out.bin", np.float32, "r", shape=(50, 3)))
