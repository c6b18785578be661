"""How many ratings there are by time, in bounded memory: counts that add up, from which the latest share is cut."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

#: Counts of so many bins of time are held at most: 256 KB, so that what a runner groups of them stays small.
MOST_BINS = 1 << 14
#: Counts are added up when they are so many.
_PENDING = 16

#: How far times are shifted to the right, and the bins that this gives: a block of the columns bin (int64, ascending)
#: and count (int64).
TimeCounts = tuple[int, pa.RecordBatch]


def count_times(times: np.ndarray) -> TimeCounts:
    """Counts times, int64 (n,)."""
    return _widened(0, *np.unique(times, return_counts=True))


def add_times(parts: Iterable[TimeCounts]) -> TimeCounts:
    """Adds up counts.

    The bins are the narrowest, 2^shift long, of which there are `MOST_BINS` at most over all times. Those of a part are
    never wider than those of the whole, so the sum does not depend on how the times were cut into parts, nor on their
    order; each count is exact.
    """
    found = list(parts)
    shift = max((part[0] for part in found), default=0)
    none = np.zeros(0, dtype=np.int64)
    bins = np.concatenate([none, *(part[1]["bin"].to_numpy() >> (shift - part[0]) for part in found)])
    counts = np.concatenate([none, *(part[1]["count"].to_numpy() for part in found)])
    return _widened(shift, *_joined(bins, counts))


class TimeCounter:
    """Adds up counts as they come.

    Args:
        parts: the first of them.
    """

    def __init__(self, parts: Iterable[TimeCounts] = ()) -> None:
        self._parts: list[TimeCounts] = []
        for part in parts:
            self.add(part)

    def add(self, part: TimeCounts) -> None:
        """Adds what `count_times` or `take` gave."""
        self._parts.append(part)
        if len(self._parts) >= _PENDING:
            self._parts = [add_times(self._parts)]

    def take(self) -> TimeCounts:
        """The counts of all that came."""
        return add_times(self._parts)


def latest_from(counts: TimeCounts, percent: float) -> int:
    """The time from which on there is this share of all times, or more by the others of the bin that it begins in.

    Args:
        counts: of one time at least.
        percent: more than 0, at most 100.
    """
    shift, block = counts
    latest = np.cumsum(block["count"].to_numpy()[::-1])
    place = int(np.searchsorted(latest, percent / 100 * latest[-1]))
    return int(block["bin"][len(block) - 1 - min(place, len(block) - 1)].as_py()) << shift


def _widened(shift: int, bins: np.ndarray, counts: np.ndarray) -> TimeCounts:
    while len(bins) > MOST_BINS:
        shift += 1
        bins, counts = _joined(bins >> 1, counts)
    return shift, pa.record_batch({"bin": bins.astype(np.int64), "count": counts.astype(np.int64)})


def _joined(bins: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins in any order, maybe several times, and their counts: each once, ascending."""
    order = np.argsort(bins, kind="stable")
    bins = bins[order]
    starts = np.flatnonzero(np.diff(bins, prepend=bins[:1] - 1)) if len(bins) else np.zeros(0, dtype=np.int64)
    return bins[starts], np.add.reduceat(counts[order], starts) if len(bins) else counts
