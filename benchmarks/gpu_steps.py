"""Steps of training on a device for `gpu.py`: minibatches, what a step moves at least, and how long it takes.

Timing: after a warm-up, in which kernels compile, calls are made back to back between two events of the device, as many
as take 20 ms; the figure is the median of five such groups, a call. So the launches are in it, and waits of the host,
if there are any. Calls take four minibatches in turn: what a minibatch leaves in the device's cache is what it
leaves there in training.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from train_step import dense_step

from nnsparse_stream.checkpoints.checkpoint import Checkpoint
from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.backends import backend_of, using
from nnsparse_stream.kernels.rules import SGD, Adam
from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.steps import Trainer

OPTIMISERS = ("sgd", "row_adam")
KINDS = ("uniform", "zipf")
_DRAWS = 1000
_INPUTS, _GROUPS, _GROUP_SECONDS = 4, 5, 0.02
_RATE = 1e-5


class Size(NamedTuple):
    """Of minibatches, and of the model."""

    rows: int
    columns: int
    units: int
    entries: int


def milliseconds(device: torch.device, call: Callable[[int], object]) -> float:
    """The time of a call, which gets a number, from 0 on; see the module."""
    for number in range(3):
        call(number)
    count, times = 1, []
    for group in range(_GROUPS + 1):
        taken = _of_group(device, call, count)
        if group:
            times.append(taken)
        else:
            count = min(max(int(_GROUP_SECONDS / max(taken / 1e3, 1e-6)), 2), 100)
    return statistics.median(times)


def _of_group(device: torch.device, call: Callable[[int], object], count: int) -> float:
    """Milliseconds of each of so many calls."""
    if device.type != "cuda":
        started = time.perf_counter()
        for number in range(count):
            call(number)
        return 1e3 * (time.perf_counter() - started) / count
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for number in range(count):
        call(number)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / count


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second of a copy on the device, read and written ones together."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(device, lambda _: target.copy_(source)) * 1e3


def minibatch(size: Size, kind: str, device: torch.device, seed: int) -> SparseRows:
    """Rows of distinct columns, drawn one after the other: uniformly, or by Zipf's law (the n-th likely by 1 / n)."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (size.rows, _DRAWS)
    if kind == "uniform":
        draws = torch.randint(size.columns, shape, generator=generator, device=device)
    else:
        # The law is the same for all minibatches: the column of each place in it does not depend on the seed.
        column = torch.randperm(size.columns, generator=torch.Generator(device).manual_seed(0), device=device)
        share = torch.arange(1, size.columns + 1, device=device).double().reciprocal().cumsum(0)
        drawn = torch.rand(shape, generator=generator, device=device, dtype=torch.float64) * share[-1]
        draws = column[torch.searchsorted(share, drawn).clamp_(max=size.columns - 1)]
    ascending, order = draws.sort(stable=True, dim=1)
    new = torch.ones_like(ascending, dtype=torch.bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    first = torch.zeros_like(new).scatter_(1, order, new)
    taken = first & (first.cumsum(1) <= size.entries)
    assert bool((taken.sum(1) == size.entries).all()), "too few distinct columns were drawn"
    columns = draws.masked_fill(~taken, size.columns).sort(1).values[:, : size.entries]
    offsets = torch.arange(0, size.rows * size.entries + 1, size.entries, device=device)
    values = torch.randint(1, 6, (columns.numel(),), generator=generator, device=device).float()
    return SparseRows(offsets, columns.flatten(), values, size.columns)


def minibatches(size: Size, kind: str, device: torch.device) -> list[SparseRows]:
    """Several, of which calls take one after the other."""
    return [minibatch(size, kind, device, seed) for seed in range(1, _INPUTS + 1)]


def floor_bytes(size: Size, distinct: float, optimiser: str) -> dict[str, float]:
    """What a step has to move at least, by part, in bytes; float32.

    A row of a matrix is read for each entry: the catalogue's matrices do not fit into a cache. Where an optimiser
    updates it, a row is read and written once for each distinct column. The codes of the minibatch and their gradient
    do fit, and of an entry itself there are 8 bytes: these are not counted.

    Args:
        size: of the minibatch.
        distinct: columns that occur in it.
        optimiser: one of `OPTIMISERS`.
    """
    row = 4.0 * size.units
    every = size.rows * size.entries * row
    parts = {
        "encode: encoder rows": every,
        "decode: decoder rows": every,
        "gradient of the codes: decoder rows": every,
        "update: encoder rows, read and written": 2 * distinct * row,
        "update: decoder rows, read and written": 2 * distinct * row,
    }
    if optimiser == "row_adam":  # the second moment and the count are one number a row
        parts["update: first moments of both, read and written"] = 4 * distinct * row
    return parts


def trainer_of(size: Size, optimiser: str, device: torch.device, seed: int = 1) -> Trainer:
    """Steps of preset `best`, with so many units and this optimiser, from initial weights."""
    plan = recipe("best", hidden=(size.units,), optimizer=optimiser, momentum=0.9 if optimiser == "row_adam" else 0.0)
    assert isinstance(plan, StepRecipe)
    config = AutoencoderConfig(
        size.columns, (size.units,), activation="selu", output_activation="identity", mean=3.0, mean_damping=1.0,
        input_scale=15.0, row_offset=True, rating_min=1.0, rating_max=5.0,
    )  # fmt: skip
    with torch.device(device):  # a large model is drawn faster there
        model = RatingAutoencoder(config, torch.Generator(device).manual_seed(seed), 0.01)
    model.column_counts += 1
    return Trainer(Checkpoint("", {"step": 0}, model), plan, seed, device)


def step_of(trainer: Trainer, batches: list[SparseRows]) -> Callable[[int], object]:
    """A whole step of training, as `train` does it."""
    return lambda number: trainer.train_batch(batches[number % len(batches)], _RATE)


def kernels_of(trainer: Trainer, optimiser: str, batches: list[SparseRows]) -> Callable[[int], object]:
    """The kernels of a step alone: no autograd, no loss, no biases."""
    model = trainer.model
    assert isinstance(model, RatingAutoencoder)
    matrices = (model.encoder.detach(), model.decoder.detach())
    backend, states = backend_of(matrices[0]), [dict[str, Tensor]() for _ in matrices]
    rule = SGD(1e-9, 0.0) if optimiser == "sgd" else Adam(1e-9, 0.9, 0.99, 1e-8)
    if optimiser == "row_adam":
        for matrix, state in zip(matrices, states, strict=True):
            state["first"] = torch.zeros_like(matrix)
            state["second"], state["updates"] = (matrix.new_zeros(len(matrix), 1) for _ in range(2))

    def call(number: int) -> None:
        rows = batches[number % len(batches)]
        by = backend.transpose(rows)
        code = backend.weighted_sums(rows, rows.values, matrices[0])
        output = backend.products_at(rows, code, matrices[1])
        of_code = backend.weighted_sums(rows, output, matrices[1])
        decays = code.new_full((len(by.columns),), 1e-4)
        factors = (Factors(by, of_code, rows.values), Factors(by, code, output))
        for matrix, state, gradient in zip(matrices, states, factors, strict=True):
            backend.update(rule, matrix, gradient, decays, state, False, None)

    return call


def times_of(size: Size, device: torch.device, trainers: dict[str, Trainer]) -> Iterator[dict[str, Any]]:
    """Times of all kinds of steps of one size, one after the other, with the bytes of the floor.

    Args:
        size: of the minibatches.
        device: where.
        trainers: of the optimisers, for so many columns and units.
    """
    batches = {kind: minibatches(size, kind, device) for kind in KINDS}
    for kind in KINDS:
        distinct = statistics.mean(len(rows.columns.unique()) for rows in batches[kind])
        for optimiser, trainer in trainers.items():
            moved = floor_bytes(size, distinct, optimiser)
            common = {**size._asdict(), "optimiser": optimiser, "columns of": kind, "distinct": distinct}
            common |= {"bytes": moved, "backend": backend_of(trainer.model.encoder).name}
            yield {**common, "what": "step", "ms": milliseconds(device, step_of(trainer, batches[kind]))}
            kernels = kernels_of(trainer, optimiser, batches[kind])
            yield {**common, "what": "kernels", "ms": milliseconds(device, kernels)}
            if kind == "uniform":
                with using("reference"):
                    taken = milliseconds(device, step_of(trainer, batches[kind]))
                yield {**common, "what": "torch", "backend": "reference", "ms": taken}


def dense_times_of(size: Size, device: torch.device) -> dict[str, Any]:
    """The time of a step of dense layers by torch, with SGD, on uniform columns."""
    batches = minibatches(size, "uniform", device)
    with torch.device(device):
        step = dense_step(size.columns, size.units)
    taken = milliseconds(device, lambda number: step(batches[number % len(batches)]))
    return {**size._asdict(), "optimiser": "sgd", "columns of": "uniform", "what": "dense", "ms": taken}


def profile(size: Size, device: torch.device, steps: int) -> dict[str, Any]:
    """The ten longest kernels of steps of row-Adam, how many a step has, and how long the device has none to do."""
    on_gpu = device.type == "cuda"
    step = step_of(trainer_of(size, "row_adam", device), minibatches(size, "uniform", device))
    for number in range(5):
        step(number)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        torch.cuda.synchronize(device)
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as found:
        for number in range(steps):
            step(number)
        if on_gpu:
            torch.cuda.synchronize(device)
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    spans: dict[str, list[float]] = {}
    begins, ends = [], []
    for event in found.events() or []:
        if event.device_type == wanted:
            spans.setdefault(event.name, []).append(event.time_range.elapsed_us())
            begins.append(event.time_range.start)
            ends.append(event.time_range.end)
    longest = sorted(spans.items(), key=lambda item: -sum(item[1]))[:10]
    figures: dict[str, Any] = {
        **size._asdict(),
        "steps": steps,
        "longest": [
            {"name": name, "us a step": sum(times) / steps, "calls a step": len(times) / steps}
            for name, times in longest
        ],
        "launches a step": sum(map(len, spans.values())) / steps,
    }
    if on_gpu and begins:  # on one stream: no two overlap
        busy, whole = sum(map(sum, spans.values())), max(ends) - min(begins)
        figures |= {"us a step": whole / steps, "share without a kernel": 1 - busy / whole}
    return figures


@contextmanager
def refusing_waits(device: torch.device) -> Iterator[None]:
    """Raises RuntimeError where the host waits for the GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(size: Size, device: torch.device) -> dict[str, str | None]:
    """What waits in a step, by optimiser; None where nothing does."""
    found: dict[str, str | None] = {}
    for optimiser in OPTIMISERS:
        step = step_of(trainer_of(size, optimiser, device), minibatches(size, "zipf", device))
        step(0)
        try:
            with refusing_waits(device):
                for number in range(3):
                    step(number)
            found[optimiser] = None
        except RuntimeError as error:
            found[optimiser] = str(error).splitlines()[0]
    return found


def repeats(size: Size, device: torch.device, steps: int = 5) -> dict[str, bool]:
    """Whether two runs are equal, bit by bit, weights and the optimiser's state, by optimiser."""
    batches = minibatches(size, "zipf", device)

    def run(optimiser: str) -> list[Tensor]:
        trainer = trainer_of(size, optimiser, device)
        step = step_of(trainer, batches)
        for number in range(steps):
            step(number)
        states = [value for state in trainer.optimizer.state.values() for value in state.values()]
        return [*trainer.model.state_dict().values(), *states]

    def equal(optimiser: str) -> bool:
        return all(map(torch.equal, run(optimiser), run(optimiser)))

    return {optimiser: equal(optimiser) for optimiser in OPTIMISERS}


def trainers_of(size: Size, device: torch.device) -> dict[str, Trainer]:
    """One trainer for each optimiser."""
    return dict(zip(OPTIMISERS, map(partial(trainer_of, size, device=device), OPTIMISERS), strict=True))
