"""Beam's metrics of a finished run, summed over its steps, for the report."""

from __future__ import annotations

from typing import Any

from nnsparse_stream.data.local_run import Sizes

_NAMESPACE = "ratings"


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
