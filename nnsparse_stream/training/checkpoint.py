"""Checkpoints: a model and the state of its training, as safetensors and JSON in one directory of a run on any URL."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.models import MODELS
from nnsparse_stream.nn.optimisers import RowOptimizer
from nnsparse_stream.storage import files as storage
from nnsparse_stream.training.state import STATE_FILE, CheckpointState, read_state, step_directory, write_state
from nnsparse_stream.training.tensor_files import TensorFile, copy_tensors, read_tensors, write_tensors

_WEIGHTS = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"
#: All files of a checkpoint.
FILES = (STATE_FILE, _WEIGHTS, _OPTIMIZER)


@dataclass
class Checkpoint(CheckpointState):
    """A model and what is needed to use it or to train on.

    Attributes:
        model: the model, where it was read on the CPU.
    """

    model: Model

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The ids of the model's columns; read on first use.

        Raises:
            InputError: a file of it is missing, or another one than when the run began.
        """
        return self.read_vocabulary()


def save_checkpoint(url: str, checkpoint: Checkpoint, optimizer: RowOptimizer | None) -> None:
    """Writes a checkpoint; state.json is written last, and a directory without it is not a checkpoint."""
    held = [optimizer.state.get(parameter, {}) for parameter in _parameters(optimizer)] if optimizer else []
    buffers = {f"{index}.{name}": value for index, state in enumerate(held) for name, value in state.items()}
    files = {
        "optimizer": write_tensors(storage.join(url, _OPTIMIZER), buffers),
        "model": write_tensors(storage.join(url, _WEIGHTS), checkpoint.model.state_dict()),
    }
    model = {"kind": checkpoint.model.kind, **checkpoint.model.config.to_json()}
    tensors = {name: asdict(file) for name, file in files.items()}
    write_state(url, {**checkpoint.state, "model": model, "tensors": tensors})


def load_optimizer(checkpoint: CheckpointState, optimizer: RowOptimizer) -> None:
    """Gives an optimiser the state that a checkpoint holds.

    Raises:
        InputError: the file is missing or damaged, or of another optimiser.
    """
    path = storage.join(checkpoint.url, _OPTIMIZER)
    shapes = [
        (parameter, optimizer.state_shapes(parameter, group))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    expected = {
        f"{index}.{name}": torch.empty(shape, dtype=optimizer.state_dtype(parameter), device="meta")
        for index, (parameter, held) in enumerate(shapes)
        for name, shape in held.items()
    }
    # What was not updated yet has no state.
    buffers = read_tensors(path, _noted(checkpoint, "optimizer"), expected, optional=True)
    for index, (parameter, held) in enumerate(shapes):
        found = {name: buffers[f"{index}.{name}"] for name in held if f"{index}.{name}" in buffers}
        if found and found.keys() != held.keys():
            raise InputError(f"{path} is damaged: it lacks a part of the state of parameter {index}")
        # Not by load_state_dict, which casts the state to the parameter's dtype: that of a bfloat16 one is wider.
        for name, value in found.items():
            optimizer.state[parameter][name] = value.to(parameter.device)


def _parameters(optimizer: RowOptimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _noted(checkpoint: CheckpointState, which: str) -> TensorFile:
    return TensorFile(**checkpoint.state["tensors"][which])


def copy_model(checkpoint: CheckpointState, run: str) -> None:
    """Copies what using a model takes into another directory, as a run's with one checkpoint: no optimiser's state.

    Args:
        checkpoint: what is copied.
        run: URL of the directory.

    Raises:
        InputError: a file is missing, or another one than was written; or the copy cannot be written.
    """
    features = checkpoint.state["features"]
    for part in [*checkpoint.state["columns"], *([features] if features else [])]:
        data = storage.read_checked(storage.join(checkpoint.run, part["path"]), part["bytes"], part["sha256"])
        storage.write_file(storage.join(run, part["path"]), data)
    url = step_directory(run, checkpoint.state["step"])
    copy_tensors(storage.join(checkpoint.url, _WEIGHTS), storage.join(url, _WEIGHTS), _noted(checkpoint, "model"))
    write_state(url, checkpoint.state)


def remove_checkpoint(url: str) -> None:
    """Removes a checkpoint, state.json first: what remains where that is cut off is not taken for a checkpoint."""
    for name in FILES:
        storage.remove_file(storage.join(url, name))
    storage.remove_empty_directory(url)


def load_model(url: str) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        url: a run's directory or one checkpoint's. Of a run, the checkpoint that its run.json names; the last where it
            has not ended.

    Raises:
        InputError: there is no checkpoint, it is of another schema version, or a file of it is damaged.
    """
    return load_tensors(read_state(url))


def load_tensors(state: CheckpointState) -> Checkpoint:
    """Reads the model of a checkpoint whose state was read.

    Raises:
        InputError: the file is missing, or another one than was written.
    """
    # Without memory and random weights: what is read takes their place.
    try:
        with torch.device("meta"):
            model = MODELS[state.state["model"]["kind"]](state.config)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise InputError(f"{state.url} is damaged: there is no model of these sizes: {state.state['model']}") from error
    path = storage.join(state.url, _WEIGHTS)
    model.load_state_dict(read_tensors(path, _noted(state, "model"), model.state_dict()), assign=True)
    model.eval()
    return Checkpoint(state.url, state.state, model)
