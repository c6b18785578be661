"""The end of an epoch of a run in rounds: what the workers have judged, and the epoch's metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnsparse_stream.checkpoints.state import CheckpointState, read_state, step_directory, write_state
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.feeding.order import Cursor
from nnsparse_stream.objectives.objective import StepObjective
from nnsparse_stream.objectives.objectives import objective_of, recipe_from_json
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.objectives.worker_recipe import worker_recipe
from nnsparse_stream.rounds.rounds import Told, check_owner, last_done
from nnsparse_stream.training.run import TrainingRequest, end_epoch, remove_old_checkpoints, write_metrics
from nnsparse_stream.training.start import directory_of
from nnsparse_stream.training.step_sums import diverged


def finish_epoch(request: TrainingRequest, number: int, judged: Sequence[Told], job: str) -> None:
    """Ends an epoch: its metrics enter the state of its last round's checkpoint, and metrics.jsonl.

    Args:
        request: the run.
        number: of the epoch's last round.
        judged: sums of the validation fold by shard, in any order; none where nothing is judged.
        job: that trains.

    Raises:
        InputError: a figure is not finite.
    """
    checkpoint = awaiting_end(request, number, job)
    if checkpoint is None:
        return
    state = checkpoint.state
    recipe = recipe_from_json(state["recipe"])
    objective = objective_of(recipe)
    assert isinstance(recipe, StepRecipe)
    assert issubclass(objective, StepObjective)
    sums, rounds, metrics = state["sums"], state["rounds"], request.metrics()
    told = rounds["told"]
    dataset = Dataset(request.data)
    validation = None
    if judged:
        total = MetricSums.of(metrics, dataset.manifest.num_columns)
        for told_sums in sorted(judged, key=lambda one: int(one["shard"])):
            total += _sums_heard(told_sums, total)
        validation = total.values()
    train = objective.figures(recipe, sums)
    # A round in which nobody had a minibatch left has none.
    learning_rate = next((one["learning_rate"] for one in told[::-1] if one["learning_rate"]), 0.0)
    if not np.isfinite([*train.values(), *(validation or {}).values()]).all():
        raise diverged(dataset, recipe, state["epoch"] + 1, learning_rate)
    fill = sums["rows"] / sums["batches"] / worker_recipe(recipe, rounds["workers"]).batch_rows
    layer = recipe.stage(state["epoch"] + 1).layer
    line = end_epoch(state, metrics[0], layer, learning_rate, train, validation, fill)
    line["peak_memory_bytes"] = max(one["peak_memory_bytes"] for one in told)
    line["rounds"] = told
    rounds |= {"done": 0, "told": [], "at": [{**at, "cursor": list(Cursor()), "entries": 0} for at in rounds["at"]]}
    write_state(checkpoint.url, state)
    write_metrics(directory_of(request, job), request, state["history"])
    remove_old_checkpoints(request, state)


def awaiting_end(request: TrainingRequest, number: int, job: str) -> CheckpointState | None:
    """The checkpoint of an epoch's last round, as long as the epoch has not ended; None after that.

    Raises:
        InputError: another job has taken up the run.
    """
    check_owner(request, job)
    if last_done(request.output) != number:
        return None
    checkpoint = read_state(step_directory(request.output, number))
    rounds = checkpoint.state["rounds"]
    return checkpoint if rounds["done"] == rounds["of_epoch"] else None


def sums_told(shard: int, sums: MetricSums) -> Told:
    """Sums over a shard as plain values."""
    listed = {
        str(k): [np.flatnonzero(counts).tolist(), counts[counts > 0].tolist()] for k, counts in sums.listed.items()
    }
    return {"shard": shard, "judged": sums.judged.tolist(), "terms": sums.terms.tolist(), "listed": listed}


def _sums_heard(told: Told, like: MetricSums) -> MetricSums:
    """The sums that `sums_told` tells of, by the metrics of others."""
    listed = {k: np.zeros_like(counts) for k, counts in like.listed.items()}
    for k, (columns, counts) in told["listed"].items():
        listed[int(k)][columns] = counts
    return MetricSums(like.metrics, np.array(told["judged"]), np.array(told["terms"]), listed)
