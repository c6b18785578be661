"""Against a model of plain dictionaries, on the ratings of a real data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparing import prepare, ratings_of

from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.storage.block_store import from_ipc, to_ipc
from nnsparse_stream.streaming import settled
from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.events import ENDED, event_schema
from nnsparse_stream.streaming.shard_state import Flush, ShardState
from nnsparse_stream.streaming.windows import Windows

SHARD = 5
SIZE = 10


class World(NamedTuple):
    """A data set; the ids of some rows of the shard, of which it has the first three; and of columns, as many."""

    base: BaseRows
    kind: str
    rows: list[Any]
    columns: list[Any]
    ratings: dict[tuple, float]

    @property
    def schema(self) -> pa.Schema:
        return event_schema(self.kind, self.kind)

    def state(self, lateness: int = 0, **parts: Any) -> ShardState:
        return ShardState(SHARD, Windows(SIZE, lateness), self.schema, **parts)


@pytest.fixture(scope="module", params=["int64", "string"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    kind = request.param
    where = tmp_path_factory.mktemp("world")
    every = pa.array(range(500)).cast(kind)
    rows = every.filter(pa.array(hash_ids(every) % np.uint64(16) == SHARD)).to_pylist()[:6]
    columns = [3, 1, 2, 7, 9] if kind == "int64" else ["c", "a", "b", "äö", "z"]
    lines = [f"{row},{column},{place}\n" for row in rows[:3] for place, column in enumerate(columns[:3], 1)]
    # Numbers alone would be taken for integers.
    (where / "ratings.csv").write_text(
        "user,item,rating\n" + "".join(lines[:-1]) + f"x,{columns[2]},1\n" * (kind == "string")
    )
    assert prepare("--input", where / "ratings.csv", "--output", where / "data", "--axis=user", "--num_shards=2") == 0
    base = BaseRows(str(where / "data"))
    assert base.num_shards == 16
    ratings = {(row, column): value for row, column, value, _ in ratings_of(base.data)}
    return World(base, kind, rows, columns, ratings)


Event = tuple[int, int, float | None, int]
EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 4), st.sampled_from([None, 0.0, -0.0, 1.0, 2.5]), st.integers(-15, 70)),
    max_size=12,
)
STEPS = st.lists(
    EVENTS
    | st.integers(-5, 8).map(lambda tenth: tenth * 10)
    | st.integers(0, 80)
    | st.sampled_from(["rebuild", ENDED]),
    max_size=12,
)


def block(world: World, events: list[Event]) -> pa.RecordBatch:
    names = [(world.rows[row], world.columns[column], value, time) for row, column, value, time in events]
    return pa.RecordBatch.from_pylist(
        [dict(zip(world.schema.names, event, strict=True)) for event in names], world.schema
    )


class Model:
    """What a shard's state does, event by event, in dictionaries."""

    def __init__(self, world: World, lateness: int) -> None:
        self.world, self.lateness = world, lateness
        self.pending: list[tuple] = []
        self.newest: dict[tuple, tuple] = {}
        self.closed: int | None = None
        self.revision = 0
        self.panes: dict[int, int] = {}

    def add(self, events: pa.RecordBatch) -> None:
        for event in events.to_pylist():
            row, column, value, time = event.values()
            begin, is_late = time // SIZE * SIZE, self.closed is not None and time < self.closed
            if is_late and begin + SIZE + self.lateness <= self.closed:
                begin = self.closed
            self.pending.append((begin, is_late, (row, column), (time, value is None, value or 0.0)))

    def next_close(self) -> int | None:
        ends = [begin + SIZE if self.closed is None else max(begin + SIZE, self.closed) for begin, *_ in self.pending]
        return min(ends, default=None)

    def close(self, until: int) -> list[dict[str, Any]]:
        limit = until // SIZE * SIZE if self.closed is None else max(until // SIZE * SIZE, self.closed)
        flushes = []
        for window in sorted({begin for begin, *_ in self.pending if until == ENDED or begin < limit}):
            of_window = [event for event in self.pending if event[0] == window]
            self.pending = [event for event in self.pending if event[0] != window]
            pairs: dict[tuple, tuple] = {}
            for _, _, pair, entry in of_window:
                pairs[pair] = max(pairs.get(pair, entry), entry)
                self.newest[pair] = max(self.newest.get(pair, entry), entry)
            late = sum(event[1] for event in of_window)
            pane = 0
            if self.closed is not None and window < self.closed:
                pane = self.panes[window] = self.panes.get(window, 0) + 1
            self.revision += 1
            rows = {row: self.known(row) for row, _ in sorted(pairs)}
            rated = [(*pair, value, time) for pair, (time, back, value) in sorted(pairs.items()) if not back]
            flushes.append(Flush(window, SHARD, pane, self.revision, rows, rated, late)._asdict())
        if until < ENDED:
            self.closed = limit
        elif flushes:
            end = flushes[-1]["window"] + SIZE
            self.closed = end if self.closed is None else max(end, self.closed)
        return flushes

    def known(self, row: Any) -> dict[Any, float]:
        held = {column: value for (of, column), value in self.world.ratings.items() if of == row}
        for (of, column), (_, back, value) in self.newest.items():
            if of == row:
                held[column] = value
                if back:
                    del held[column]
        return dict(sorted(held.items()))


def plain(flush: Flush) -> dict[str, Any]:
    rows = {row["row"]: dict(zip(row["columns"], row["values"], strict=True)) for row in flush.rows.to_pylist()}
    pairs = [tuple(pair.values()) for pair in flush.pairs.to_pylist()]
    return flush._replace(rows=rows, pairs=pairs)._asdict()


def newest_of(state: ShardState) -> dict[tuple, tuple]:
    """The settled state: of each pair the newest entry."""
    found: dict[tuple, tuple] = {}
    for part in state.settled:
        for row, column, value, time in (event.values() for event in part.to_pylist()):
            entry = (time, value is None, value or 0.0)
            found[row, column] = max(found.get((row, column), entry), entry)
    return found


def rebuilt(world: World, state: ShardState, lateness: int) -> ShardState:
    """Another one of the same parts, which were on storage meanwhile."""
    pending, kept = ([from_ipc(to_ipc(part)) for part in parts] for parts in (state.pending, state.settled))
    return world.state(lateness, pending=pending, settled=kept, meta=state.meta)


@pytest.fixture(scope="module", params=["seldom", "often"])
def compacted(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "often":
            patch.setattr(settled, "_FEW", 8)
            patch.setattr(settled, "MOST_BLOCKS", 3)
        yield


@given(steps=STEPS, lateness=st.sampled_from([0, 5, 10, 25, 10**6]))
def test_as_a_model_of_dictionaries(world: World, compacted: None, steps: list[Any], lateness: int) -> None:
    state, model = world.state(lateness), Model(world, lateness)
    for step in steps:
        if step == "rebuild":
            state = rebuilt(world, state, lateness)
        elif isinstance(step, list):
            state.add(block(world, step))
            model.add(block(world, step))
        else:
            flushes = state.close(step, world.base)
            assert [plain(flush) for flush in flushes] == model.close(step)
            for flush in flushes:
                flush.rows.validate(full=True)
        assert state.next_close() == model.next_close()
        assert state.closed_until == model.closed
        assert sum(map(len, state.pending)) == len(model.pending)
    assert newest_of(state) == model.newest


@given(
    events=st.lists(EVENTS, min_size=1, max_size=4),
    closes=st.lists(st.integers(-1, 8), max_size=6),
    data=st.data(),
)
def test_rows_are_overlaid_by_all_events_before_the_end(
    world: World, events: list[list[Event]], closes: list[int], data: st.DataObject
) -> None:
    """In any order, cut into any blocks, some twice; windows closed one by one or at once; one settled state."""
    flat = [event for some in events for event in some]
    shuffled = data.draw(st.permutations(flat + flat[::3]))
    cut = data.draw(st.integers(0, len(shuffled)))
    one, other = world.state(), world.state()
    for some in events:
        one.add(block(world, some))
    for some in (shuffled[:cut], shuffled[cut:]):
        other.add(block(world, some))
    flushes = one.close(ENDED, world.base)
    stepwise = [flush for until in sorted(closes) for flush in other.close(until * SIZE, world.base)]
    stepwise += other.close(ENDED, world.base)
    assert [plain(flush) for flush in stepwise] == [plain(flush) for flush in flushes]
    assert newest_of(one) == newest_of(other)
    for flush in flushes:
        model = Model(world, 0)
        model.add(block(world, [event for event in flat if event[3] < flush.window + SIZE]))
        model.close(ENDED)
        assert plain(flush)["rows"] == {row: model.known(row) for row in flush.rows["row"].to_pylist()}
        in_window = {world.rows[row] for row, _, _, time in flat if 0 <= time - flush.window < SIZE}
        assert flush.rows["row"].to_pylist() == sorted(in_window)


def test_late_events_make_panes_at_once_or_wait_for_the_next_window(world: World) -> None:
    state = world.state(lateness=20)
    state.add(block(world, [(0, 0, 5.0, 35)]))
    assert state.next_close() == 40
    assert [(flush.window, flush.pane, flush.late) for flush in state.close(45, world.base)] == [(30, 0, 0)]
    state.add(block(world, [(1, 0, 4.0, 9), (1, 0, 3.0, 45)]))  # its window's end was 30 ago: too late
    assert state.next_close() == 50
    state.add(block(world, [(0, 0, 1.0, 29), (0, 1, 1.0, 39)]))
    assert state.next_close() == 40
    first, second = state.close(40, world.base)
    assert (first.window, first.pane, first.late, second.window, second.pane) == (20, 1, 1, 30, 1)
    # The newer event of the pair, of 35, stays; what came late is among the pairs all the same.
    assert plain(first)["rows"][world.rows[0]][world.columns[0]] == 5
    assert first.pairs["value"].to_pylist() == [1]
    (third,) = state.close(50, world.base)
    assert (third.window, third.pane, third.late, third.revision) == (40, 0, 1, 4)
    state.add(block(world, [(0, 0, 1.0, 39)]))
    (fourth,) = state.close(50, world.base)
    assert (fourth.window, fourth.pane) == (30, 2)
    assert json.loads(state.meta)["panes"] == [[30, 2]]
    state.close(60, world.base)
    assert json.loads(state.meta)["panes"] == []


def test_a_row_of_which_all_is_taken_back_has_empty_lists(world: World) -> None:
    state = world.state()
    state.add(block(world, [(0, column, None, 5) for column in range(4)]))
    (flush,) = state.close(10, world.base)
    assert flush.rows.to_pylist() == [{"row": world.rows[0], "columns": [], "values": []}]
    assert len(flush.pairs) == 0


def test_only_what_is_new_is_written_until_a_compaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "MOST_BLOCKS", 3)
    state = world.state()
    for turn in range(3):
        before = state.settled
        state.add(block(world, [(0, 0, 1.0, turn * SIZE)]))
        state.close((turn + 1) * SIZE, world.base)
        assert state.appended
        assert all(one is other for one, other in zip(before, state.settled, strict=False))
        assert len(state.settled) == len(before) + 1
    state.add(block(world, [(0, 0, 1.0, 35)]))
    state.close(40, world.base)
    assert not state.appended
    assert (state.generation, len(state.settled), len(state.settled[0])) == (1, 1, 1)
    assert rebuilt(world, state, 0).appended


def test_a_failing_data_set_leaves_the_state_as_it_was(world: World) -> None:
    class Failing:
        def known(self, shard: int, ids: pa.Array) -> pa.RecordBatch:
            raise OSError("gone")

    state = world.state()
    state.add(block(world, [(0, 0, 1.0, 5), (0, 0, 2.0, 15)]))
    before = state.meta, state.pending, state.settled
    with pytest.raises(OSError, match="gone"):
        state.close(10, Failing())
    assert (state.meta, state.pending, state.settled) == before
    assert len(state.close(10, world.base)) == 1


def test_damaged_meta(world: World) -> None:
    with pytest.raises(ValueError, match="revision"):
        world.state(meta=b'{"closed_until": 1, "revision": "x", "generation": 0, "panes": []}')
