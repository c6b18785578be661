"""Checkpoints: a model and the state of its training, as safetensors and JSON in one directory of a run on any URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch

from nnsparse_stream.checkpoints.parts import PART_FILES, empty_model, part_name, read_weights, write_part
from nnsparse_stream.checkpoints.state import (
    STATE_FILE,
    CheckpointState,
    read_state,
    step_directory,
    tensors_of,
    write_state,
)
from nnsparse_stream.checkpoints.tensor_files import TensorFile, copy_tensors, read_tensors, write_tensors
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.optimisers import RowOptimizer
from nnsparse_stream.storage import files as storage

#: Patterns of all files of a checkpoint, for `OutputDirectory`.
FILES = (STATE_FILE, PART_FILES, "optimizer-#-of-#.safetensors")
# Also under the temporary name that a kill has left.
_WRITTEN = re.compile(r"(state\.json|(model|optimizer)-\d+-of-\d+\.safetensors)(\.[0-9a-f]{32}\.tmp)?")


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
    """Writes the checkpoint of a run of one worker; a directory without state.json, the last file, is not one."""
    of_optimizer = [write_optimizer(url, optimizer, 0, 1)] if optimizer else []
    tensors = tensors_of([write_part(url, checkpoint.model, 0, 1)], of_optimizer)
    model = {"kind": checkpoint.model.kind, **checkpoint.model.config.to_json()}
    write_state(url, {**checkpoint.state, "model": model, "tensors": tensors})


def write_optimizer(url: str, optimizer: RowOptimizer, worker: int, workers: int) -> TensorFile:
    """Writes the state of a worker's optimiser into the directory of a checkpoint.

    Raises:
        InputError: it cannot be written.
    """
    held = [optimizer.state.get(parameter, {}) for parameter in _parameters(optimizer)]
    buffers = {f"{index}.{name}": value for index, state in enumerate(held) for name, value in state.items()}
    return write_tensors(storage.join(url, _optimizer_name(worker, workers)), buffers)


def _optimizer_name(worker: int, workers: int) -> str:
    return f"optimizer-{worker:05d}-of-{workers:05d}.safetensors"


def load_optimizer(checkpoint: CheckpointState, optimizer: RowOptimizer, model: Model, worker: int = 0) -> None:
    """Gives an optimiser the state that a checkpoint holds of a worker's.

    Args:
        checkpoint: its columns are the model's, or the first of them: the state of the others is then 0, as it is
            before a first update.
        optimizer: is given the state.
        model: what it updates.
        worker: whose state it is.

    Raises:
        InputError: the file is missing or damaged, or of another optimiser.
    """
    files = checkpoint.optimizer_files
    if not files:
        raise InputError(f"{checkpoint.url} cannot be trained on: it has no state of the optimiser; name its run")
    path = storage.join(checkpoint.url, _optimizer_name(worker, len(files)))
    shapes = [
        (parameter, optimizer.state_shapes(parameter, group))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    of_columns = {id(held) for name, held in model.named_parameters() if name in model.column_tensors}
    known, expected, buffers = checkpoint.config.num_columns, {}, {}
    for index, (parameter, held) in enumerate(shapes):
        for name, shape in held.items():
            rows = (known, *shape[1:]) if id(parameter) in of_columns else shape
            expected[f"{index}.{name}"] = torch.empty(rows, dtype=optimizer.state_dtype(parameter), device="meta")

    def room(name: str) -> torch.Tensor:
        index, _, part = name.partition(".")
        parameter, held = shapes[int(index)]
        buffers[name] = torch.zeros(held[part], dtype=optimizer.state_dtype(parameter))
        return buffers[name]

    # What was not updated yet has no state.
    read_tensors(path, files[worker], expected, optional=True, room=room)
    for index, (parameter, held) in enumerate(shapes):
        found = {name: buffers[f"{index}.{name}"] for name in held if f"{index}.{name}" in buffers}
        if found and found.keys() != held.keys():
            raise InputError(f"{path} is damaged: it lacks a part of the state of parameter {index}")
        # Not by load_state_dict, which casts the state to the parameter's dtype: that of a bfloat16 one is wider.
        for name, value in found.items():
            optimizer.state[parameter][name] = value.to(parameter.device)


def _parameters(optimizer: RowOptimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
    files = checkpoint.model_files
    for p, noted in enumerate(files):
        name = part_name(p, len(files))
        copy_tensors(storage.join(checkpoint.url, name), storage.join(url, name), noted)
    write_state(url, {**checkpoint.state, "tensors": tensors_of(files, [])})


def remove_checkpoint(url: str) -> None:
    """Removes a checkpoint, state.json first: what remains where that is cut off is not taken for a checkpoint."""
    files = [name for name in storage.list_files(url) if _WRITTEN.fullmatch(name)]
    for name in (STATE_FILE, *files):
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
        InputError: a file is missing, or another one than was written.
    """
    # Without memory and random weights: what is read takes their place.
    model = empty_model(state)
    model.load_state_dict(read_weights(state, model), assign=True)
    model.eval()
    return Checkpoint(state.url, state.state, model)
