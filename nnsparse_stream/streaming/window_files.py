"""What a stream writes: files of scores by window, shard and pane, what says that a window is whole; latest lists."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError
from nnsparse_stream.scoring.files import write_scores, write_tables
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.output_directory import OutputDirectory
from nnsparse_stream.streaming.live_scores import Scored
from nnsparse_stream.streaming.shard_state import Flush
from nnsparse_stream.streaming.windows import Windows

WINDOW_KIND = "nnsparse-stream window"
LATEST_KIND = "nnsparse-stream latest scores"
SCHEMA_VERSION = 1
#: Where, in the output, the windows' files lie.
WINDOWS = "windows"
#: In a window's directory: says that its watermark has passed. Readers of Parquet files pass over such names.
COMPLETE = "_complete.json"
#: The file that completes what `compact` writes.
LATEST = "_manifest.json"
#: In the metadata of a window's file where a row's list is empty, as it knows all that could be listed: JSON with
#: `rows`, their ids, and `revision`. An entry of the table would be one more than there are lists.
EMPTY_LISTS = b"empty_lists"

_PART = re.compile(r"([^/]+)/part-(\d{5,})-of-(\d{5,})-pane-(\d{4,})\.parquet")
# Scores that are read before those that newer ones have replaced are let go.
_COMPACTED_BYTES = 64 << 20


def flush_path(flush: Flush, num_shards: int) -> str:
    """Where the scores of a flush lie, relative to the output."""
    name = f"part-{flush.shard:05d}-of-{num_shards:05d}-pane-{flush.pane:04d}.parquet"
    return storage.join(WINDOWS, Windows.name(flush.window), name)


def write_flush(output: str, flush: Flush, num_shards: int, scored: Scored) -> dict[str, Any]:
    """Writes the scores of a flush, whole, under a name that its window, shard and pane make: a retry overwrites it.

    Args:
        output: URL of the stream's output.
        flush: what was scored.
        num_shards: of the stream.
        scored: its scores.

    Returns:
        What `complete_window` wants to know: `path` (relative to the output), `rows` (of the file) and `bytes`,
        `window`, `shard`, `pane`, `revision`, `lists` (how many rows had changed), `late` (events), `unknown` (known
        entries of columns that the model does not know), `model_step` and `model` (None where nothing is scored).
    """
    path = flush_path(flush, num_shards)
    table = scored.table
    return {
        "path": path,
        **write_tables(storage.join(output, path), [table], _schema_of(flush, table)),
        "window": flush.window,
        "shard": flush.shard,
        "pane": flush.pane,
        "revision": flush.revision,
        "lists": len(flush.rows),
        "late": flush.late,
        "unknown": scored.unknown,
        **{of: table[of][0].as_py() if len(table) else None for of in ("model_step", "model")},
    }


def _schema_of(flush: Flush, table: pa.Table) -> pa.Schema:
    """The schema of a flush's file, which names the rows whose lists are empty."""
    if "rank" not in table.schema.names:
        return table.schema
    empty = flush.rows["row"].filter(pc.invert(pc.is_in(flush.rows["row"], value_set=table["row_id"])))
    if not len(empty):
        return table.schema
    told = {"rows": sorted(empty.to_pylist()), "revision": flush.revision}
    return table.schema.with_metadata({EMPTY_LISTS: json.dumps(told).encode()})


def complete_window(output: str, window: int, end: int, written: Iterable[dict[str, Any]]) -> None:
    """Says, in `_complete.json`, that a window is whole: its watermark has passed, and its first panes are written.

    Events that come later make further panes, whose files stand beside those that are named here.

    Args:
        output: URL of the stream's output.
        window, end: its bounds, microseconds since 1970.
        written: what `write_flush` told of the window's files, in any order, one that was written again any number of
            times; those of later panes are not named. None where nothing happened in the window.
    """
    files = {file["path"]: file for file in written if file["pane"] == 0}
    named = ("path", "rows", "bytes", "shard", "revision", "lists", "unknown", "model_step", "model")
    held = [{name: files[path][name] for name in named} for path in sorted(files)]
    value = {
        "kind": WINDOW_KIND,
        "schema_version": SCHEMA_VERSION,
        "begin": window,
        "end": end,
        "files": held,
        **{name: sum(file[name] for file in held) for name in ("rows", "lists", "unknown")},
    }
    storage.write_file(_complete_file(output, window), storage.to_json(value))


def is_complete(output: str, window: int) -> bool:
    """Whether `complete_window` was called for the window that begins then."""
    return storage.exists(_complete_file(output, window))


def completed_files(output: str, window: int) -> list[dict[str, Any]]:
    """The files that a window's `_complete.json` names, as `complete_window` takes them; none where there is none."""
    if not is_complete(output, window):
        return []
    held = storage.read_json(_complete_file(output, window), "a window's files")
    return [{**file, "pane": 0} for file in held["files"]]


def _complete_file(output: str, window: int) -> str:
    return storage.join(output, WINDOWS, Windows.name(window), COMPLETE)


def compact(output: str, to: str, overwrite: bool = False) -> dict[str, Any]:
    """Writes the newest list of each row, over all windows that lie there: of pairs the newest prediction of each.

    That is the one of the highest revision. A row whose newest list is empty, as it knows all that could be listed, is
    not among them. A shard's newest lists are held at once, and some 64 MB beside them.

    Args:
        output: URL of a stream's output; the stream may go on meanwhile, or not.
        to: URL of the directory that receives `part-*.parquet`, with the columns that a window's files have, ascending
            by row, and `_manifest.json`.
        overwrite: whether what an earlier call wrote there is replaced.

    Returns:
        What `_manifest.json` holds: `files`, `rows` (of these), `windows` (how many), `last_window` (its begin).

    Raises:
        InputError: there are no windows' files, one is damaged, or `to` holds something else.
    """
    where = storage.join(output, WINDOWS)
    names = storage.list_files(where) if storage.is_directory(where) else {}
    parts = [found for name in sorted(names) if (found := _PART.fullmatch(name))]
    if not parts:
        raise InputError(f"{output} is not the output of a stream: there are no files of windows below {where}")
    by_shard: dict[int, list[str]] = defaultdict(list)
    for part in parts:
        by_shard[int(part[2])].append(storage.join(where, part[0]))
    (num_shards, *others) = {int(part[3]) for part in parts}
    if others:
        raise InputError(
            f"{where} holds files of streams with {num_shards} and with {others[0]} shards: name one's output"
        )
    directory = OutputDirectory(to, contents=("part-#-of-#.parquet",), completing=LATEST, overwrite=overwrite)
    directory.check()
    directory.begin()
    try:
        files = []
        for shard, urls in sorted(by_shard.items()):
            table = _newest_of(urls)
            files.append(write_scores(to, shard, num_shards, [table], table.schema))
    except BaseException:
        directory.abort()
        raise
    windows = {part[1] for part in parts}
    manifest = {
        "kind": LATEST_KIND,
        "schema_version": SCHEMA_VERSION,
        "files": files,
        "rows": sum(file["rows"] for file in files),
        "windows": len(windows),
        "last_window": max(Windows.begin_of_name(name) for name in windows),
    }
    directory.complete(storage.to_json(manifest))
    return manifest


def _newest_of(urls: list[str]) -> pa.Table:
    """The newest scores of the rows of one shard."""
    held: list[pa.Table] = []
    last = 0
    for url in urls:
        held.append(_read(url))
        if sum(table.nbytes for table in held) > last + _COMPACTED_BYTES:
            held = [_newest(pa.concat_tables(held))]
            last = held[0].nbytes
    newest = _newest(pa.concat_tables(held))
    return newest.filter(newest["column_id"].is_valid()).sort_by(
        [("row_id", "ascending"), ("rank" if "rank" in newest.schema.names else "column_id", "ascending")]
    )


def _newest(table: pa.Table) -> pa.Table:
    """Those entries of a table of scores that are of the highest revision of their row, or of their pair."""
    key = _codes(table["row_id"])
    if "rank" not in table.schema.names:
        column = _codes(table["column_id"])
        _, key = np.unique(key * (int(column.max(initial=0)) + 1) + column, return_inverse=True)
    revision = table["revision"].to_numpy()
    highest = np.full(int(key.max(initial=-1)) + 1, -1, dtype=np.int64)
    np.maximum.at(highest, key, revision)
    return table.filter(pa.array(highest[key] == revision))


def _codes(ids: pa.ChunkedArray) -> np.ndarray:
    return ids.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _read(url: str) -> pa.Table:
    """A window's file, with an entry without a column for each list that is empty."""
    data = storage.read_file(url)
    try:
        # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        told = (table.schema.metadata or {}).get(EMPTY_LISTS)
        table = table.replace_schema_metadata()
        if told is None:
            return table
        empty = json.loads(told)
        entries = [{"row_id": row, "revision": empty["revision"]} for row in empty["rows"]]
        return pa.concat_tables([table, pa.Table.from_pylist(entries, schema=table.schema)])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{url} is damaged ({storage.one_line(error)}): remove it, or run the stream again") from error
