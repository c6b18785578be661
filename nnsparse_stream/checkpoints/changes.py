"""What a round of training changed on each worker, by ranges of columns, and how the workers' changes become one model.

A change holds values after the round, and not differences: their mean is the base plus the mean of the differences, it
is exact where one worker touched a row, and no worker needs a copy of the base.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nnsparse_stream.checkpoints.parts import empty_model, part_name, part_range, part_tensors, read_part
from nnsparse_stream.checkpoints.state import CheckpointState
from nnsparse_stream.checkpoints.tensor_files import TensorFile, read_tensors, write_tensors
from nnsparse_stream.errors import InputError
from nnsparse_stream.kernels.rounding import rounded
from nnsparse_stream.nn.model import Model
from nnsparse_stream.storage import files as storage

#: Pattern of the files in a run's directory, for `OutputDirectory`.
CHANGE_FILES = "_rounds/step-#/change-#-#.safetensors"
#: Numbers of a tensor that are widened at once, so that they stay in the processor's cache.
_BLOCK = 1 << 17
#: As that of torch's `normalize`.
_LEAST_NORM = 1e-12


def changes_directory(run: str, step: int) -> str:
    """Where the changes lie, in a run, that make the model of a step."""
    return storage.join(run, "_rounds", f"step-{step:09d}")


def change_name(worker: int, p: int) -> str:
    """The name of the file of a worker's change to part p."""
    return f"change-{worker:05d}-{p:05d}.safetensors"


def write_change(
    folder_url: str, worker: int, p: int, parts: int, model: Model, touches: Mapping[str, Tensor]
) -> TensorFile:
    """Writes what a worker's round made of part p: the rows that it touched, and all that has no such rows.

    Of each parameter in `touches` the file has `NAME.rows` (int32, ascending, counted from the part's first row),
    `NAME.values`, these rows after the round, and `NAME.touches` (int32), how many steps touched each. Part 0 also has
    each other parameter whole, unless it has a row for each column: then it was not trained.

    Args:
        folder_url: where the change goes, from `changes_directory`.
        worker: of all workers, from 0.
        p: the part.
        parts: how many there are.
        model: after the round, on any device.
        touches: how many steps touched each row, int32 (rows,) on the model's device, by the parameter's name.

    Raises:
        InputError: the file cannot be written.
    """
    held, columns = part_tensors(model, p, parts), part_range(model.num_columns, parts, p)
    tensors: dict[str, Tensor] = {}
    for name, _ in model.named_parameters():
        if name in held and name in touches:
            counts = touches[name][columns] if name in model.column_tensors else touches[name]
            rows = counts.nonzero()[:, 0]
            tensors |= {f"{name}.rows": rows.to(torch.int32), f"{name}.touches": counts[rows]}
            # A copy only of what is not all there is.
            tensors[f"{name}.values"] = held[name] if len(rows) == len(counts) else held[name][rows]
        elif name in held and name not in model.column_tensors:
            tensors[name] = held[name]
    return write_tensors(storage.join(folder_url, change_name(worker, p)), tensors)


def merge_part(
    base: CheckpointState,
    p: int,
    changes: Sequence[tuple[str, TensorFile]],
    target_url: str,
    seed: int,
) -> TensorFile:
    """Writes part p of the model that a round made: the base with the changes of all workers.

    A row becomes the mean of the values that it has on the workers, each by the number of its steps that touched it;
    what has no such rows becomes the plain mean. Sums are in float64 and in the order of the workers: the result is a
    function of base, changes and seed. What nobody touched keeps its bits, and so does what one worker alone touched.
    It takes the memory of a part's parameters in float64, and of a part.

    Args:
        base: the checkpoint that the round began at.
        p: the part.
        changes: URL of each worker's change to it, and what was noted of the file, in the order of the workers.
        target_url: directory of the checkpoint that is made.
        seed: of the run; with the step and the part it decides how bfloat16 is rounded.

    Raises:
        InputError: a file is missing, or another one than was written; training diverged; or the part cannot be
            written.
    """
    model, parts, step = empty_model(base), len(base.model_files), int(base.state["step"]) + 1
    shapes = part_tensors(model, p, parts)
    trained = {name: shapes[name] for name, _ in model.named_parameters() if name in shapes}
    sums: dict[str, _Sum] = {}
    room = _Room(shapes)
    for worker, (url, noted) in enumerate(changes):
        change = _read_change(url, noted, trained, model.column_tensors, room)
        if worker == 0:
            sums = {name: _Sum(trained[name].shape) for name in change}
        if change.keys() != sums.keys():
            raise InputError(f"{url} is damaged: it is of other parameters than the first worker's change")
        for name in sums:
            if not sums[name].add(*change.pop(name)):
                raise InputError(
                    f"training diverged in round {step}: worker {worker} left values of {name} that are not finite; "
                    "lower `learning_rate`"
                )
    merged = read_part(base, p, room)
    generator = torch.Generator().manual_seed(_seed_of(seed, step, p))
    for name in sorted(sums):
        sums[name].merge_into(merged[name], name in model.unit_row_tensors, generator)
    return write_tensors(storage.join(target_url, part_name(p, parts)), merged)


class _Sum:
    """A parameter's rows after a round, summed over the workers that touched them."""

    def __init__(self, shape: Sequence[int]) -> None:
        rows, units = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        self._total = torch.zeros(rows, units, dtype=torch.float64)
        self._weight = torch.zeros(rows, 1, dtype=torch.int64)
        self._workers = torch.zeros(rows, dtype=torch.int32)
        self._at_once = max(_BLOCK // max(units, 1), 1)

    def add(self, rows: Tensor | None, values: Tensor, touches: Tensor | None) -> bool:
        """Adds a worker's values of some rows, of all where None; says whether they are finite."""
        where = torch.arange(len(self._total)) if rows is None else rows.long()
        values, is_finite = values.view(len(where), self._total.shape[1]), True
        weights = torch.ones(len(where), dtype=torch.int32) if touches is None else touches
        for here, held, weight in zip(*(each.split(self._at_once) for each in (where, values, weights)), strict=True):
            block = held.double()
            is_finite = is_finite and math.isfinite(float(block.sum()))
            self._total.index_add_(0, here, block.mul_(weight[:, None]))
        self._weight[where] += weights[:, None]
        self._workers[where] += 1
        return is_finite

    def merge_into(self, target: Tensor, unit_rows: bool, generator: torch.Generator) -> None:
        """Puts the means of the rows that somebody touched in the place of the base's, which `target` holds.

        Args:
            target: the parameter, contiguous.
            unit_rows: whether the rows have norm 1: that of their mean is less.
            generator: draws the rounding of bfloat16.
        """
        held = target.view(self._total.shape)
        for here in self._workers.nonzero()[:, 0].split(self._at_once):
            values = self._total[here] / self._weight[here]
            if unit_rows:
                norms = torch.linalg.vector_norm(values, dim=1, keepdim=True).clamp(min=_LEAST_NORM)
                # What one worker alone decides keeps its bits.
                values /= torch.where(self._workers[here, None] == 1, 1.0, norms)
            is_narrow = held.dtype == torch.bfloat16
            held[here] = rounded(values.float(), generator) if is_narrow else values.to(held.dtype)


class _Room:
    """The memory that a part's changes are read into, one after the other, and then the base.

    Of blocks that are freed and taken again, the system's allocator keeps more than it uses.
    """

    def __init__(self, shapes: Mapping[str, Tensor]) -> None:
        self._shapes = shapes
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        """Where a tensor of a change, or of the part, goes."""
        name = name.removesuffix(".values")
        if name not in self._held:
            like = self._shapes.get(name)
            if like is None:
                rows = len(self._shapes[name.removesuffix(".rows").removesuffix(".touches")])
                self._held[name] = torch.empty(rows, dtype=torch.int32)
            else:
                self._held[name] = torch.empty(like.shape, dtype=like.dtype)
        return self._held[name]


def _read_change(
    url: str,
    noted: TensorFile,
    trained: Mapping[str, Tensor],
    column_tensors: frozenset[str],
    room: Callable[[str], Tensor],
) -> dict[str, tuple[Tensor | None, Tensor, Tensor | None]]:
    """The rows that a change has of each parameter, their values, and how often they were touched; None for all rows.

    Args:
        url: the file.
        noted: what was noted when it was written.
        trained: the parameters of the part, on any device; their values are not read.
        column_tensors: those that have a row for each column.
        room: gives the memory of each tensor.

    Raises:
        InputError: the file is missing, or another one than was written.
    """
    expected: dict[str, Tensor] = {}
    for name, tensor in trained.items():
        rows = torch.empty(tensor.shape[:1], dtype=torch.int32, device="meta")
        expected |= {f"{name}.rows": rows, f"{name}.touches": rows, f"{name}.values": tensor}
        if name not in column_tensors:
            expected[name] = tensor
    found = read_tensors(url, noted, expected, optional=True, fewer_rows=True, room=room)
    change: dict[str, tuple[Tensor | None, Tensor, Tensor | None]] = {}
    for name, tensor in trained.items():
        held = [found.get(key) for key in (name, f"{name}.rows", f"{name}.values", f"{name}.touches")]
        match held:
            case [None, None, None, None] if name in column_tensors:
                continue
            case [Tensor() as values, None, None, None] if values.shape == tensor.shape:
                change[name] = None, values, None
            case [None, Tensor() as rows, Tensor() as values, Tensor() as touches] if _fits(
                rows, values, touches, len(tensor)
            ):
                change[name] = rows, values, touches
            case _:
                raise InputError(f"{url} is damaged: it has no whole change of {name}")
    return change


def _fits(rows: Tensor, values: Tensor, touches: Tensor, size: int) -> bool:
    """Whether rows are ascending ones of so many, each with values and a number of touches."""
    within = not len(rows) or 0 <= int(rows[0]) <= int(rows[-1]) < size
    matching = len(rows) == len(values) == len(touches) and bool((touches > 0).all())
    return within and matching and bool((rows.long().diff() > 0).all())


def _seed_of(seed: int, step: int, p: int) -> int:
    """A seed of 63 bits of which each part of each step has its own."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {p}".encode()).digest()[:8], "little") >> 1
