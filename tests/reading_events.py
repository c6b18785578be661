"""Reads a source of events to its end."""

from __future__ import annotations

from typing import Any

from nnsparse_stream.streaming.events import Letter
from nnsparse_stream.streaming.source import EventSource, Reading


def read_all(
    source: EventSource, position: str | None = None, partition: str | None = None
) -> tuple[list[Reading], list[dict[str, Any]]]:
    """The readings of a partition, by default the only one, until nothing more is there, and their events."""
    if partition is None:
        (partition,) = source.partitions()
    readings: list[Reading] = []
    position = source.begin(partition) if position is None else position
    while not readings or not readings[-1].idle:
        readings.append(source.read(partition, position))
        position = readings[-1].after
    return readings, events_of(readings)


def events_of(readings: list[Reading]) -> list[dict[str, Any]]:
    return [event for reading in readings for block in reading.events for event in block.to_pylist()]


def letters_of(readings: list[Reading]) -> list[Letter]:
    return [letter for reading in readings for letter in reading.letters]
