"""What is known of rows at the ends of windows: the data set's ratings, overlaid by the events that are newest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nnsparse_stream.ids.ranks import rank_ids
from nnsparse_stream.streaming.events import known_schema
from nnsparse_stream.streaming.settled import newest, ranges, values_of

#: The time of a rating of the data set: before all events.
_BEFORE = np.iinfo(np.int64).min


class Changed(NamedTuple):
    """The rows that changed in a window, as `shard_state.Flush` has them.

    Attributes:
        window: its begin, microseconds since 1970.
        rows: `events.known_schema`.
        pairs: `events.event_schema`.
    """

    window: int
    rows: pa.RecordBatch
    pairs: pa.RecordBatch


def changed_rows(
    events: pa.RecordBatch, begins: np.ndarray, settled: pa.RecordBatch, base: pa.RecordBatch
) -> list[Changed]:
    """Overlays the ratings of a data set by events, window by window; all windows in one go.

    Args:
        events: of some windows, in any order; one at least.
        begins: int64 (n,), the begin of the window of each.
        settled: earlier events of the same rows, and of no others.
        base: the data set's ratings of these rows, `events.known_schema`.

    Returns:
        For each window, ascending, its rows as they are known from `base`, `settled` and the events of this window and
        of those before it.
    """
    lists = base["columns"]
    row_ids, rows = rank_ids(pa.concat_arrays([events["row"], settled["row"], base["row"]]))
    column_ids, columns = rank_ids(pa.concat_arrays([events["column"], settled["column"], lists.flatten()]))
    of_base = len(events) + len(settled)
    rows = np.concatenate([rows[:of_base], np.repeat(rows[of_base:], lists.value_lengths().to_numpy())])
    added = len(rows) - of_base
    values = np.concatenate([values_of(events), values_of(settled), base["values"].flatten().to_numpy()])
    times = np.concatenate([events["time"].to_numpy(), settled["time"].to_numpy(), np.full(added, _BEFORE)])
    window_begins, windows = np.unique(begins, return_inverse=True)
    since = np.concatenate([windows, np.full(len(rows) - len(events), -1)])

    # A row in a window: what is to be known. They ascend by window, then by row.
    wanted, wanted_of = np.unique(windows * len(row_ids) + rows[: len(events)], return_inverse=True)
    wanted_windows, wanted_rows = np.divmod(wanted, len(row_ids))
    entries, entry_of = _entries(rows, len(row_ids), wanted_rows)
    there = since[entries] <= wanted_windows[entry_of]
    entries, entry_of = entries[there], entry_of[there]
    bound = len(wanted) * len(column_ids)
    kept = newest(entry_of * len(column_ids) + columns[entries], bound, times[entries], values[entries])
    kept = kept[~np.isnan(values[entries[kept]])]
    ends = np.cumsum(np.bincount(entry_of[kept], minlength=len(wanted)))
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    known_ids, known_values = column_ids.take(pa.array(columns[entries[kept]])), values[entries[kept]]

    rated = newest(wanted_of * len(column_ids) + columns[: len(events)], bound, times, values)
    rated = rated[~np.isnan(values[rated])]
    pairs = events.take(pa.array(rated))
    ids = row_ids.take(pa.array(wanted_rows))
    schema = known_schema(*(str(kind) for kind in (row_ids.type, column_ids.type)))
    changed = []
    row_ends = np.cumsum(np.bincount(wanted_windows))
    pair_ends = np.cumsum(np.bincount(windows[rated], minlength=len(window_begins)))
    for window, begin in enumerate(window_begins.tolist()):
        first, end = (row_ends[window - 1] if window else 0), row_ends[window]
        low, high = offsets[first], offsets[end]
        # Lists of their own, not slices of all: a slice's `values` and `offsets` are those of the whole.
        at = pa.array(offsets[first : end + 1] - low)
        arrays = [
            ids.slice(first, end - first),
            pa.ListArray.from_arrays(at, known_ids.slice(low, high - low)),
            pa.ListArray.from_arrays(at, pa.array(known_values[low:high])),
        ]
        first = pair_ends[window - 1] if window else 0
        rows_then = pa.record_batch(arrays, schema=schema)
        changed.append(Changed(begin, rows_then, pairs.slice(first, pair_ends[window] - first)))
    return changed


def _entries(rows: np.ndarray, num_rows: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entries of rows that are wanted, maybe one row several times.

    Args:
        rows: int64 (n,), the row of each entry.
        num_rows: how many rows there are.
        wanted: int64 (w,), rows.

    Returns:
        int64 (m,), (m,): places of entries, and of what is wanted.
    """
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=num_rows)
    starts = np.cumsum(counts) - counts
    return order[ranges(starts[wanted], counts[wanted])], np.repeat(np.arange(len(wanted)), counts[wanted])
