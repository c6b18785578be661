"""Preparation in one process: threads do its steps, and blocks wait between them in memory or in a file.

What the steps compute is in the modules that are imported here, which Beam's transforms use too. This one brings the
blocks from step to step:

1. read the splits, choose among the ratings, count the column ids, and the times where folds have shares of these;
2. merge, order and write the vocabulary;
3. partition the ratings by shard;
4. group and write the shards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import pyarrow as pa

from nnsparse_stream.data.grouping import encode_block, partition
from nnsparse_stream.data.shard_grouping import ShardGrouping
from nnsparse_stream.data.shard_steps import (
    PARTITIONED_BYTES,
    RATINGS_AT_ONCE,
    group_shard,
    shard_count,
    write_grouped,
)
from nnsparse_stream.data.threads import Threads, usable_threads
from nnsparse_stream.data.vocabulary_files import (
    IdCounts,
    cut_part,
    describe_built,
    empty_counts,
    load_base,
    load_vocabulary,
    merge_part,
    plan_layout,
    write_part,
)
from nnsparse_stream.ratings.dead_letters import split_outputs, write_letters
from nnsparse_stream.ratings.folds import Folds, TimeShares
from nnsparse_stream.ratings.input_plan import InputPlan
from nnsparse_stream.ratings.reading import Split
from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.ratings.time_counts import TimeCounter, count_times
from nnsparse_stream.storage.block_store import BlockStore


class Sizes(NamedTuple):
    """A distribution of sizes in bytes: how many, their sum, the largest."""

    number: int
    total: int
    largest: int

    @classmethod
    def of(cls, sizes: list[int]) -> Sizes:
        """The distribution of some sizes."""
        return cls(len(sizes), sum(sizes), max(sizes, default=0))

    def __str__(self) -> str:
        return f"{self.total / 1e6:,.1f} MB in {self.number:,} (largest {self.largest / 1e6:,.2f} MB)"


class Prepared(NamedTuple):
    """What a run counted and wrote; `nnsparse_stream.data.assembly.assemble_manifest` takes all but the sizes.

    Attributes:
        read: a summary of each split, see `nnsparse_stream.ratings.dead_letters.split_outputs`.
        filtered: ratings that the selection left out.
        folds: as the ratings were folded.
        vocabulary: see `nnsparse_stream.data.vocabulary_files.describe_built`.
        shards: see `nnsparse_stream.data.shard_steps.write_grouped`, one a shard.
        read_blocks, partitioned_blocks: what waited after steps 1 and 3.
    """

    read: list[dict[str, Any]]
    filtered: int
    folds: Folds | None
    vocabulary: dict[str, Any]
    shards: list[dict[str, Any]]
    read_blocks: Sizes
    partitioned_blocks: Sizes


def prepare_here(
    plan: InputPlan,
    dead_letters: str,
    url: str,
    axis: str,
    *,
    selection: Selection,
    duplicates: str,
    folds: Folds | TimeShares | None,
    num_shards: int | None,
    min_row_ratings: int,
    min_column_ratings: int,
    base: Mapping[str, Any] | None = None,
    partitions: int = 16,
    describe_pair: Callable[[Any, Any], str] | None = None,
) -> Prepared:
    """Writes all of a data set but its manifest.

    Args:
        plan: what is read.
        dead_letters: URL of the directory for records that cannot be read; it is made where there is one.
        url: the data set's directory.
        axis: "user" or "item", the axis of the rows.
        selection: which ratings stay.
        duplicates, folds, min_row_ratings: see `nnsparse_stream.data.shard_grouping.ShardGrouping`.
        num_shards: by default, as many as hold `nnsparse_stream.data.shard_steps.RATINGS_PER_SHARD` ratings each.
        min_column_ratings: columns with fewer ratings are left out.
        base: an earlier vocabulary (`nnsparse_stream.data.vocabulary_files.built_vocabulary`), which goes on.
        partitions: how many ways the counts of column ids are merged.
        describe_pair: says where a user's and an item's duplicate ratings are, for the error's message.

    Raises:
        InputError: the input is damaged; a pair is rated more than once and the policy is "error"; there is no room for
            what waits. When it is raised, nothing is being written any more.
    """
    column = "item" if axis == "user" else "user"
    with closing(BlockStore()) as store, Threads(usable_threads()) as threads:
        by_share = isinstance(folds, TimeShares)
        ratings = _read(plan, column, selection, by_share, partitions, dead_letters, store, threads)
        if isinstance(folds, TimeShares):
            folds = folds.cut(ratings.times.take())
        counts = _by_key(ratings.counts)
        id_type = getattr(plan.schema, column)
        built = _write_vocabulary(url, counts, id_type, min_column_ratings, base, store, threads)
        vocabulary = load_vocabulary(built)
        shards = shard_count(built["ratings"], num_shards)

        # Every shard has a block, so that one without a row is written too.
        empty = encode_block(plan.empty_block(), axis, vocabulary)
        waiting = {shard: [store.put(empty)] for shard in range(shards)}

        def encode_and_partition(tickets: list[int]) -> list[tuple[int, int, int]]:
            block = pa.concat_batches([store.take(ticket) for ticket in tickets])
            block = encode_block(block, axis, vocabulary, min_column_ratings > 1)
            return [(shard, store.put(piece), piece.nbytes) for shard, piece in partition(block, "row", shards)]

        sizes = []
        for pieces in threads.map(encode_and_partition, _in_groups(ratings.blocks)):
            for shard, ticket, size in pieces:
                waiting[shard].append(ticket)
                sizes.append(size)

        grouping = ShardGrouping(axis, vocabulary, duplicates, folds, min_row_ratings, RATINGS_AT_ONCE)

        def group_and_write(shard: int) -> dict[str, Any]:
            blocks = threads.while_needed(map(store.take, waiting.pop(shard)))
            return write_grouped(url, group_shard(shard, shards, blocks, grouping, describe_pair))

        written = list(threads.map(group_and_write, range(shards)))
    read_sizes = Sizes.of([size for _, size in ratings.blocks])
    summaries = ratings.outputs["summaries"]
    return Prepared(summaries, ratings.filtered, folds, built, written, read_sizes, Sizes.of(sizes))


class _Ratings:
    """What was read of some splits.

    Attributes:
        blocks: (ticket, bytes) of each block of ratings.
        ids: column ids that are counted, but not kept yet.
        times: of the ratings, where they are to be counted.
        counts: (part, ticket) of counts that are kept.
        outputs: what else `nnsparse_stream.ratings.dead_letters.split_outputs` gave, by its tag.
        filtered: ratings that the selection left out.
    """

    def __init__(self, partitions: int) -> None:
        self.ids = IdCounts(partitions)
        self.times = TimeCounter()
        self.blocks: list[tuple[int, int]] = []
        self.counts: list[tuple[int, int]] = []
        self.outputs: dict[str, list[Any]] = {"summaries": [], "letters": [], "lines": []}
        self.filtered = 0


def _read(
    plan: InputPlan,
    column: str,
    selection: Selection,
    by_share: bool,
    partitions: int,
    dead_letters: str,
    store: BlockStore,
    threads: Threads,
) -> _Ratings:
    """Reads all splits, counts the ids of a column, and the times where asked to, and writes dead letters."""

    def keep(counts: Iterable[tuple[int, pa.RecordBatch]]) -> list[tuple[int, int]]:
        return [(part, store.put(block)) for part, block in counts]

    def read(split: Split) -> _Ratings:
        some = _Ratings(partitions)
        for tag, value in threads.while_needed(split_outputs(split, plan.schema)):
            if tag != "ratings":
                some.outputs[tag].append(value)
                continue
            block = selection.filter(value)
            some.filtered += len(value) - len(block)
            if len(block):
                some.counts += keep(some.ids.add(block[column]))
                if by_share:
                    some.times.add(count_times(block["timestamp"].to_numpy()))
                some.blocks.append((store.put(block), block.nbytes))
        return some

    every = _Ratings(partitions)
    for some in threads.map(read, plan.splits):
        every.blocks += some.blocks
        every.counts += some.counts + keep(every.ids.add_counts(some.ids.take()))
        every.filtered += some.filtered
        every.times.add(some.times.take())
        for tag, values in some.outputs.items():
            every.outputs[tag] += values
        # The lines of the splits before this one are known by now.
        for letters in some.outputs["letters"]:
            write_letters(letters, dead_letters, every.outputs["lines"])
        every.outputs["letters"].clear()
    every.counts += keep(every.ids.finish())
    return every


def _write_vocabulary(
    url: str,
    counts: dict[int, list[int]],
    id_type: str,
    min_ratings: int,
    base: Mapping[str, Any] | None,
    store: BlockStore,
    threads: Threads,
) -> dict[str, Any]:
    """Writes the vocabulary of the counts, by part; returns what `describe_built` gives."""
    earlier = load_base(base)
    empty = empty_counts(id_type)

    def merge(tickets: list[int]) -> tuple[int, int, tuple[int, pa.RecordBatch]]:
        merged = merge_part(map(store.take, tickets), min_ratings, earlier)
        return store.put(merged.counts), merged.ratings, (merged.new, merged.sample)

    merged = list(threads.map(merge, counts.values()))
    layout = plan_layout([sample for *_, sample in merged], empty, earlier)

    def cut(ticket: int) -> list[tuple[int, int, int]]:
        pieces = cut_part(store.take(ticket), layout, earlier)
        return [(part, len(piece), store.put(piece)) for part, piece in pieces]

    pieces = [piece for some in threads.map(cut, [ticket for ticket, *_ in merged]) for piece in some]
    waiting = _by_key([(part, ticket) for part, _, ticket in pieces])
    sizes = [(part, size) for part, size, _ in pieces]

    def write(part: int) -> dict[str, Any]:
        return write_part(url, part, [empty, *map(store.take, waiting[part])], layout, sizes, earlier)

    files = list(threads.map(write, range(layout[0])))
    return describe_built(url, files, sum(ratings for _, ratings, _ in merged))


def _by_key(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def _in_groups(blocks: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
    """The tickets of blocks that are partitioned together."""
    group: list[int] = []
    held = 0
    for ticket, size in blocks:
        group.append(ticket)
        held += size
        if held >= PARTITIONED_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group
