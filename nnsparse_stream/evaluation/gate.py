"""Whether a new model may take an older one's place: by its figures, none of which may fall too far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnsparse_stream.evaluation.metrics import parse_metric


@dataclass(frozen=True)
class Compared:
    """A metric of a new model beside that of the one before it.

    Attributes:
        metric: its name.
        now: of the new model; None where nothing was judged.
        before: of the other one; None where there is none.
        limit: by how much it may be worse.
        passed: whether it is not worse by more.
    """

    metric: str
    now: float | None
    before: float | None
    limit: float
    passed: bool


def compare_models(
    limits: Mapping[str, float], now: Mapping[str, float | None], before: Mapping[str, float | None]
) -> list[Compared]:
    """Compares the figures of two models.

    Args:
        limits: by how much the metrics of these names may be worse.
        now: the new model's figures; a metric that is not there, or None, does not pass.
        before: those of the model before it. Where it has none of a metric, there is nothing to be worse than.
    """
    return [_compared(name, limit, now.get(name), before.get(name)) for name, limit in limits.items()]


def _compared(name: str, limit: float, now: float | None, before: float | None) -> Compared:
    if now is None or before is None:
        return Compared(name, now, before, limit, now is not None)
    bound = before - limit if parse_metric(name).higher_is_better else before + limit
    return Compared(name, now, before, limit, not parse_metric(name).is_better(bound, now))


def told(compared: Sequence[Compared]) -> list[str]:
    """A line for each metric that has fallen too far."""
    return [
        f"{one.metric} could not be judged"
        if one.now is None
        else f"{one.metric} went from {one.before:.4f} to {one.now:.4f}, and may be worse by {one.limit:g}"
        for one in compared
        if not one.passed
    ]
