"""What events are read from: partitions, each an order of records that only grows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import pyarrow as pa

from nnsparse_stream.streaming.events import Letter


class Reading(NamedTuple):
    """What was read of a partition from a position on.

    Attributes:
        events: blocks of `events.event_schema`, in the partition's order; together of at most about `BLOCK_BYTES`.
        letters: records that are no events.
        after: the position behind what was read; the one that was asked for where nothing was there.
        watermark: microseconds since 1970; no event of an earlier time is expected behind `after`, though one may come.
        idle: whether nothing more was there.
    """

    events: list[pa.RecordBatch]
    letters: list[Letter]
    after: str
    watermark: int
    idle: bool


class EventSource(ABC):
    """Where events come from. It travels to workers: what is opened is opened there, on first use, and not pickled.

    A position is a text (JSON) that says all that is needed to go on, in another process, after a kill: reading from
    it again gives the same records, in the same order, and maybe more of them.
    """

    @abstractmethod
    def partitions(self) -> list[str]:
        """The partitions, each named by a text; they do not change."""

    @abstractmethod
    def begin(self, partition: str) -> str:
        """The position of a partition's first record."""

    @abstractmethod
    def read(self, partition: str, position: str) -> Reading:
        """Reads what is there from a position on, at most some megabytes; it does not wait for more.

        Where nothing more is there (`idle`), the watermark moves on with the clock, less the time that events may come
        out of order; before that it follows the events' own times, never the clock.

        Raises:
            InputError: what is there cannot be read at all: another format, columns that are missing.
            StoreError: a store, a broker or the network failed.
        """
