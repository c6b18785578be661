"""Rows that tell of what was read and written, as Beam YAML has them."""

# No `from __future__ import annotations`: Beam takes the types of rows from the annotations.

from collections.abc import Sequence
from typing import Any, NamedTuple


class BadExample(NamedTuple):
    """A record that could not be read: its file, its line in the split or its record number, why, its text."""

    file: str
    position: int
    reason: str
    text: str


class ReadSummary(NamedTuple):
    """What was read of a split of a file.

    Numbers of the file and of the split in it, counts, the first bad records; and the first and the last time of the
    ratings, where they have times.
    """

    file: int
    split: int
    lines: int
    read: int
    bad: int
    examples: Sequence[BadExample]
    first_time: int | None
    last_time: int | None


class WrittenShard(NamedTuple):
    """A shard of a whole data set: the manifest's entry for it."""

    path: str
    rows: int
    entries: int
    bytes: int
    sha256: str


def read_summary(summary: dict[str, Any]) -> ReadSummary:
    """A summary of `nnsparse_stream.ratings.dead_letters.split_outputs` as a row."""
    return ReadSummary(**{**summary, "examples": [BadExample(*example) for example in summary["examples"]]})
