"""Training in rounds: several workers train from one model, each on its own rows, and what changed is merged.

Round t: worker k reads the checkpoint of round t - 1, trains its part of the epoch's minibatches on its share of the
rows with an optimiser state of its own (`round_worker`), and leaves a change and that state. The changes are merged by
ranges of columns (`changes`), and when all parts are there, `finish_round` writes the state of the checkpoint, which is
whole then. A round is a pure function of (checkpoint, data, recipe, seed, number of workers): whoever makes it again
writes the same bytes, or finds that it is done. In such a run a step is a round: it is what changes the model.

Nothing here knows what brings the work to the workers; `nnsparse_stream.transforms.train_rounds` does it with Beam.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnsparse_stream.checkpoints.changes import change_name, changes_directory, merge_part
from nnsparse_stream.checkpoints.parts import num_parts, write_part
from nnsparse_stream.checkpoints.state import CheckpointState, checkpoints_of, read_state, step_directory, write_state
from nnsparse_stream.checkpoints.tensor_files import TensorFile
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.order import Cursor
from nnsparse_stream.feeding.shares import shares
from nnsparse_stream.feeding.survey import survey_shards
from nnsparse_stream.nn.devices import pick_device
from nnsparse_stream.objectives.objective import StepObjective
from nnsparse_stream.objectives.objectives import objective_of, recipe_from_json
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.storage import files as storage
from nnsparse_stream.training.run import (
    TrainingRequest,
    is_over,
    remove_old_checkpoints,
    write_metrics,
)
from nnsparse_stream.training.start import (
    ROUND_FILES,
    complete_run,
    directory_of,
    fresh,
    keep_vocabularies,
    open_run,
)

#: What one worker tells of its round, or a merge of its part; plain values, as JSON has them.
Told = dict[str, Any]


def last_done(output: str) -> int:
    """The last round of a run whose checkpoint is whole; -1 where there is none, and 0 where it has just begun."""
    found = checkpoints_of(output)
    return int(found[-1].rpartition("-")[2]) if found else -1


def base_of(request: TrainingRequest, number: int, job: str) -> CheckpointState | None:
    """The checkpoint that a round begins with; None where the round is done, or the run over without it.

    Args:
        request: the run.
        number: of the round, from 1.
        job: that trains.

    Raises:
        InputError: another job has taken up the run, or the checkpoint is not there.
    """
    check_owner(request, job)
    done = last_done(request.output)
    if done >= number:
        return None
    base = read_state(step_directory(request.output, max(done, 0)))
    if is_over(request, base.state):
        return None
    if done != number - 1:
        raise InputError(f"{request.output}: round {number} cannot begin, since the last that is whole is {done}")
    if base.state["rounds"]["done"] == base.state["rounds"]["of_epoch"]:
        raise InputError(f"{request.output}: round {number} cannot begin, since the epoch before it has not ended")
    return base


def rounds_left(request: TrainingRequest) -> range:
    """The numbers of the rounds that are still to be made, as far as the run goes without its patience."""
    of_epoch = request.rounds_of_epoch
    assert of_epoch is not None
    done = max(last_done(request.output), 0) if request.resume else 0
    return range(done + 1, request.recipe.all_epochs * of_epoch + 1)


def has_ended(request: TrainingRequest) -> bool:
    """Whether there is nothing left to train."""
    if directory_of(request).state() != "complete":
        return False
    done = last_done(request.output)
    return done >= 0 and is_over(request, read_state(step_directory(request.output, done)).state)


def check_owner(request: TrainingRequest, job: str) -> None:
    """Refuses to write into a run that another job has taken up meanwhile.

    Raises:
        InputError: that is so.
    """
    if not directory_of(request, job).attempted():
        raise InputError(f"{request.output} was taken up, or removed, by another job; this one ends")


def open_rounds(request: TrainingRequest, job: str) -> None:
    """Checks a run and marks its directory; before anything else of it is written.

    Raises:
        InputError: see `nnsparse_stream.training.start.train`.
    """
    opening = open_run(request, "cpu", job)  # on the device of the workers it is opened again
    if opening.ended is not None and not opening.attempted:
        raise InputError(f"{request.output} has ended; there is nothing to resume")
    if opening.ended is None:
        shares(opening.dataset.manifest, request.workers)
        opening.directory.begin(resume=request.resume)


def survey_rows(request: TrainingRequest, worker: int, job: str) -> Told | None:
    """Reads a worker's part of the shards once: verifies and counts. None where the run has begun before.

    Args:
        request: the run.
        worker: from 0.
        job: that trains.

    Returns:
        `worker`; `entries`, the training entries of each share in these shards; `device`, where the worker computes.
    """
    check_owner(request, job)
    if last_done(request.output) >= 0:
        return None
    dataset = Dataset(request.data)
    divided = shares(dataset.manifest, request.workers)
    found = survey_shards(dataset, range(worker, len(dataset.shards), request.workers), divided)
    counts = storage.join(request.output, "_rounds", f"survey-{worker:05d}.bin")
    storage.write_file(counts, found.column_counts.astype("<i8").tobytes())
    return {"worker": worker, "entries": found.share_entries.tolist(), "device": str(pick_device(request.device))}


def begin_rounds(request: TrainingRequest, surveys: Sequence[Told | None], job: str) -> None:
    """Writes the checkpoint that the first round begins with, where there is none yet.

    Where there are some, it makes good what a kill behind the last of them has left undone.

    Args:
        request: the run.
        surveys: of all workers, in any order.
        job: that trains.
    """
    check_owner(request, job)
    if (done := last_done(request.output)) >= 0:
        last = open_run(request, "cpu", job).last
        if last is not None:
            # Workers take the recipe from there, which may have more epochs now.
            write_state(step_directory(request.output, done), last.state)
            if last.state["history"]:
                write_metrics(directory_of(request, job), request, last.state["history"])
            _remove_merged(request, last.state, job)
        return
    told = sorted((survey for survey in surveys if survey is not None), key=lambda one: int(one["worker"]))
    opening = open_run(request, told[0]["device"].partition(":")[0], job)
    if opening.ended is not None:
        return
    request, manifest = opening.request, opening.dataset.manifest
    counts, entries = np.zeros(manifest.num_columns, dtype=np.int64), np.zeros(request.workers, dtype=np.int64)
    for worker in range(request.workers):
        data = storage.read_file(storage.join(request.output, "_rounds", f"survey-{worker:05d}.bin"))
        counts += np.frombuffer(data, dtype="<i8")
    for survey in told:
        entries += survey["entries"]
    checkpoint = fresh(opening, counts)
    parts = num_parts(checkpoint.model, request.workers)
    files = [write_part(checkpoint.url, checkpoint.model, part, parts) for part in range(parts)]
    begun = {"cursor": list(Cursor()), "step": 0, "entries": 0}
    state = {
        **checkpoint.state,
        "model": {"kind": checkpoint.model.kind, **checkpoint.model.config.to_json()},
        "tensors": {"model": [_noted(file) for file in files], "optimizer": []},
        "rounds": {
            "workers": request.workers,
            "of_epoch": request.rounds_of_epoch,
            "done": 0,
            "entries": entries.tolist(),
            "at": [begun] * request.workers,
            "told": [],
        },
    }
    keep_vocabularies(opening, checkpoint)
    write_state(checkpoint.url, state)
    opening.directory.remove_matching("_rounds/survey-#.bin")


def merge_round(
    request: TrainingRequest, number: int, part: int, trained: Sequence[Told | None], job: str
) -> Told | None:
    """Merges a part of the workers' changes into a part of the round's model.

    Args:
        request: the run.
        number: of the round.
        part: of the model.
        trained: what all workers told, in any order.
        job: that trains.

    Returns:
        `part`, `file` (size and SHA-256), and of the first part what the workers told; None where the round is done.

    Raises:
        InputError: a change is missing or damaged, or what was trained is not finite.
    """
    base = base_of(request, number, job)
    if base is None:
        return None
    told = sorted((one for one in trained if one is not None), key=lambda one: int(one["worker"]))
    workers = base.state["rounds"]["workers"]
    if [one["worker"] for one in told] != list(range(workers)):
        raise InputError(f"{request.output}: round {number} has changes of {len(told)} workers of {workers}")
    folder, url = changes_directory(request.output, number), step_directory(request.output, number)
    changes = [(storage.join(folder, change_name(one["worker"], part)), TensorFile(**one["change"])) for one in told]
    file = merge_part(base, part, changes, url, int(base.state["seed"]))
    return {"part": part, "file": _noted(file), "trained": told if part == 0 else None}


def finish_round(request: TrainingRequest, number: int, merged: Sequence[Told | None], job: str) -> None:
    """Makes a round's checkpoint whole, and removes its changes and the checkpoints that are not to be kept.

    Args:
        request: the run.
        number: of the round.
        merged: what the merges of all parts told, in any order.
        job: that trains.

    Raises:
        InputError: what was trained is not finite.
    """
    base = base_of(request, number, job)
    if base is None:
        return
    parts = sorted((one for one in merged if one is not None), key=lambda one: int(one["part"]))
    if [one["part"] for one in parts] != list(range(len(base.state["tensors"]["model"]))):
        raise InputError(f"{request.output}: round {number} has {len(parts)} parts of a model")
    trained: list[Told] = parts[0]["trained"]
    state = copy.deepcopy(base.state)
    recipe = recipe_from_json(state["recipe"])
    assert isinstance(recipe, StepRecipe)
    sums, rounds, now = state["sums"], state["rounds"], time.time()
    seconds = now - min(one["begun"] for one in trained)
    for one in trained:
        for name in ("entries", "rows", "batches"):
            sums[name] += one[name]
        for name, term in one["terms"].items():
            sums["terms"][name] = sums["terms"].get(name, 0.0) + term
    sums["seconds"] += seconds
    sums["waited"] += sum(one["waited"] for one in trained) / len(trained)
    state["step"] = number
    state["tensors"] = {
        "model": [one["file"] for one in parts],
        "optimizer": [one["optimizer"] for one in trained],
    }
    rounds["done"] += 1
    rounds["at"] = [one["at"] for one in trained]
    rounds["told"].append(_summary(number, recipe, state, trained, seconds, now))
    write_state(step_directory(request.output, number), state)
    _remove_merged(request, state, job)


def _remove_merged(request: TrainingRequest, state: dict[str, Any], job: str) -> None:
    """Removes the changes of the round that a state is of, and the checkpoints that are not to be kept."""
    directory_of(request, job).remove_matching(f"_rounds/step-{state['step']:09d}/change-#-#.safetensors")
    remove_old_checkpoints(request, state)


def _summary(
    number: int, recipe: StepRecipe, state: dict[str, Any], trained: list[Told], seconds: float, now: float
) -> dict[str, Any]:
    """What is told of a round."""
    objective = objective_of(recipe)
    assert issubclass(objective, StepObjective)
    entries = sum(one["entries"] for one in trained)
    took = [one["seconds"] for one in trained]
    sums = {"entries": entries, "rows": sum(one["rows"] for one in trained),
            "batches": sum(one["batches"] for one in trained), "terms": {}}  # fmt: skip
    for one in trained:
        for name, term in one["terms"].items():
            sums["terms"][name] = sums["terms"].get(name, 0.0) + term
    return {
        "round": number,
        "epoch": state["epoch"] + 1,
        "device": trained[0]["device"],
        "time": round(now, 3),
        "train": objective.figures(recipe, sums) if entries else {},
        "ratings": entries,
        "seconds": round(seconds, 3),
        "ratings_per_second": round(entries / max(seconds, 1e-9)),
        "slowest_worker": took.index(max(took)),
        "slowest_seconds": round(max(took), 3),
        "median_seconds": round(statistics.median(took), 3),
        "merging_seconds": round(now - max(one["ended"] for one in trained), 3),
        "change_bytes": sum(file["bytes"] for one in trained for file in one["changes"]),
        "learning_rate": max(one["learning_rate"] for one in trained),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in trained),
    }


def complete_rounds(request: TrainingRequest, job: str) -> dict[str, Any]:
    """Ends a run that is over; see what `nnsparse_stream.training.start.train` returns."""
    opening = open_run(request, "cpu", job)
    if opening.ended is not None:
        return opening.ended
    assert opening.last is not None
    state = opening.last.state
    if not is_over(request, state):
        return {"stopped": True, "epochs": state["epoch"], "steps": state["step"]}
    write_metrics(opening.directory, request, state["history"])  # a kill may have left out those of the last epoch
    for pattern in ROUND_FILES:
        opening.directory.remove_matching(pattern)
    return complete_run(opening.request, opening.directory, state, state["history"][-1]["rounds"][-1]["device"], job)


def _noted(file: TensorFile) -> dict[str, Any]:
    return {"bytes": file.bytes, "sha256": file.sha256}
