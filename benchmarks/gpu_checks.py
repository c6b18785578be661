"""Checks of a device's kernels for `gpu.py`, on sizes that the tests' interpreter cannot do.

Each method of the backend that serves the device is compared with the reference in float64, on the same device, by
||found - reference|| / ||reference||. Inputs are random, by a seed that is drawn for each run; memory holds NaN before
it is written. The blocks have rows without entries, a column in every row, and a heavy row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_steps import Size, minibatch
from torch import Tensor

from nnsparse_stream.kernels.backend import Backend, Factors
from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.kernels.reference.backend import ReferenceBackend
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam, Rule
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from poison import Poisoned

_REFERENCE = ReferenceBackend()
#: The greatest error of float32 arithmetic, and of a matrix that is rounded to bfloat16 at random. TF32 would be 3e-4.
FLOAT32, BFLOAT16 = 1e-5, 1e-2
#: Rules, with the state that each keeps and whether it has all units.
RULES: dict[str, tuple[Rule, dict[str, bool]]] = {
    "row_adam": (Adam(0.1, 0.9, 0.99, 1e-3), {"first": True, "second": False, "updates": False}),
    "sgd": (SGD(0.1, 0.0), {}),
    "momentum": (SGD(0.1, 0.9), {"velocity": True}),
    "adagrad": (Adagrad(0.1, 1e-3), {"squares": True}),
    "adam": (Adam(0.1, 0.9, 0.999, 1e-3), {"first": True, "second": True, "updates": False}),
}


def _uneven(size: Size, device: torch.device, seed: int) -> SparseRows:
    """A minibatch by Zipf's law of which every fifth row is empty, others lack some entries, and one has many."""
    full = minibatch(size, "zipf", device, seed)
    generator = torch.Generator(device).manual_seed(seed)
    held = torch.rand(size.rows, size.entries, generator=generator, device=device) < 0.8
    held[::5] = False
    row = torch.arange(size.rows, device=device).repeat_interleave(size.entries)[held.flatten()]
    many = torch.arange(0, size.columns, 2, device=device)
    row = torch.cat([row, torch.full_like(many, size.rows)])
    columns = torch.cat([full.columns[held.flatten()].long(), many])
    offsets = torch.searchsorted(row, torch.arange(size.rows + 2, device=device))
    values = torch.randn(len(columns), generator=generator, device=device)
    return SparseRows(offsets, columns, values, size.columns)


def _error(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape, f"shape {tuple(found.shape)}, not {tuple(exact.shape)}"
    norm = float(exact.double().norm())
    return float((found.double() - exact.double()).norm()) / norm if norm else float(found.double().norm())


def _same_transpose(found: Transposed, exact: Transposed) -> float:
    held = len(exact.columns)
    same = torch.equal(found.order, exact.order) and torch.equal(found.rows, exact.rows)
    same = same and torch.equal(found.columns[:held], exact.columns)
    same = same and torch.equal(found.offsets[: held + 1], exact.offsets) and not found.counts()[held:].any()
    return 0.0 if same else float("inf")


def checks(size: Size, device: torch.device, storage: torch.dtype, seed: int) -> Iterator[tuple[str, float, float]]:
    """The name, the error and the greatest allowed error of each method.

    Args:
        size: of the minibatch, and the units.
        device: where.
        storage: of the matrices.
        seed: of the inputs.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    rows = _uneven(size, device, seed)
    backend = backend_of(draw(1, 1).to(storage))
    matrices = [draw(size.columns, size.units).to(storage) for _ in range(2)]
    code = draw(rows.num_rows, size.units)
    wide_rows, wide, wide_code = rows.to(dtype=torch.float64), [m.double() for m in matrices], code.double()

    def compare(method: Callable[[Backend, SparseRows, list[Tensor], Tensor], Tensor]) -> float:
        with Poisoned():
            found = method(backend, rows, matrices, code)
        return _error(found, method(_REFERENCE, wide_rows, wide, wide_code))

    with Poisoned():
        by = backend.transpose(rows)
        merged = backend.merge(by, by, rows.num_rows)
    exact_by = _REFERENCE.transpose(rows)
    yield "transpose", _same_transpose(by, exact_by), 0.0
    yield "merge", _same_transpose(merged, _REFERENCE.merge(exact_by, exact_by, rows.num_rows)), 0.0
    yield "weighted_sums", compare(lambda b, r, m, c: b.weighted_sums(r, r.values, m[0])), FLOAT32
    yield "products_at", compare(lambda b, r, m, c: b.products_at(r, c, m[0])), FLOAT32
    yield "own_products", compare(lambda b, r, m, c: b.own_products(by if b is backend else exact_by, *m)), FLOAT32
    yield "row_sums", compare(lambda b, r, m, c: b.row_sums(r, r.values)), FLOAT32

    def factors(b: Backend, r: SparseRows, c: Tensor) -> Factors:
        return Factors(by if b is backend else exact_by, c, r.values)

    held = len(exact_by.columns)
    yield "gradient_rows", compare(lambda b, r, m, c: b.gradient_rows(factors(b, r, c))[:held]), FLOAT32
    yield "squared_norm", compare(lambda b, r, m, c: b.squared_norm(factors(b, r, c))), FLOAT32

    decay_of = draw(size.columns).abs()
    for name, (rule, kept) in RULES.items():
        start = {
            label: draw(size.columns, size.units if all_units else 1).square() for label, all_units in kept.items()
        }
        if "updates" in start:
            start["updates"].mul_(100).floor_()
        for unit_rows in (False, True) if isinstance(rule, Adam) else (False,):  # each kind takes time to compile
            matrix = torch.nn.functional.normalize(matrices[0].float()).to(storage) if unit_rows else matrices[0]
            found, exact = matrix.clone(), matrix.double()
            states = [{label: value.clone() for label, value in start.items()}]
            states.append({label: value.double() for label, value in start.items()})
            for _ in range(2 if storage != torch.bfloat16 else 1):  # rounding at random would add up
                with Poisoned():
                    decays = decay_of[by.columns.long()]
                    backend.update(rule, found, factors(backend, rows, code), decays, states[0], unit_rows, None)
                decays = decay_of[exact_by.columns.long()].double()
                exact_factors = factors(_REFERENCE, wide_rows, wide_code)
                _REFERENCE.update(rule, exact, exact_factors, decays, states[1], unit_rows, None)
            told = f"update {name}{', unit rows' if unit_rows else ''}"
            yield told, _error(found, exact), BFLOAT16 if storage == torch.bfloat16 else FLOAT32
            for label in kept:
                yield f"{told}: {label}", _error(states[0][label], states[1][label]), FLOAT32
            untouched = torch.ones(size.columns, dtype=torch.bool, device=device)
            untouched[exact_by.columns.long()] = False
            yield f"{told}: other rows", 0.0 if torch.equal(found[untouched], matrix[untouched]) else float("inf"), 0.0


def run(sizes: list[Size], device: torch.device, seed: int, over: Callable[[], bool]) -> dict[str, Any]:
    """All checks: how many there were, which failed, and what there was no time for."""
    failed: list[dict[str, Any]] = []
    left_out: list[str] = []
    count, worst = 0, 0.0
    for size in sizes:
        for storage in (torch.float32, torch.bfloat16):
            what = f"{size.units} units, {str(storage).removeprefix('torch.')}"
            if over():
                left_out.append(what)
                continue
            try:
                for name, error, allowed in checks(size, device, storage, seed):
                    count += 1
                    if not error <= allowed:  # NaN is not
                        failed.append({"what": what, "method": name, "error": error, "allowed": allowed})
                    elif allowed == FLOAT32:
                        worst = max(worst, error)
                    if over():
                        left_out.append(f"{what}, after {name}")
                        break
            except Exception as error:  # the others are checked all the same
                failed.append({"what": what, "method": f"{type(error).__name__}: {str(error)[:300]}"})
    return {"seed": seed, "checks": count, "failed": failed, "left out": left_out, "worst float32 error": worst}
