"""A checkpoint's model in parts by ranges of columns, so that what changes a range holds no more than it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nnsparse_stream.checkpoints.state import CheckpointState
from nnsparse_stream.checkpoints.tensor_files import TensorFile, read_tensors, write_tensors
from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.models import MODELS
from nnsparse_stream.storage import files as storage

#: Pattern of the files, for `OutputDirectory`.
PART_FILES = "model-#-of-#.safetensors"
#: What of the tensors that have a row for each column a part holds, at the most.
_PART_BYTES = 64 << 20
#: What it holds at the least, where there are more parts only so that all workers have some to merge.
_LEAST_BYTES = 4 << 20


def num_parts(model: Model, workers: int) -> int:
    """In how many parts a model is written where several workers train it.

    They merge the parts, and wait for the last one: so each has as many, unless parts would be very small.

    Args:
        model: its tensors may be on any device.
        workers: how many train it.
    """
    held = model.state_dict()
    size = sum(held[name].nbytes for name in model.column_tensors)
    fitting = max(_PART_BYTES * model.num_columns // max(size, 1), 1)
    merging = max(min(workers, size // _LEAST_BYTES), 1)
    parts = max(math.ceil(math.ceil(model.num_columns / fitting) / merging), 1) * merging
    return min(parts, max(model.num_columns, 1))


def part_range(num_columns: int, parts: int, p: int) -> slice:
    """The columns of part p of so many: all parts together have each once, in order, and nearly the same number."""
    return slice(num_columns * p // parts, num_columns * (p + 1) // parts)


def part_name(p: int, parts: int) -> str:
    """The name of a part's file in the directory of a checkpoint."""
    return f"model-{p:05d}-of-{parts:05d}.safetensors"


def part_tensors(model: Model, p: int, parts: int) -> dict[str, Tensor]:
    """What part p of a model holds, by name, with the model's memory.

    That is, of each tensor that has a row for each column, those of the part's range; part 0 has all other tensors too.
    """
    rows = part_range(model.num_columns, parts, p)
    return {
        name: tensor[rows] if name in model.column_tensors else tensor
        for name, tensor in model.state_dict().items()
        if p == 0 or name in model.column_tensors
    }


def write_part(url: str, model: Model, p: int, parts: int) -> TensorFile:
    """Writes part p of a model, which may be on any device, into the directory of a checkpoint.

    Raises:
        InputError: it cannot be written.
    """
    return write_tensors(storage.join(url, part_name(p, parts)), part_tensors(model, p, parts))


def read_part(checkpoint: CheckpointState, p: int, room: Callable[[str], Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of part p of a checkpoint's model, on the CPU.

    Args:
        checkpoint: the checkpoint.
        p: the part.
        room: gives the tensor that a name is read into, as in `read_tensors`.

    Raises:
        InputError: the file is missing, or another one than was written.
    """
    model, files = empty_model(checkpoint), checkpoint.model_files
    url = storage.join(checkpoint.url, part_name(p, len(files)))
    return read_tensors(url, files[p], part_tensors(model, p, len(files)), room=room)


def read_weights(
    checkpoint: CheckpointState, model: Model, into: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """All tensors of a checkpoint's model, on the CPU, each part read to where it belongs.

    Args:
        checkpoint: the checkpoint.
        model: from `empty_model`.
        into: the tensors that they are read into, by name, those with a row for each column into their first rows; new
            ones where None.

    Raises:
        InputError: a file is missing, or another one than was written.
    """
    files, shapes = checkpoint.model_files, model.state_dict()
    whole = dict(into or {})
    for p, noted in enumerate(files):
        rows = part_range(model.num_columns, len(files), p)

        def room(name: str, rows: slice = rows) -> Tensor:
            if name not in whole:
                whole[name] = torch.empty(shapes[name].shape, dtype=shapes[name].dtype)
            return whole[name][rows] if name in model.column_tensors else whole[name]

        url = storage.join(checkpoint.url, part_name(p, len(files)))
        read_tensors(url, noted, part_tensors(model, p, len(files)), room=room)
    return whole


def empty_model(checkpoint: CheckpointState) -> Model:
    """A checkpoint's model without memory, on the device "meta": its shapes and dtypes.

    Raises:
        InputError: there is no model of these sizes.
    """
    held = checkpoint.state["model"]
    try:
        with torch.device("meta"):
            return MODELS[held["kind"]](checkpoint.config)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise InputError(f"{checkpoint.url} is damaged: there is no model of these sizes: {held}") from error
