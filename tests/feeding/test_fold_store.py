"""Training entries in memory, and minibatches that are put together of them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.feeding.device_feed import Feed
from nnsparse_stream.feeding.fold_store import DeviceStore, HostStore, Kept

LENGTHS = [3, 0, 5, 200, 1]


def batch(seed: int) -> pa.RecordBatch:
    """Rows as a shard has them, a third of whose entries are held out, with features."""
    random = np.random.default_rng(seed)

    def lists(entries):
        return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *LENGTHS]), pa.int32()), pa.array(entries))

    number = sum(LENGTHS)
    columns = {
        "columns": lists(random.integers(0, 999, number).astype(np.int32)),
        "values": lists(random.random(number).astype(np.float32)),
        "fold": lists(random.integers(0, 3, number).astype(np.uint8)),
        "features": pa.array([[seed, 9], [], [seed], [2], []], pa.list_(pa.int32())),
    }
    return pa.record_batch(columns)


def in_order(batches, rows):
    """Rows of several batches as `fold_rows` gives them."""
    every = [fold_rows(part, (0,), 1000) for part in batches]
    return type(every[0]).concatenate(every).select(torch.from_numpy(rows))


@pytest.mark.parametrize("kind", [HostStore, DeviceStore])
def test_a_minibatch_has_the_rows_that_were_kept_with_their_features(kind):
    batches = [batch(1).slice(1), batch(2)]
    feed = Feed()
    store = kind(500, 1000, feed)
    kept = Kept.concatenate([store.keep(part) for part in batches])
    rows = np.array([8, 0, 7, 3, 2, 4])
    pieces = kept.select(rows)
    got = feed.receive(store.send(pieces, pieces.lengths)).validate()
    expected = in_order(batches, rows)
    assert got.equal(expected)
    assert got.features.equal(expected.features)
    size = sum(part.nbytes for block in (got, got.features) for part in (block.columns, block.values))
    assert kept.bytes_of(rows, got.num_entries) == size + 2 * 4 * len(rows)


@pytest.mark.parametrize("kind", [HostStore, DeviceStore])
def test_of_a_sampled_row_the_entries_with_the_lowest_draws_come_in_order(kind):
    feed = Feed()
    store = kind(500, 1000, feed)
    store.keep(batch(1))
    pieces = store.keep(batch(2)).select(np.array([3]))
    draws = np.random.default_rng(0).random(pieces.lengths[0], dtype=np.float32)
    draws[5] = draws[6] = draws.min()  # of equal ones, the first
    got = feed.receive(store.send(pieces.sampled(draws, 20), np.array([20])))
    row = in_order([batch(2)], np.array([3]))
    taken = np.sort(np.argsort(draws, kind="stable")[:20])
    assert got.columns.tolist() == row.columns[taken].tolist()
    assert got.values.tolist() == row.values[taken].tolist()
    assert got.offsets.tolist() == [0, 20]
    assert got.features.equal(row.features)


def test_more_than_there_is_room_for_and_lists_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="more training entries"):
        HostStore(10, 1000, Feed()).keep(batch(1))
    rows = batch(1)
    broken = rows.set_column(2, "fold", pa.array([[0], [], [], [], []], pa.list_(pa.uint8())))
    with pytest.raises(ValueError, match="different lengths"):
        HostStore(500, 1000, Feed()).keep(broken)
