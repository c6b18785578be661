"""Beam's metrics of a finished run, summed over its steps, for the report."""

from __future__ import annotations

from typing import Any, NamedTuple

_NAMESPACE = "ratings"


class Sizes(NamedTuple):
    """A distribution of sizes in bytes: how many, their sum, the largest."""

    number: int
    total: int
    largest: int

    def __str__(self) -> str:
        return f"{self.total / 1e6:,.1f} MB in {self.number:,} (largest {self.largest / 1e6:,.2f} MB)"


def sizes(result: Any) -> dict[str, Sizes]:
    """The distributions of a finished pipeline by their name; none where the runner has no metrics to give."""
    try:
        found = result.metrics().query()["distributions"]
    except Exception:  # whatever a remote engine answers, the output is whole
        return {}
    merged: dict[str, Sizes] = {}
    for metric in found:
        name, value = metric.key.metric.name, metric.result
        if metric.key.metric.namespace == _NAMESPACE and value is not None and value.count:
            before = merged.get(name, Sizes(0, 0, 0))
            merged[name] = Sizes(before.number + value.count, before.total + value.sum, max(before.largest, value.max))
    return merged
