"""The vocabulary of a data set out of counts of ids: merged by parts, ordered by ranges, written, and opened again.

Each function is a step that takes and gives blocks of counts. Who calls them, a Beam transform or the local run, brings
the blocks of one part to one place. No step holds all ids, unless they are as few as one part holds
(`ids.vocabulary_parts.PART_IDS`).
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from nnsparse_stream.data.dataset import write_columns
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.ids.mapped_lookup import open_vocabulary
from nnsparse_stream.ids.vocabulary import (
    Vocabulary,
    columns_table,
    count_ids,
    keep_frequent,
    merge_counts,
    sort_counts,
)
from nnsparse_stream.ids.vocabulary_parts import (
    count_known,
    cut_counts,
    cut_known,
    cut_points,
    part_count,
    sample_counts,
)
from nnsparse_stream.storage import files as storage

#: Ids that are counted at once.
_COUNTED_IDS = 1 << 20
#: Counts are merged when they have this many rows.
_PENDING_ROWS = 1 << 20

#: The number of parts that are written, and the points at which the order of new ids is cut.
Layout = tuple[int, pa.RecordBatch]


class IdCounts:
    """Counts ids as they come, and gives the counts by part: a part has the ids of some hashes.

    Args:
        partitions: the number of parts.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._ids: list[pa.Array] = []
        self._counts: list[pa.RecordBatch] = []

    def add(self, ids: pa.Array) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Counts ids.

        Yields:
            (part, counts) where so many distinct ids came that they are not to be held.
        """
        self._ids.append(ids)
        if sum(map(len, self._ids)) >= _COUNTED_IDS:
            yield from self.add_counts(self.take())

    def add_counts(self, counts: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Adds what `take` gave; yields what `add` yields."""
        self._counts += counts
        if sum(map(len, self._counts)) >= _PENDING_ROWS:
            merged = merge_counts(self._counts)
            self._counts = [merged]
            # Where half of the rows were of ids that came before, there is room for more.
            if len(merged) > _PENDING_ROWS // 2:
                yield from self.finish()

    def take(self) -> list[pa.RecordBatch]:
        """The counts of what is held, which is forgotten; an id may be in several."""
        if self._ids:
            self._counts.append(count_ids(pa.chunked_array(self._ids)))
        counts, self._counts, self._ids = self._counts, [], []
        return counts

    def finish(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields (part, counts) of what is held, which is forgotten."""
        counts = self.take()
        if counts:
            yield from partition(merge_counts(counts), "id", self._partitions)


class MergedPart(NamedTuple):
    """The ids of one part.

    Attributes:
        counts: columns id and count of the ids that have enough ratings.
        ratings: of all its ids.
        new: how many of `counts` an earlier vocabulary does not hold.
        sample: of these, from `ids.vocabulary_parts.sample_counts`.
    """

    counts: pa.RecordBatch
    ratings: int
    new: int
    sample: pa.RecordBatch


def empty_counts(id_type: str) -> pa.RecordBatch:
    """Counts of no ids; `id_type` is "int64" or "string"."""
    return count_ids(pa.array([], type=pa.int64() if id_type == "int64" else pa.string()))


def merge_part(counts: Iterable[pa.RecordBatch], min_ratings: int, base: Vocabulary | None) -> MergedPart:
    """Merges the counts of one part.

    Args:
        counts: all that were given for the part; one at least.
        min_ratings: ids with fewer are left out.
        base: an earlier vocabulary, whose ids keep their indices.
    """
    merged = merge_counts(counts)
    kept = keep_frequent(merged, min_ratings)
    new = cut_known(kept, base)[1] if base else kept
    return MergedPart(kept, sum(merged["count"].to_numpy().tolist()), len(new), sample_counts(new))


def plan_layout(
    samples: Iterable[tuple[int, pa.RecordBatch]], empty: pa.RecordBatch, base: Vocabulary | None
) -> Layout:
    """Plans the parts that are written: first those of the earlier vocabulary, then ranges of the order of new ids.

    Args:
        samples: `new` and `sample` of all merged parts.
        empty: from `empty_counts`.
        base: the earlier vocabulary.
    """
    found = list(samples)
    new, known = sum(rows for rows, _ in found), len(base) if base else 0
    points = cut_points([empty, *(sample for _, sample in found)], new, known)
    return part_count(known) + (len(points) + 1 if new or not known else 0), points


def cut_part(counts: pa.RecordBatch, layout: Layout, base: Vocabulary | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts the counts of a merged part; yields (part that is written, counts of its ids)."""
    before = 0
    if base:
        known, counts = cut_known(counts, base)
        before = part_count(len(base))
        yield from known
    for part, block in cut_counts(counts, layout[1]):
        yield before + part, block


def write_part(
    url: str,
    part: int,
    counts: Iterable[pa.RecordBatch],
    layout: Layout,
    sizes: Iterable[tuple[int, int]],
    base: Vocabulary | None,
) -> dict[str, Any]:
    """Orders one part of the vocabulary and writes it.

    Args:
        url: the data set's directory.
        part: which.
        counts: all that `cut_part` gave for it, and one of no ids.
        layout: from `plan_layout`.
        sizes: (part, number of ids) of everything that `cut_part` gave.
        base: the earlier vocabulary.

    Returns:
        `part`, and `file`, the manifest's entry.
    """
    known = part_count(len(base)) if base else 0
    if base and part < known:
        ordered, first = count_known(counts, base, part)
    else:
        ordered = sort_counts(pa.concat_batches(list(counts)))
        first = (len(base) if base else 0) + sum(size for of, size in sizes if known <= of < part)
    file = write_columns(url, part, layout[0], columns_table(ordered["id"], ordered["count"], first))
    return {"part": part, "file": dataclasses.asdict(file)}


def describe_built(url: str, parts: Iterable[Mapping[str, Any]], ratings: int) -> dict[str, Any]:
    """A vocabulary that was written: `url` of the data set, `files` (the manifest's entries) and `ratings` counted."""
    ordered = sorted(parts, key=lambda written: written["part"])
    return {"url": url, "files": [written["file"] for written in ordered], "ratings": ratings}


def built_vocabulary(url: str, manifest: Manifest) -> dict[str, Any]:
    """The vocabulary of a data set at a URL, as `describe_built` gives it."""
    files = [dataclasses.asdict(file) for file in manifest.columns]
    return {"url": url, "files": files, "ratings": manifest.records["read"] - manifest.records["bad"]}


def load_vocabulary(built: Mapping[str, Any]) -> Vocabulary:
    """Opens a vocabulary of `describe_built`: once a process, however many ask for it.

    One of many ids lies in a file that the processes of the machine share; see `nnsparse_stream.ids.mapped_lookup`.
    """
    files = built["files"]
    urls = tuple(storage.join(built["url"], file["path"]) for file in files)
    with _loading:  # threads of one process may ask at once
        return _load(urls, tuple(file["sha256"] for file in files), sum(file["rows"] for file in files))


def load_base(built: Mapping[str, Any] | None) -> Vocabulary | None:
    """Opens the vocabulary that another goes on from; None where there is none."""
    return load_vocabulary(built) if built else None


_loading = threading.Lock()


# Two: the one that is made, and the one that it goes on from.
@functools.lru_cache(maxsize=2)
def _load(urls: tuple[str, ...], sha256: tuple[str, ...], num_ids: int) -> Vocabulary:
    return open_vocabulary(urls, sha256, num_ids)
