"""The order of an epoch: its blocks, its minibatches, and what is drawn of heavy rows."""

import itertools

import numpy as np
import pytest
import torch

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.feeding.order import Cursor, minibatches, shuffle_blocks
from nnsparse_stream.feeding.shares import shares
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.sparse.rows import SparseRows

#: Of some rows; the entries of all are more than those for which numbers are drawn at once.
LENGTHS = np.concatenate([np.random.default_rng(1).poisson(3, 40), [90_000, 0, 8, 150_000, 9, 60_000, 7, 0]])


def test_every_row_group_is_in_one_shuffle_block_within_the_bound(trained):
    dataset = Dataset(trained.data)
    (share,) = shares(dataset.manifest, 1)
    for bound in (1, 5_000, 10**9):
        blocks = shuffle_blocks(dataset.manifest, share, 3, 1, shuffle_entries=bound)
        assert sorted(itertools.chain.from_iterable(blocks)) == list(share)
        for block in blocks:
            entries = [dataset.shards[piece.shard].row_groups[piece.group][1] for piece in block]
            assert len(block) == 1 or sum(entries) <= bound


@pytest.mark.parametrize("worker", [0, 3])
def test_row_groups_are_permuted_by_numbers_of_the_worker(trained, worker):
    manifest = Dataset(trained.data).manifest
    (share,) = shares(manifest, 1)
    random = np.random.Generator(np.random.Philox(key=3, counter=[0, worker, 5, 0]))
    assert shuffle_blocks(manifest, share, 3, 5, worker, 1) == [[share[at]] for at in random.permutation(len(share))]


def expected(max_rows, max_entries, worker):
    """The same by copies of the rows: permuted, in chunks, each sampled, cut by the batchifier."""
    random = np.random.Generator(np.random.Philox(key=7, counter=[0, worker, 2, 5]))
    order = random.permutation(np.flatnonzero(LENGTHS > 0))
    ends = np.cumsum(LENGTHS[order])
    chunks = np.split(order, np.unique(np.searchsorted(ends, np.arange(1 << 18, ends[-1], 1 << 18))))
    assert len(chunks) > 1
    sampled = []
    for chunk in chunks:
        row = np.repeat(np.arange(len(chunk)), LENGTHS[chunk])
        place = np.concatenate([np.arange(length) for length in LENGTHS[chunk]])
        kept = np.ones(len(row), dtype=bool)
        if LENGTHS[chunk].max() > max_entries:
            shuffled = np.lexsort((random.random(len(row), dtype=np.float32), row))
            kept[shuffled] = place < max_entries
        lengths = torch.from_numpy(np.bincount(row[kept], minlength=len(chunk)))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        # Columns say which row of the block it is, values which of its entries.
        sampled.append(
            SparseRows(
                offsets, torch.from_numpy(chunk[row[kept]]), torch.from_numpy(place[kept]).double(), len(LENGTHS)
            )
        )
    return list(Batchifier(max_rows, max_entries)(sampled))


@pytest.mark.parametrize(
    ("max_rows", "max_entries", "worker"), [(3, 10**9, 0), (4, 8, 0), (100, 9, 2), (1, 100_000, 0), (2, 1, 0)]
)
def test_the_order_is_that_of_rows_permuted_sampled_and_cut(max_rows, max_entries, worker):
    batchifier = Batchifier(max_rows, max_entries)
    got = list(minibatches(LENGTHS, batchifier, 7, 2, Cursor(4), worker))
    wanted = expected(max_rows, max_entries, worker)
    assert [chosen.after for chosen in got] == [Cursor(4, i) for i in range(1, len(got))] + [Cursor(5)]
    for chosen, rows in zip(got, wanted, strict=True):
        assert chosen.entries == rows.num_entries
        held = rows.columns[rows.offsets[:-1].long()]
        assert chosen.rows.tolist() == held.tolist()
        if chosen.draws is not None:
            lowest = np.sort(np.argsort(chosen.draws, kind="stable")[:max_entries])
            assert lowest.tolist() == rows.values.tolist()
    whole = [(chosen.rows.tolist(), chosen.after) for chosen in got]
    rest = minibatches(LENGTHS, batchifier, 7, 2, Cursor(4, 3), worker)
    assert [(chosen.rows.tolist(), chosen.after) for chosen in rest] == whole[3:]


def test_the_sample_of_a_heavy_row_is_fair():
    """Over many epochs each entry of a row is drawn equally often."""
    counts = np.zeros(50)
    for epoch in range(600):
        (chosen,) = minibatches(np.array([50]), Batchifier(7, 8), 5, epoch, Cursor())
        assert chosen.entries == 8
        counts[np.argsort(chosen.draws)[:8]] += 1
    assert np.abs(counts - 600 * 8 / 50).max() < 6 * np.sqrt(600 * 8 / 50)
