"""Training rows from storage: their order, their bounds, and the cursor."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.fold_cache import PLACES
from nnsparse_stream.feeding.order import Cursor
from nnsparse_stream.feeding.shares import shares
from nnsparse_stream.feeding.stream import TrainingStream
from nnsparse_stream.feeding.survey import survey_shards
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.pipelines import cli


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


def each_row(rows):
    """The columns and the values of each row."""
    parts = (torch.split(part, rows.lengths().tolist()) for part in (rows.columns, rows.values))
    return [(tuple(columns.tolist()), tuple(values.tolist())) for columns, values in zip(*parts, strict=True)]


def rows_of_all(minibatches):
    return [row for minibatch in minibatches for row in each_row(minibatch.rows)]


def training_rows(dataset):
    """Those that have training entries, ascending."""
    batches = (fold_rows(batch, (0,), dataset.manifest.num_columns) for batch in dataset.batches())
    return sorted(row for rows in batches for row in each_row(rows) if row[0])


def test_an_epoch_holds_every_training_rating_once(dataset):
    seen = sorted(rows_of_all(one_epoch(stream(dataset), 1)))
    assert seen == training_rows(dataset)


@settings(deadline=None, max_examples=12)
@given(
    workers=st.integers(2, 7),
    block=st.sampled_from([1, 4_000, 10**9]),
    after=st.integers(0, 9),
    cache=st.sampled_from(PLACES),
)
def test_the_shares_of_all_workers_hold_every_training_rating_once(dataset, workers, block, after, cache):
    """Also where each goes on from a cursor; and nobody's draws are another's."""
    divided = shares(dataset.manifest, workers)
    entries = survey_shards(dataset, range(len(dataset.shards)), divided).share_entries.tolist()
    seen = []
    for worker, share in enumerate(divided):
        fields = {"share": share, "worker": worker, "shuffle_entries": block}
        whole = one_epoch(stream(dataset, **fields), 2)
        cursor = whole[:after][-1].after if after else Cursor()
        rest = one_epoch(stream(dataset, **fields, cache=cache, entries=entries[worker], readers=3), 2, cursor)
        assert taken(whole) == taken(whole[:after] + rest)
        assert taken(whole) != taken(one_epoch(stream(dataset, **{**fields, "worker": worker + 1}), 2))
        assert sum(minibatch.rows.num_entries for minibatch in whole) == entries[worker]
        seen += rows_of_all(whole)
    assert sorted(seen) == training_rows(dataset)


@settings(deadline=None, max_examples=12)
@given(
    readers=st.integers(1, 8),
    prefetch=st.sampled_from([1, 5_000, 1 << 20]),
    block=st.sampled_from([1, 4_000, 10**9]),
    epoch=st.integers(1, 3),
    cache=st.sampled_from(PLACES),
)
def test_the_order_is_a_function_of_manifest_seed_and_epoch(dataset, readers, prefetch, block, epoch, cache):
    one = stream(dataset, shuffle_entries=block, readers=1)
    other = stream(dataset, shuffle_entries=block, cache=cache, readers=readers, prefetch_bytes=prefetch)
    assert taken(one_epoch(one, epoch)) == taken(one_epoch(other, epoch))
    assert taken(one_epoch(one, epoch)) != taken(one_epoch(one, epoch + 1))


@settings(deadline=None, max_examples=12)
@given(block=st.sampled_from([1, 4_000, 10**9]), after=st.integers(0, 70), cache=st.sampled_from(PLACES))
def test_a_cursor_restores_the_position_inside_an_epoch(dataset, block, after, cache):
    whole = taken(one_epoch(stream(dataset, shuffle_entries=block), 2))
    cursor = Cursor() if after == 0 else whole[min(after, len(whole)) - 1][-1]
    resumed = stream(dataset, shuffle_entries=block, cache=cache)
    assert taken(one_epoch(resumed, 2, cursor)) == whole[min(after, len(whole)) :]


@pytest.mark.parametrize("cache", PLACES)
def test_epochs_follow_one_another_as_if_each_were_read_alone(dataset, cache):
    minibatches = stream(dataset, cache=cache).epochs(2, 4, Cursor(0, 3))
    epochs = [list(iter(minibatches.__next__, None)) for _ in range(3)]
    assert list(minibatches) == []
    alone = [one_epoch(stream(dataset), 2, Cursor(0, 3)), *(one_epoch(stream(dataset), epoch) for epoch in (3, 4))]
    assert list(map(taken, epochs)) == list(map(taken, alone))


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


@pytest.mark.parametrize("cache", ["host", "device"])
def test_a_cache_reads_each_row_group_once(dataset, monkeypatch, cache):
    """From the middle of an epoch on, the rest of it and then what comes before; and the heavy rows are the same."""
    cached = stream(dataset, 7, 12, shuffle_entries=4_000, cache=cache)
    read, places = cached.shards.read, []
    monkeypatch.setattr(cached.shards, "read", lambda *place: places.append(place) or read(*place))
    bare = stream(dataset, 7, 12, shuffle_entries=4_000)
    start = Cursor(1, 2)
    got = [minibatch and taken([minibatch]) for minibatch in cached.epochs(1, 2, start)]
    assert got == [minibatch and taken([minibatch]) for minibatch in bare.epochs(1, 2, start)]
    assert sorted(places) == [(piece.shard, piece.group) for piece in shares(dataset.manifest, 1)[0]]
    assert taken(one_epoch(cached, 3)) == taken(one_epoch(bare, 3))
    assert len(places) == len(set(places))


@pytest.mark.parametrize("cache", ["host", "device"])
def test_a_cache_goes_on_after_an_epoch_that_was_left(dataset, cache):
    cached = stream(dataset, shuffle_entries=4_000, cache=cache, prefetch_bytes=1)
    left = cached.epochs(1, 3)
    next(left)
    left.close()
    assert taken(one_epoch(cached, 2)) == taken(one_epoch(stream(dataset, shuffle_entries=4_000), 2))


def test_rows_that_are_not_what_the_manifest_says_are_refused(dataset):
    fewer = {**dataset.manifest.fold_entries, "train": dataset.manifest.fold_entries["train"] - 1}
    other = Dataset(dataset.url)
    other.manifest = dataclasses.replace(dataset.manifest, fold_entries=fewer)
    with pytest.raises(InputError, match=r"rows/shard-.*, row group .: there are more training entries than the manif"):
        one_epoch(stream(other, cache="host"), 1)


def test_an_epoch_that_is_left_early_ends_its_reader(dataset):
    import threading

    before = set(threading.enumerate())
    minibatches = stream(dataset, prefetch_bytes=1).epochs(1, 3)
    next(minibatches)
    minibatches.close()
    assert not set(threading.enumerate()) - before


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
