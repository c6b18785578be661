"""The steps from blocks of ratings to the shards of a data set: partition by shard, group, write.

Each function is a step that takes and gives blocks. Who calls them, a Beam transform or the local run, brings the
blocks of one shard to one place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from nnsparse_stream.data.dataset import write_shard
from nnsparse_stream.data.grouping import DuplicateRatingError
from nnsparse_stream.data.shard_grouping import ShardGrouping
from nnsparse_stream.data.statistics import RatingStatistics
from nnsparse_stream.errors import InputError

#: Ratings of one shard, by default. At 16 to 24 bytes a rating, what is grouped under one key stays near 10 MB, which
#: every engine sorts in memory.
RATINGS_PER_SHARD = 500_000
#: Ratings that are grouped at once, at some 100 bytes each with what sorting takes. A shard has more where a row is
#: heavy or few shards were asked for; it is grouped in parts.
RATINGS_AT_ONCE = 1 << 21
#: Ratings that are partitioned at once, so that the pieces do not become tiny where shards are many.
PARTITIONED_BYTES = 24 << 20


class GroupedShard(NamedTuple):
    """A shard before it is written.

    Attributes:
        shard, num_shards: which of how many.
        rows: as `nnsparse_stream.data.grouping.group_rows` gives them.
        merged, filtered: ratings merged away, and left out.
    """

    shard: int
    num_shards: int
    rows: pa.RecordBatch
    merged: int
    filtered: int


def shard_count(ratings: int, wanted: int | None) -> int:
    """The number of shards: the one wanted, or one for every `RATINGS_PER_SHARD` ratings."""
    return wanted or max(1, -(-ratings // RATINGS_PER_SHARD))


def group_shard(
    shard: int,
    num_shards: int,
    blocks: Iterable[pa.RecordBatch],
    grouping: ShardGrouping,
    describe_pair: Callable[[Any, Any], str] | None = None,
) -> GroupedShard:
    """Groups the ratings of one shard to rows.

    Args:
        shard, num_shards: which of how many.
        blocks: all encoded blocks of the shard; one at least, maybe empty.
        grouping: how.
        describe_pair: says where a user's and an item's duplicate ratings are, for the error's message.

    Raises:
        InputError: a pair is rated more than once and the policy is "error".
    """
    try:
        rows, merged, filtered = grouping.group(blocks)
    except DuplicateRatingError as error:
        where = f": {describe_pair(error.user, error.item)}" if describe_pair else ""
        raise InputError(
            f"{error}{where}; pass `duplicates` first, last or mean, or remove one; where such records are "
            "interactions, as clicks or plays, pass `feedback` implicit"
        ) from error
    return GroupedShard(shard, num_shards, rows, merged, filtered)


def write_grouped(url: str, grouped: Sequence[Any]) -> dict[str, Any]:
    """Writes a shard, whole: what a retry writes has the same name and the same bytes.

    Args:
        url: the data set's directory; shards go to `rows/`.
        grouped: the fields of a `GroupedShard`.

    Returns:
        `shard`, `file` (the manifest's entry), `merged` and `filtered`, and `statistics` (the fields of
        RatingStatistics).
    """
    shard, num_shards, rows, merged, filtered = grouped
    statistics = RatingStatistics.of(rows)
    return {
        "shard": shard,
        "file": dataclasses.asdict(write_shard(url, shard, num_shards, rows)),
        "merged": merged,
        "filtered": filtered,
        "statistics": [list(statistics.fold_entries), *statistics[1:]],
    }
