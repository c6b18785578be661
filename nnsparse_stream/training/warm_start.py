"""A run that begins from an earlier model, whose columns are the first of its data set's.

What goes on: the weights, of the known columns and of all that is no column's; the scale that they are made for
(`StepObjective.make_config`); and the state of the optimiser, by the same columns, with its counts of updates, unless
the run trains as `warm_recipe` says. What begins anew: new columns, as a model without an earlier one would draw them,
the epochs, and what follows these, the learning rate's schedule.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nnsparse_stream.checkpoints.checkpoint import load_optimizer
from nnsparse_stream.checkpoints.parts import empty_model, read_weights
from nnsparse_stream.checkpoints.state import CheckpointState, features_of, read_state
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.optimisers import RowOptimizer
from nnsparse_stream.objectives.objective import StepObjective
from nnsparse_stream.objectives.objectives import objective_of, recipe_from_json
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.objectives.warm_recipe import entries_of, renews
from nnsparse_stream.storage import files as storage

if TYPE_CHECKING:
    from nnsparse_stream.training.run import TrainingRequest


def earlier_model(request: TrainingRequest, manifest: Manifest) -> CheckpointState:
    """The model that a run begins from, checked to fit its data set and its recipe; no tensor of it is read.

    Args:
        request: the run, which has an `init`.
        manifest: of its data set.

    Raises:
        InputError: there is no model, it is of another kind or other sizes, its columns are not the first of the data
            set's, or it lies where the run is to be written.
    """
    assert request.init is not None
    earlier, recipe = read_state(request.init), request.recipe
    url, data = earlier.url, request.data
    if earlier.run == _place(request.output):
        raise InputError(f"{request.output} holds the model that `init` names; give the run another `output`")
    if earlier.state["recipe"]["objective"] != recipe.objective:
        raise InputError(
            f"{url} is a model of the objective {earlier.state['recipe']['objective']}, and the run trains one of "
            f"{recipe.objective}: choose a `preset` of the same objective, or leave out `init`"
        )
    earlier.check_kind(manifest, data)
    if earlier.known_columns(manifest, data) is None:
        raise InputError(
            f"{data} does not extend the vocabulary of the model in {url}: its column indices mean other ids; prepare "
            "it with the data set of that model as `vocabulary`, or leave out `init`"
        )
    before = recipe_from_json(earlier.state["recipe"])
    assert isinstance(before, StepRecipe)
    if (layer := before.stage(earlier.state["epoch"] + 1).layer) is not None:
        raise InputError(f"{url} was stopped when layer {layer} was trained alone; `resume` its run to the end first")
    _check_model(request, manifest, earlier)
    return earlier


def _check_model(request: TrainingRequest, manifest: Manifest, earlier: CheckpointState) -> None:
    """Refuses a model whose weights mean something else than those that the run's recipe makes."""
    objective = objective_of(request.recipe)
    assert issubclass(objective, StepObjective)
    held = earlier.config
    config = objective.make_config(request.recipe, manifest, held)
    reads = getattr(config, "num_features", 0)
    if (features_of(manifest) if reads else None) != earlier.state["features"]:
        raise InputError(
            f"{request.data} has not the features of rows that the model in {earlier.url} was trained with: prepare it "
            "with the data set of that model as `vocabulary` and the same `row_features`, or leave out `init`"
        )
    were, are = asdict(held), asdict(config)
    changed = [name for name in are if name not in config.free and are[name] != were[name]]
    if changed:
        told = ", ".join(f"`{name}` was {_shown(were[name])}, is {_shown(are[name])}" for name in changed)
        raise InputError(
            f"the model in {earlier.url} is another one than the recipe makes: {told}; train with the same, or leave "
            "out `init`"
        )


def _shown(value: Any) -> str:
    if value is None:
        return "0"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def noted(earlier: CheckpointState, request: TrainingRequest) -> dict[str, Any]:
    """What the state of a run says of the model that it began from.

    Returns:
        `url`, of its checkpoint; `step`, of that; `fingerprint`, of the model; `columns`, those that it has;
        `entries`, that it was trained on; and `optimizer`, whether the state of its optimiser goes on: where the run
        has as many workers and the same optimiser, each worker's does, unless `warm_recipe` says how it trains.
    """
    before, now = recipe_from_json(earlier.state["recipe"]), request.recipe
    assert isinstance(before, StepRecipe)
    assert isinstance(now, StepRecipe)
    same = (before.optimizer, before.momentum > 0) == (now.optimizer, now.momentum > 0)
    same = same and not (request.warm and renews(now, request.workers))
    return {
        "url": _place(earlier.url),
        "step": earlier.state["step"],
        "fingerprint": earlier.fingerprint,
        "columns": earlier.config.num_columns,
        "entries": entries_of(earlier.state),
        "optimizer": same and len(earlier.optimizer_files) == request.workers,
    }


def is_of(began: dict[str, Any] | None, init: str | None) -> bool:
    """Whether what `noted` says is of the model, a run's or a checkpoint's, that `init` names; or there is neither."""
    if began is None or init is None:
        return began is init
    return _place(init) in (began["url"], CheckpointState(began["url"], {}).run)


def _place(url: str) -> str:
    """The URL of a directory as `storage.parent` writes it, whichever way it was named."""
    return storage.parent(storage.join(url, "-"))


def take_over(earlier: CheckpointState, model: Model) -> None:
    """Gives a new model the weights of an earlier one, and its counts of training entries, in place.

    Raises:
        InputError: a file is missing, or another one than was written.
    """
    read_weights(earlier, empty_model(earlier), into=model.state_dict())


def load_earlier_optimizer(began: dict[str, Any], optimizer: RowOptimizer, model: Model, worker: int) -> None:
    """Gives an optimiser the state that a worker's of the earlier model has, if that goes on.

    Args:
        began: from `noted`.
        optimizer: of the run.
        model: what it updates.
        worker: whose state it is.

    Raises:
        InputError: the earlier model is no more there, or another one is.
    """
    if not began["optimizer"]:
        return
    earlier = read_state(began["url"])
    if earlier.fingerprint != began["fingerprint"]:
        raise InputError(f"{began['url']} is another model than the one that the run began from; train anew")
    load_optimizer(earlier, optimizer, model, worker)
