"""What a stream leaves: files by window, shard and pane; what says that a window is whole; the newest lists."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming import window_files
from nnsparse_stream.streaming.events import SECOND, event_schema, known_schema
from nnsparse_stream.streaming.live_scores import Scored, live_schema
from nnsparse_stream.streaming.shard_state import Flush
from nnsparse_stream.streaming.window_files import compact, complete_window, is_complete, write_flush

PAIRS = pa.RecordBatch.from_pylist([], schema=event_schema("int64", "string"))
#: 2026-11-26T12:00:05Z
BEGIN = 1_795_694_405 * SECOND
NAME = "windows/2026-11-26T12-00-05Z"


def scored(lists: dict[int, list[str]], revision: int, step: int = 9) -> Scored:
    records = [
        {"row_id": row, "column_id": column, "score": 0.5, "rank": place + 1, "revision": revision, "model_step": step}
        for row, columns in lists.items()
        for place, column in enumerate(columns)
    ]
    return Scored(pa.Table.from_pylist(records, schema=live_schema("int64", "string", ranked=True)), 4)


def flush(
    window: int, shard: int = 7, pane: int = 0, revision: int = 1, late: int = 0, changed: Iterable[int] = ()
) -> Flush:
    rows = [{"row": row, "columns": ["x"], "values": [1.0]} for row in changed]
    known = pa.RecordBatch.from_pylist(rows, schema=known_schema("int64", "string"))
    return Flush(window, shard, pane, revision, known, PAIRS, late)


def newest(url: str) -> dict[int, tuple[int, list[str]]]:
    """Revision and columns of each row's list, in the order of the files."""
    found: dict[int, tuple[int, list[str]]] = {}
    for name in sorted(storage.list_files(url)):
        if name.endswith(".parquet"):
            for one in pq.read_table(pa.BufferReader(storage.read_file(storage.join(url, name)))).to_pylist():
                found.setdefault(one["row_id"], (one["revision"], []))[1].append(one["column_id"])
    return found


def test_a_file_is_named_by_window_shard_and_pane_and_a_retry_overwrites_it(tmp_path: Path) -> None:
    output = str(tmp_path)
    given = flush(BEGIN, pane=3, revision=6, late=2)
    write_flush(output, given, 64, scored({1: ["a"]}, 6))
    written = write_flush(output, given, 64, scored({1: ["a", "b"], 2: ["a"]}, 6))
    path = f"{NAME}/part-00007-of-00064-pane-0003.parquet"
    assert list(storage.list_files(output)) == [path]
    assert pq.read_table(tmp_path / path).equals(scored({1: ["a", "b"], 2: ["a"]}, 6).table)
    expected = {"path": path, "rows": 3, "window": BEGIN, "shard": 7, "pane": 3, "revision": 6, "late": 2, "unknown": 4}
    assert expected.items() <= written.items()
    assert written["bytes"] == (tmp_path / path).stat().st_size
    assert json.loads(json.dumps(written)) == written


def test_a_complete_window_names_the_files_of_its_first_panes_once_each(tmp_path: Path) -> None:
    output = str(tmp_path)
    written = [
        write_flush(output, flush(BEGIN, shard=shard, pane=pane), 64, scored({shard: ["a"] * shard}, 1))
        for shard, pane in ((3, 0), (2, 0), (2, 1), (0, 0))
    ]
    assert not is_complete(output, BEGIN)
    complete_window(output, BEGIN, BEGIN + 5 * SECOND, [*written, written[0]])
    first = (tmp_path / NAME / "_complete.json").read_bytes()
    complete_window(output, BEGIN, BEGIN + 5 * SECOND, reversed(written))
    assert (tmp_path / NAME / "_complete.json").read_bytes() == first
    assert is_complete(output, BEGIN)
    found = json.loads(first)
    assert [file["path"] for file in found["files"]] == [
        f"{NAME}/part-{shard:05d}-of-00064-pane-0000.parquet" for shard in (0, 2, 3)
    ]
    assert {name: found[name] for name in ("kind", "begin", "end", "rows", "unknown")} == {
        "kind": "nnsparse-stream window", "begin": BEGIN, "end": BEGIN + 5 * SECOND, "rows": 5, "unknown": 12,
    }  # fmt: skip
    assert found["files"][0]["model"] is None  # nothing was scored


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.dictionaries(st.integers(0, 5), st.sampled_from(["a", "b", "none"]))),
        min_size=1,
    )
)
def test_the_newest_list_of_each_row_is_that_of_the_highest_revision(
    flushes: list[tuple[int, dict[int, str]]],
) -> None:
    """Whatever window it is of: late events give panes of early ones. A row whose newest list is empty has none."""
    where = f"memory://streams/{uuid.uuid4().hex}"
    expected: dict[int, tuple[int, list[str]]] = {}
    for revision, (window, lists) in enumerate(flushes):
        named = {row: [] if column == "none" else [column, "z"] for row, column in lists.items()}
        given = flush(BEGIN + window * SECOND, shard=1, pane=revision, revision=revision, changed=named)
        write_flush(where, given, 2, scored(named, revision))
        expected.update({row: (revision, columns) for row, columns in named.items()})
    expected = {row: (revision, columns) for row, (revision, columns) in expected.items() if columns}
    manifest = compact(where, f"{where}/latest")
    assert newest(f"{where}/latest") == expected
    assert manifest["rows"] == 2 * len(expected)
    assert manifest["windows"] == len({window for window, _ in flushes})
    assert manifest["last_window"] == BEGIN + max(window for window, _ in flushes) * SECOND


def test_compacting_lets_replaced_lists_go_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_files, "_COMPACTED_BYTES", 1)
    for shard in (0, 1):
        for revision in range(5):
            lists = {10 * shard + row: [str(revision)] for row in range(5 - revision)}
            write_flush(str(tmp_path), flush(BEGIN, shard, revision, revision), 2, scored(lists, revision))
    compact(str(tmp_path), str(tmp_path / "latest"))
    assert newest(str(tmp_path / "latest")) == {
        10 * shard + row: (4 - row, [str(4 - row)]) for shard in (0, 1) for row in range(5)
    }
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):
        compact(str(tmp_path), str(tmp_path / "latest"))
    assert compact(str(tmp_path), str(tmp_path / "latest"), overwrite=True)["rows"] == 10


def test_of_pairs_the_newest_prediction_of_each_is_kept(tmp_path: Path) -> None:
    schema = live_schema("int64", "string", ranked=False)
    for revision, columns in ((2, "ab"), (1, "bc")):
        records = [{"row_id": 1, "column_id": c, "score": revision / 2, "revision": revision} for c in columns]
        table = pa.Table.from_pylist(records, schema=schema)
        write_flush(str(tmp_path), flush(BEGIN, pane=revision, revision=revision), 9, Scored(table, 0))
    (file,) = compact(str(tmp_path), str(tmp_path / "latest"))["files"]
    found = pq.read_table(tmp_path / "latest" / file["path"])
    assert (found["column_id"].to_pylist(), found["score"].to_pylist()) == (["a", "b", "c"], [1.0, 1.0, 0.5])


def other_shards(output: Path) -> None:
    write_flush(str(output), flush(BEGIN), 64, scored({1: ["a"]}, 1))
    write_flush(str(output), flush(BEGIN), 32, scored({1: ["a"]}, 1))


def damaged(output: Path) -> None:
    path = output / write_flush(str(output), flush(BEGIN), 64, scored({1: ["a"]}, 1))["path"]
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda output: None, "is not the output of a stream: there are no files of windows below"),
        (other_shards, r"holds files of streams with \d+ and with \d+ shards"),
        (damaged, r"part-00007-of-00064-pane-0000\.parquet is damaged"),
    ],
)
def test_what_cannot_be_compacted_is_said_and_nothing_is_left(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "output")
    with pytest.raises(InputError, match=message):
        compact(str(tmp_path / "output"), str(tmp_path / "latest"))
    assert not (tmp_path / "latest").exists()
