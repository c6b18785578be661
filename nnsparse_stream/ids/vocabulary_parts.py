"""The order of a vocabulary of any size: counts of ids cut to ranges that are sorted apart, by points from a sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from nnsparse_stream.ids.hashing import hash_ids
from nnsparse_stream.ids.vocabulary import Vocabulary, check_number, merge_counts, sort_counts

#: Ids of one part of a vocabulary, about: at 16 to 40 bytes an id, what a worker sorts takes some 40 MB.
PART_IDS = 1 << 20
#: The points at which the order is cut are taken from one id in so many.
SAMPLED_ONE_IN = 1 << 10


def sample_counts(counts: pa.RecordBatch) -> pa.RecordBatch:
    """The counts of a sample of the ids, chosen by their hashes: the same however the ids are spread over workers.

    Args:
        counts: columns id and count, from `vocabulary.merge_counts`.
    """
    # Not the bits that decide which worker merges an id.
    chosen = (hash_ids(counts["id"]) >> np.uint64(32)) % np.uint64(SAMPLED_ONE_IN) == 0
    return counts.filter(pa.array(chosen))


def cut_points(samples: Iterable[pa.RecordBatch], total: int, known: int = 0) -> pa.RecordBatch:
    """Where the order of all ids is cut.

    Args:
        samples: from `sample_counts`, of all ids together; one at least, maybe empty.
        total: number of all ids.
        known: number of the ids that come before them.

    Returns:
        Columns id and count, ordered: the first id of each part but the first. None where `total` fits in one part.

    Raises:
        InputError: there are more ids than a column index can hold.
    """
    check_number(known + total)
    ordered = sort_counts(merge_counts(samples))
    parts = max(1, -(-total // PART_IDS))
    places = np.unique(np.arange(1, parts) * len(ordered) // parts)
    return ordered.take(pa.array(places[places < len(ordered)]))


def cut_counts(counts: pa.RecordBatch, points: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts counts to ranges of the vocabulary's order.

    Args:
        counts: columns id and count, any ids.
        points: from `cut_points`.

    Yields:
        (part, the counts of its range, in order), parts ascending, empty ones left out.
    """
    both = pa.concat_batches([points, counts])
    # A point sorts before the id that it is, so the points before an id are the parts before its own.
    is_id = pa.array(np.arange(len(both)) >= len(points))
    both = both.append_column("is_id", is_id)
    keys = [("count", "descending"), ("id", "ascending"), ("is_id", "ascending")]
    ordered = both.sort_by(keys)
    at = np.flatnonzero(~ordered["is_id"].to_numpy(zero_copy_only=False))
    ordered = ordered.select(["id", "count"])
    bounds = [-1, *at.tolist(), len(ordered)]
    for part in range(len(bounds) - 1):
        first, last = bounds[part] + 1, bounds[part + 1]
        if last > first:
            yield part, ordered.slice(first, last - first)


def cut_known(counts: pa.RecordBatch, base: Vocabulary) -> tuple[list[tuple[int, pa.RecordBatch]], pa.RecordBatch]:
    """Tells apart the counts of ids that an earlier vocabulary holds, and those of new ones.

    Args:
        counts: columns id and count.
        base: the earlier vocabulary.

    Returns:
        (part, counts) of the ids that it holds, where a part is `PART_IDS` of its indices; and the counts of new ids.
    """
    index = base.encode(counts["id"])
    part_of = index // PART_IDS
    known = [(part, counts.filter(pa.array(part_of == part))) for part in np.unique(part_of[index >= 0]).tolist()]
    return known, counts.filter(pa.array(index < 0))


def count_known(counts: Iterable[pa.RecordBatch], base: Vocabulary, part: int) -> tuple[pa.RecordBatch, int]:
    """A part of an earlier vocabulary with new counts, 0 where an id no longer occurs.

    Args:
        counts: from `cut_known`, each id once.
        base: the earlier vocabulary.
        part: which of its parts.

    Returns:
        Columns id and count, ids in the order of their indices; and the first of these indices.
    """
    first = part * PART_IDS
    ids = base.decode(np.arange(first, min(first + PART_IDS, len(base))))
    total = np.zeros(len(ids), dtype=np.int64)
    for block in counts:
        total[base.encode(block["id"]) - first] = block["count"].to_numpy()
    return pa.record_batch([ids, pa.array(total)], names=["id", "count"]), first


def part_count(ids: int) -> int:
    """How many parts an earlier vocabulary of so many ids is cut to."""
    return -(-ids // PART_IDS)
