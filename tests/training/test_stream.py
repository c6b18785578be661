"""Training rows from storage: their order, their bounds, and the cursor."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.pipelines import cli
from nnsparse_stream.training.stream import Cursor, TrainingStream, shuffle_blocks


@pytest.fixture(scope="module")
def dataset(trained):
    return Dataset(trained.data)


def stream(dataset, rows=7, entries=10_000, **fields):
    return TrainingStream(dataset, 5, Batchifier(rows, entries), torch.device("cpu"), **fields)


def one_epoch(stream, epoch, start=Cursor()):  # noqa: B008
    *minibatches, end = stream.epochs(epoch, epoch, start)
    assert end is None
    return minibatches


def taken(minibatches):
    return [(m.rows.offsets.tolist(), m.rows.columns.tolist(), m.rows.values.tolist(), m.after) for m in minibatches]


def test_an_epoch_holds_every_training_rating_once(dataset):
    seen = sorted(
        (tuple(m.rows[row].columns.tolist()), tuple(m.rows[row].values.tolist()))
        for m in one_epoch(stream(dataset), 1)
        for row in range(m.rows.num_rows)
    )
    expected = sorted(
        (tuple(rows[row].columns.tolist()), tuple(rows[row].values.tolist()))
        for batch in dataset.batches()
        for rows in [fold_rows(batch, (0,), dataset.manifest.num_columns)]
        for row in range(rows.num_rows)
        if rows[row].num_entries
    )
    assert seen == expected


@settings(deadline=None, max_examples=12)
@given(
    readers=st.integers(1, 8),
    prefetch=st.sampled_from([1, 5_000, 1 << 20]),
    block=st.sampled_from([1, 4_000, 10**9]),
    epoch=st.integers(1, 3),
)
def test_the_order_is_a_function_of_manifest_seed_and_epoch(dataset, readers, prefetch, block, epoch):
    one = stream(dataset, shuffle_entries=block, readers=1)
    other = stream(dataset, shuffle_entries=block, readers=readers, prefetch_bytes=prefetch)
    assert taken(one_epoch(one, epoch)) == taken(one_epoch(other, epoch))
    assert taken(one_epoch(one, epoch)) != taken(one_epoch(one, epoch + 1))


@settings(deadline=None, max_examples=12)
@given(block=st.sampled_from([1, 4_000, 10**9]), after=st.integers(0, 70))
def test_a_cursor_restores_the_position_inside_an_epoch(dataset, block, after):
    whole = taken(one_epoch(stream(dataset, shuffle_entries=block), 2))
    cursor = Cursor() if after == 0 else whole[min(after, len(whole)) - 1][-1]
    assert taken(one_epoch(stream(dataset, shuffle_entries=block), 2, cursor)) == whole[min(after, len(whole)) :]


def test_epochs_follow_one_another_as_if_each_were_read_alone(dataset):
    minibatches = stream(dataset).epochs(2, 4, Cursor(0, 3))
    epochs = [list(iter(minibatches.__next__, None)) for _ in range(3)]
    assert list(minibatches) == []
    alone = [one_epoch(stream(dataset), 2, Cursor(0, 3)), *(one_epoch(stream(dataset), epoch) for epoch in (3, 4))]
    assert list(map(taken, epochs)) == list(map(taken, alone))


@pytest.mark.parametrize("chunk", [1, 60])
def test_the_chunks_in_which_a_block_is_copied_do_not_show(dataset, monkeypatch, chunk):
    whole = taken(one_epoch(stream(dataset), 1))
    monkeypatch.setattr("nnsparse_stream.training.stream._CHUNK_ENTRIES", chunk)
    assert taken(one_epoch(stream(dataset), 1)) == whole


def test_every_row_group_is_in_one_shuffle_block_within_the_bound(dataset):
    for bound in (1, 5_000, 10**9):
        blocks = shuffle_blocks(dataset.manifest, 3, 1, bound)
        groups = list(itertools.chain.from_iterable(blocks))
        assert sorted(groups) == [
            (shard, group) for shard, entry in enumerate(dataset.shards) for group in range(len(entry.row_groups))
        ]
        for block in blocks:
            assert len(block) == 1 or sum(dataset.shards[s].row_groups[g][1] for s, g in block) <= bound


def test_minibatches_keep_both_bounds_and_heavy_rows_are_drawn_anew_each_epoch(dataset):
    bounded = stream(dataset, rows=5, entries=12)
    epochs = [list(one_epoch(bounded, epoch)) for epoch in (1, 2)]
    for minibatch in itertools.chain.from_iterable(epochs):
        assert minibatch.rows.num_rows <= 5
        assert minibatch.rows.num_entries <= 12
        minibatch.rows.validate()
    # A row of more than 12 entries gives 12 of its own, in ascending columns, and others in the next epoch.
    full = {}
    for batch in dataset.batches():
        rows = fold_rows(batch, (0,), dataset.manifest.num_columns)
        for row in range(rows.num_rows):
            pairs = frozenset(zip(rows[row].columns.tolist(), rows[row].values.tolist(), strict=True))
            full[pairs] = len(pairs)
    drawn = [set(), set()]
    for epoch, minibatches in enumerate(epochs):
        for minibatch in minibatches:
            for row in range(minibatch.rows.num_rows):
                one = minibatch.rows[row]
                assert one.columns.tolist() == sorted(one.columns.tolist())
                pairs = frozenset(zip(one.columns.tolist(), one.values.tolist(), strict=True))
                assert any(pairs <= row_pairs for row_pairs in full)
                if len(pairs) == 12:
                    drawn[epoch].add(pairs)
    assert len(drawn[0]) >= sum(count > 12 for count in full.values())
    assert drawn[0] != drawn[1]


def test_an_epoch_that_is_left_early_ends_its_reader(dataset):
    import threading

    before = threading.active_count()
    minibatches = stream(dataset, prefetch_bytes=1).epochs(1, 3)
    next(minibatches)
    minibatches.close()
    assert threading.active_count() == before


def test_what_a_reader_meets_is_raised_where_the_minibatches_are_used(trained, tmp_path):
    data = tmp_path / "data"
    assert (
        cli.main(["prepare", "--input", trained.log, "--output", str(data), "--axis", "user", "--num_shards", "2"]) == 0
    )
    damaged = Dataset(str(data))
    shard = next((data / "rows").iterdir())
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(InputError, match=shard.name):
        list(one_epoch(stream(damaged), 1))


def test_the_sample_of_a_heavy_row_is_fair(dataset):
    """Over many epochs each entry of a row is drawn equally often."""
    counts = np.zeros(dataset.manifest.num_columns)
    rows = fold_rows(next(dataset.batches()), (0,), dataset.manifest.num_columns)
    heaviest = int(rows.lengths().argmax())
    row = rows[heaviest]
    sampler = stream(dataset, entries=8)
    for epoch in range(600):
        (drawn,) = sampler._shuffled(row, np.random.default_rng(epoch))
        assert drawn.num_entries == 8
        counts[drawn.columns.numpy()] += 1
    expected = 600 * 8 / row.num_entries
    drawn_counts = counts[row.columns.numpy()]
    assert counts.sum() == 600 * 8
    assert np.abs(drawn_counts - expected).max() < 6 * np.sqrt(expected)
