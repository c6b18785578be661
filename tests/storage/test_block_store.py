"""Blocks by ticket: the same in memory and from the file, bounded, and a clear error where there is no room."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage.block_store import BlockStore, from_ipc, to_ipc


def block(start: int, rows: int = 1000) -> pa.RecordBatch:
    """A slice, as most blocks are: of integers of 8 bytes, and of strings."""
    numbers = range(start - 5, start + rows + 5)
    whole = pa.record_batch({"row": pa.array(numbers), "name": [f"n{number}" for number in numbers]})
    return whole.slice(5, rows)


@pytest.mark.parametrize("memory_bytes", [0, 40_000, 1 << 30])
def test_blocks_come_back_in_any_order_and_as_often_as_asked(memory_bytes: int) -> None:
    store = BlockStore(memory_bytes)
    tickets = {store.put(block(1000 * number)): number for number in range(7)}
    assert len(tickets) == 7
    for ticket in [*reversed(tickets), *tickets, *tickets]:
        assert store.get(ticket).equals(block(1000 * tickets[ticket]))
    held = 7 * len(to_ipc(block(0)))
    assert (store.spilled_bytes > held * 0.9) == (memory_bytes == 0)
    assert (store.spilled_bytes == 0) == (memory_bytes == 1 << 30)
    store.close()


def test_a_block_that_is_taken_makes_room() -> None:
    store = BlockStore(block(0).nbytes)
    for _ in range(3):
        ticket = store.put(block(0))
        assert store.take(ticket).equals(block(0))
    assert store.spilled_bytes == 0
    store.put(block(0))
    ticket = store.put(block(1000))
    assert store.spilled_bytes > 0
    assert store.take(ticket).equals(block(1000))
    store.close()


def test_a_block_in_memory_is_not_copied() -> None:
    store, given = BlockStore(), block(0)
    assert store.get(store.put(given)) is given


def test_a_slice_costs_its_own_size() -> None:
    assert len(to_ipc(block(0, 50))) < 3_000
    assert from_ipc(to_ipc(block(0, 50))).equals(block(0, 50))
    assert from_ipc(to_ipc(block(0, 0))).equals(block(0, 0))


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(tempfile, "TemporaryFile", functools.partial(open, "/dev/full", "wb"))
    with pytest.raises(InputError, match=r"cannot be written there \(.*No space left.*TMPDIR"):
        BlockStore(0).put(block(0))
