"""What the fixtures of a data set and its model give, and how they are made."""

from __future__ import annotations

from typing import NamedTuple

from pipelines import cli


class Trained(NamedTuple):
    """Where a rating log, its data set, and a model of it lie."""

    log: str
    data: str
    run: str


def command(*argv: str) -> None:
    """Runs a command in this process and expects it to succeed."""
    assert cli.main(list(argv)) == 0, argv
