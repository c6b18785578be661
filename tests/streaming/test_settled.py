from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.streaming import settled
from nnsparse_stream.streaming.events import event_schema
from nnsparse_stream.streaming.settled import Settled, newest, newest_of_pairs


def block(random: np.random.Generator, number: int, rows: int, kind: str) -> pa.RecordBatch:
    ids = [random.integers(0, rows, number), random.integers(0, 5, number)]
    values = pa.array(random.integers(0, 3, number), pa.float32(), mask=random.random(number) < 0.2)
    columns = [pa.array(some).cast(kind) for some in ids]
    return pa.record_batch([*columns, values, random.integers(0, 9, number)], schema=event_schema(kind, kind))


def pairs_of(events: pa.RecordBatch) -> dict[tuple, tuple]:
    """The newest of each pair: (time, whether it is taken back, value)."""
    found: dict[tuple, tuple] = {}
    for event in events.to_pylist():
        pair, value = (event["row"], event["column"]), event["value"]
        found[pair] = max(found.get(pair, (-1,)), (event["time"], value is None, value or 0))
    return found


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1.0, 2.0, float("nan")]))))
def test_newest_is_the_largest_of_each_key(entries: list[tuple[int, int, float]]) -> None:
    keys, times = (np.array([entry[place] for entry in entries], dtype=np.int64) for place in (0, 1))
    values = np.array([entry[2] for entry in entries], dtype=np.float32)
    places = newest(keys, 4, times, values)
    assert keys[places].tolist() == sorted(set(keys.tolist()))
    for place in places.tolist():
        key, *last = (value if value == value else 9 for value in entries[place])
        assert last == max([time, value if value == value else 9] for of, time, value in entries if of == key)


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_rows_are_found_in_a_log_of_any_age(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a scan of everything that was appended, through compactions, and in a log made of the blocks."""
    monkeypatch.setattr(settled, "_FEW", 200)
    random = np.random.default_rng(0)
    log, everything, compactions = Settled(event_schema(kind, kind), [], compacted=False), [], 0
    for _ in range(60):
        everything.append(block(random, int(random.integers(0, 30)), 80, kind))
        compactions += log.append(newest_of_pairs(everything[-1]))
        rows = pa.array(random.choice(90, 7, replace=False)).cast(kind)
        wanted = {
            pair: last for pair, last in pairs_of(pa.concat_batches(everything)).items() if pair[0] in rows.to_pylist()
        }
        assert pairs_of(log.of_rows(rows)) == wanted
        again = Settled(event_schema(kind, kind), log.blocks, compacted=compactions > 0)
        assert pairs_of(again.of_rows(rows)) == wanted
    assert compactions > 1
    assert len(log.blocks) < 60


@pytest.mark.parametrize(("most_blocks", "few"), [(8, 10**9), (10**9, 50)])
def test_a_log_of_all_pairs_stays_as_large(most_blocks: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of blocks, or by that of events: it holds 1.5 times the pairs at most, and is seldom rewritten."""
    monkeypatch.setattr(settled, "MOST_BLOCKS", most_blocks)
    monkeypatch.setattr(settled, "_FEW", few)
    random = np.random.default_rng(0)
    log, written, appended = Settled(event_schema("int64", "int64"), [], compacted=False), 0, 0
    for turn in range(300):
        events = newest_of_pairs(block(random, 20, 40, "int64"))
        appended += len(events)
        if log.append(events):
            written += len(log.blocks[0])
            assert len(log.blocks) == 1
            assert log.blocks[0].num_rows == len(pairs_of(log.blocks[0]))
        assert len(log.blocks) <= most_blocks
        if turn > 50:
            assert sum(map(len, log.blocks)) <= max(1.5 * 200, 200 + few)
    assert appended > 5000
    assert written <= 3 * appended
