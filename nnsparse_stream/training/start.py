"""Trains a model on a data set: a directory with checkpoints, from which a stopped or killed run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from nnsparse_stream.checkpoints.changes import CHANGE_FILES
from nnsparse_stream.checkpoints.checkpoint import FILES, Checkpoint, load_tensors
from nnsparse_stream.checkpoints.state import (
    CheckpointState,
    checkpoints_of,
    columns_of,
    features_of,
    read_state,
    step_directory,
)
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.features import VOCABULARY, FeatureVocabulary
from nnsparse_stream.data.manifest import vocabulary_fingerprint
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.order import Cursor
from nnsparse_stream.feeding.survey import survey
from nnsparse_stream.nn.devices import pick_device
from nnsparse_stream.objectives.growth import recipe_of_run
from nnsparse_stream.objectives.objective import ClosedForm, StepObjective
from nnsparse_stream.objectives.objectives import objective_of, recipe_from_json
from nnsparse_stream.objectives.warm_recipe import entries_of, warm_recipe
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.output_directory import OutputDirectory
from nnsparse_stream.training.closed_form_run import ClosedFormRun, SummedUp
from nnsparse_stream.training.progress import Progress, run_report
from nnsparse_stream.training.run import Run, TrainingRequest, no_sums
from nnsparse_stream.training.step_run import StepRun
from nnsparse_stream.training.tensorboard import EVENTS_FILE, check_installed
from nnsparse_stream.training.warm_start import earlier_model, is_of, noted, take_over

#: Sums over the rows that workers have added up for this run; removed at its end.
SUMS_FILES = "_sums/part-#.bin"
#: What workers of a run in rounds leave for each other; removed when it is used.
ROUND_FILES = ("_rounds/survey-#.bin", CHANGE_FILES)
#: Patterns of the files that training writes, and the one that makes a run whole; for `OutputDirectory`.
CONTENTS = (
    *(f"checkpoints/step-#/{name}" for name in FILES),
    "columns/part-#-of-#.parquet",
    VOCABULARY,
    "metrics.jsonl",
    EVENTS_FILE,
    "report.html",
    SUMS_FILES,
    *ROUND_FILES,
)
COMPLETING = "run.json"


def directory_of(request: TrainingRequest, job: str | None = None) -> OutputDirectory:
    """The run's directory, as it is; see `train` for the job."""
    overwrite = request.overwrite or request.resume
    return OutputDirectory(request.output, contents=CONTENTS, completing=COMPLETING, overwrite=overwrite, job=job)


def run_directory(request: TrainingRequest, job: str | None = None) -> OutputDirectory:
    """The run's directory, checked: nothing has been written or removed yet.

    Args:
        request: the run.
        job: see `train`.

    Raises:
        InputError: it holds something else, or a run, and neither `resume` nor `overwrite` says what to do with it.
    """
    directory = directory_of(request, job)
    directory.check()
    if directory.attempted():
        return directory
    state = directory.state()
    if state == "unfinished" and not (request.resume or request.overwrite):
        raise InputError(f"{request.output} holds a run that did not finish; pass `resume` to go on, or `overwrite`")
    if request.resume and state == "empty":
        raise InputError(f"{request.output} holds no run to resume; train without `resume`")
    return directory


def train(
    request: TrainingRequest,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    job: str | None = None,
    summed_up: SummedUp | None = None,
) -> dict[str, Any]:
    """Trains a model from its start, or from its last checkpoint.

    On the CPU of one machine, with one number of threads, weights, optimiser state and metrics but for times and memory
    are a pure function of (data set, recipe, seed): a run that is stopped or killed at any step and resumed ends with
    the same, bit for bit.

    Args:
        request: the run.
        progress: is told, in this thread, what has been done.
        stop: is asked, in this thread, between steps; where it is true, the run writes a checkpoint and ends.
        job: names the engine's job that this is an attempt of. Where an earlier attempt of it has begun, this one goes
            on from its last checkpoint, as with `resume`, and keeps what it has written, even with `overwrite`.
        summed_up: gives the sums of an objective of a closed form, where workers have added them up; they are added up
            here where None.

    Returns:
        What run.json holds: preset, recipe, seed, device, checkpoint (relative to the run), epochs, steps, the best
        epoch, the last metrics, and the job where there is one. Where the run was stopped before it was over, only
        {"stopped": True, "checkpoint", "epochs", "steps"}: run.json is not written, and the run can be resumed.

    Raises:
        InputError: the data set or the output cannot be used, the run to resume is another one, or it diverged.
    """
    progress = progress or Progress()
    device = pick_device(request.device)
    opening = open_run(request, device.type, job)
    if opening.ended is not None:
        if not opening.attempted:
            progress.already_over()
        return opening.ended
    request, directory, dataset = opening.request, opening.directory, opening.dataset
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    found = survey(dataset)
    checkpoint = load_tensors(opening.last) if opening.last else fresh(opening, found.column_counts)
    progress.begun(request.preset, request.recipe, str(device))
    if began := checkpoint.state.get("init"):
        progress.began_from(began, checkpoint.model.num_columns)
    run: Run
    if issubclass(objective_of(request.recipe), ClosedForm):
        run = ClosedFormRun(request, checkpoint, dataset, found, device, progress, stop, summed_up)
    else:
        run = StepRun(request, checkpoint, dataset, found, device, progress, stop)
    directory.begin(resume=request.resume)
    try:
        keep_vocabularies(opening, checkpoint)
        run.go(directory)
    except BaseException:
        if not checkpoints_of(request.output):
            directory.abort()  # there is nothing to resume from
        raise
    state = run.checkpoint.state
    if not run.is_over():
        return {"stopped": True, **_reached(state["step"], state)}
    return complete_run(request, directory, state, str(device), job)


class Opening(NamedTuple):
    """A run whose inputs and output are checked, before anything is written.

    Attributes:
        request: the run, with the recipe that it has.
        directory: of the run.
        dataset: its data set.
        metric: the name of the metric by which an epoch is the best.
        last: the checkpoint that the run goes on from; None where it begins.
        earlier: the model that it begins from; None where it goes on, or begins anew.
        attempted: whether an earlier attempt of the same job has begun it.
        ended: what run.json holds, where there is nothing left to do.
    """

    request: TrainingRequest
    directory: OutputDirectory
    dataset: Dataset
    metric: str
    last: CheckpointState | None
    earlier: CheckpointState | None
    attempted: bool
    ended: dict[str, Any] | None


def open_run(request: TrainingRequest, device: str, job: str | None) -> Opening:
    """Checks all that a run needs; nothing has been written or removed yet.

    Args:
        request: the run.
        device: the type of torch's device on which it is trained.
        job: see `train`.

    Raises:
        InputError: see `train`.
    """
    if request.tensorboard:
        check_installed()
    # Rows of a large matrix are read at random, each from a page of its own: torch asks Linux for huge pages, where its
    # first large tensor is still to come.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    directory = run_directory(request, job)
    attempted, complete = directory.attempted(), directory.state() == "complete"
    dataset, metric = Dataset(request.data), request.metrics()[0].name
    manifest = dataset.manifest
    opening = Opening(request, directory, dataset, metric, None, None, attempted, None)
    if attempted and complete:  # the attempt's end was lost on the way
        return opening._replace(ended=_ended(request))
    request.check_data(manifest)
    # Before anything is removed: files may be missing or damaged.
    dataset.check_files()
    for _ in dataset.vocabulary_parts():
        pass
    last = _last_checkpoint(request, dataset) if request.resume or attempted else None
    earlier = earlier_model(request, manifest) if request.init is not None and last is None else None
    if request.warm and (entries := _earlier_entries(earlier, last)) is not None:
        request = replace(request, recipe=warm_recipe(request.recipe, manifest, entries, request.workers))
    if request.grow:
        before = last.state["recipe"] if last else None
        request = replace(request, recipe=recipe_of_run(request.recipe, manifest, device, before, request.workers))
    if last is not None:
        last = _resumed(request, last, metric)
        if complete and last.state["epoch"] == request.recipe.all_epochs:
            opening = opening._replace(ended=_ended(request))
    return opening._replace(request=request, last=last, earlier=earlier)


def _earlier_entries(earlier: CheckpointState | None, last: CheckpointState | None) -> int | None:
    """The training entries of the model that a run begins from, or has begun from; None where there is none."""
    if earlier is not None:
        return entries_of(earlier.state)
    began = last.state.get("init") if last is not None else None  # its run may be gone
    return began["entries"] if began else None


def keep_vocabularies(opening: Opening, checkpoint: CheckpointState) -> None:
    """Writes the vocabularies of the data set into the run: its models are to be used without the data set."""
    directory, dataset = opening.directory, opening.dataset
    for part, data in dataset.vocabulary_parts():
        directory.write(part.path, data)
    if (features := checkpoint.features) is not None:
        directory.write(features.path, FeatureVocabulary.read(dataset.url, features).to_parquet())


def complete_run(
    request: TrainingRequest, directory: OutputDirectory, state: dict[str, Any], device: str, job: str | None
) -> dict[str, Any]:
    """Writes the report and run.json of a run that is over.

    Args:
        request: the run.
        directory: of the run.
        state: of the last checkpoint.
        device: where it was trained.
        job: the engine's job, where there is one.

    Returns:
        What run.json holds.
    """
    best = state["best"] if request.patience is not None else None
    summary = {
        **_reached(best["step"] if best else state["step"], state),
        "kind": "nnsparse-stream run",
        "schema_version": 1,
        "preset": request.preset,
        "recipe": request.recipe.to_json(),
        "seed": request.seed,
        "device": device,
        "best": state["best"],
        "metrics": state["history"][-1] if state["history"] else None,
        **{name: state[name] for name in ("init",) if name in state},
        **({} if job is None else {"job": job}),
    }
    directory.remove_matching(SUMS_FILES)
    directory.write(
        "report.html", run_report(state["history"], request.recipe, f"{request.data}, seed {request.seed}").encode()
    )
    directory.complete(storage.to_json(summary))
    return summary


def _reached(step: int, state: dict[str, Any]) -> dict[str, Any]:
    """How far a run has come, and the checkpoint of the step that is to be used."""
    name = step_directory("", step).rsplit("/", 1)[-1]
    return {"checkpoint": f"checkpoints/{name}", "epochs": state["epoch"], "steps": state["step"]}


def _ended(request: TrainingRequest) -> dict[str, Any]:
    return storage.read_json(storage.join(request.output, "run.json"), "a run")


def fresh(opening: Opening, column_counts: np.ndarray) -> Checkpoint:
    """A run's beginning: a model with initial weights, or an earlier one's, and a state in which nothing is done.

    Args:
        opening: the run.
        column_counts: int64 (columns,), the training entries of each column.
    """
    request, manifest, earlier = opening.request, opening.dataset.manifest, opening.earlier
    recipe, generator = request.recipe, torch.Generator().manual_seed(request.seed)
    objective, counts = objective_of(recipe), torch.from_numpy(column_counts)
    if earlier is not None:
        assert issubclass(objective, StepObjective)
        model = objective.make_model(recipe, manifest, generator, earlier.config)
        take_over(earlier, model)
        # What was trained before stays trained, whatever part of the log the data set has now.
        counts = torch.maximum(model.column_counts, counts)
    else:
        model = objective.make_model(recipe, manifest, generator)
    model.column_counts.copy_(counts)
    state = {
        "axis": manifest.axis,
        "row_id_type": manifest.row_id_type,
        "column_id_type": manifest.column_id_type,
        "vocabulary": vocabulary_fingerprint(manifest),
        "columns": columns_of(manifest),
        "features": features_of(manifest) if model.reads_features else None,
        "data": manifest.fingerprint(),
        "recipe": recipe.to_json(),
        "seed": request.seed,
        "validation_metric": opening.metric,
        "epoch": 0,
        "cursor": list(Cursor()),
        "sums": no_sums(),
        "step": 0,
        "rounds": None,
        "best": None,
        "history": [],
        **({} if earlier is None else {"init": noted(earlier, request)}),
    }
    return Checkpoint(step_directory(request.output, 0), state, model)


def _last_checkpoint(request: TrainingRequest, dataset: Dataset) -> CheckpointState | None:
    """The last checkpoint, checked to be of the data set; None where the run was killed before its first."""
    found = checkpoints_of(request.output)
    if not found:
        return None
    checkpoint = read_state(found[-1])
    if checkpoint.state["data"] != dataset.manifest.fingerprint():
        raise InputError(f"{request.output} was trained on another data set than {request.data}; it cannot be resumed")
    return checkpoint


def _resumed(request: TrainingRequest, checkpoint: CheckpointState, metric: str) -> CheckpointState:
    """The checkpoint of a run that goes on, checked to be of this one."""
    shared, began = checkpoint.state["rounds"], checkpoint.state.get("init")
    before = {
        # Read, not as it is written: fields that the recipe did not have then are what they are by default.
        **recipe_from_json(checkpoint.state["recipe"]).to_json(),
        "seed": checkpoint.state["seed"],
        "validation_metric": checkpoint.state["validation_metric"],
        "workers": shared["workers"] if shared else 1,
        "rounds": shared["of_epoch"] if shared else None,
        "init": began["url"] if began else None,
    }
    now = {
        **request.recipe.to_json(),
        "seed": request.seed,
        "validation_metric": metric,
        "workers": request.workers,
        "rounds": request.rounds_of_epoch,
        "init": began["url"] if began and is_of(began, request.init) else request.init,
    }
    changed = [name for name in now if name not in request.recipe.extendable and now[name] != before.get(name)]
    if changed:
        told = ", ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
        if changed == ["epochs"]:
            told += (
                "; with this recipe what an epoch does depends on how many there are: begin another run from it, with "
                "`init`, in another `output`"
            )
        raise InputError(f"{request.output} cannot be resumed with other settings: {told}")
    if checkpoint.state["epoch"] > request.recipe.all_epochs:
        raise InputError(
            f"{request.output} has trained {checkpoint.state['epoch']} epochs already, more than the "
            f"{request.recipe.all_epochs} that are asked for; raise `epochs`"
        )
    checkpoint.state["recipe"] = request.recipe.to_json()
    return checkpoint
