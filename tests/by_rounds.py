"""Training in rounds in this process, by the functions alone, with what may go wrong between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from nnsparse_stream.rounds.round_epochs import finish_epoch
from nnsparse_stream.rounds.round_worker import HELD, judge_share, train_round
from nnsparse_stream.rounds.rounds import (
    begin_rounds,
    complete_rounds,
    finish_round,
    merge_round,
    open_rounds,
    survey_rows,
)
from nnsparse_stream.training.run import TrainingRequest


def train_in_rounds(
    request: TrainingRequest,
    job: str = "one",
    until: int | None = None,
    order: Callable[[Sequence[int]], Sequence[int]] = list,
    forget: bool = False,
) -> dict[str, Any]:
    """A run in rounds, from wherever it is, as an engine would have it made.

    Args:
        request: the run.
        job: that trains.
        until: the last round; all where None.
        order: in which a step's workers, or parts, come.
        forget: whether processes keep no worker between rounds.
    """
    open_rounds(request, job)
    workers = order(range(request.workers))
    begin_rounds(request, [told(survey_rows(request, worker, job)) for worker in workers], job)
    of_epoch = request.rounds_of_epoch
    assert of_epoch is not None
    last = request.recipe.all_epochs * of_epoch
    for number in range(1, (last if until is None else until) + 1):
        one_round(request, number, job, order, forget)
        if number % of_epoch == 0:
            end_of_epoch(request, number, job, order, forget)
    return complete_rounds(request, job)


def one_round(
    request: TrainingRequest,
    number: int,
    job: str,
    order: Callable[[Sequence[int]], Sequence[int]] = list,
    forget: bool = False,
) -> None:
    """One round up to its checkpoint."""
    trained = []
    for worker in order(range(request.workers)):
        trained.append(told(train_round(request, number, worker, job)))
        if forget:
            HELD.forget(request.output)
    parts = len(trained[0]["changes"]) if trained[0] else 1
    merged = [merge_of(request, number, part, trained, job) for part in order(range(parts))]
    finish_round(request, number, merged, job)


def merge_of(request: TrainingRequest, number: int, part: int, trained: Sequence[Any], job: str) -> Any:
    """The merge of a part, of what the workers told."""
    heard = [one and {**one, "change": one["changes"][part]} for one in trained]
    return told(merge_round(request, number, part, heard, job))


def end_of_epoch(
    request: TrainingRequest,
    number: int,
    job: str,
    order: Callable[[Sequence[int]], Sequence[int]] = list,
    forget: bool = False,
) -> None:
    """Judges the epoch that ends with a round, and ends it."""
    judged = []
    for worker in order(range(request.workers)):
        judged += told(judge_share(request, number, worker, job))
        if forget:
            HELD.forget(request.output)
    finish_epoch(request, number, judged, job)


def told(value: Any) -> Any:
    """What arrives of what is told: engines carry it as JSON."""
    return json.loads(json.dumps(value))
