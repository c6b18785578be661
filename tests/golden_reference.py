"""Reads the golden vectors, and computes in plain Python what ours must give where the original deviates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows

Row = list[list[float]]
EXACT = {"rtol": 0, "atol": 0, "equal_nan": True}
CLOSE = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}


def numbers(x: Any) -> Any:
    """Nested lists with "nan", "inf" and "-inf" as floats."""
    return [numbers(element) for element in x] if isinstance(x, list) else float(x)


def tensor(x: Any) -> Tensor:
    return torch.tensor(numbers(x), dtype=torch.float64)


def is_matrix(sparse: list[Any]) -> bool:
    """Whether a recorded sparse thing is a list of rows, and not one row (a list of [index, value])."""
    return any(not row or isinstance(row[0], list) for row in sparse)


def as_rows(sparse: list[Any]) -> list[Row]:
    """A recorded sparse vector or matrix as a list of rows, values as floats."""
    return [numbers(row) for row in (sparse if is_matrix(sparse) else [sparse])]


def to_rows(sparse: list[Any], num_columns: int | None = None) -> SparseRows:
    """A recorded (1-based) sparse vector or matrix as our (0-based) rows."""
    pairs = [([int(index) - 1 for index, _ in row], [value for _, value in row]) for row in as_rows(sparse)]
    return SparseRows.from_rows(pairs, num_columns, torch.float64)


def from_rows(rows: SparseRows) -> list[Row]:
    """Our rows as 1-based lists of [index, value]."""
    return [
        [[column + 1, value] for column, value in zip(row.columns.tolist(), row.values.tolist(), strict=True)]
        for row in (rows[index] for index in range(rows.num_rows))
    ]


def same(got: Any, expected: Any, **tolerance: Any) -> None:
    """Compares nested lists of numbers or tensors."""
    got = got if isinstance(got, Tensor) else tensor(got)
    torch.testing.assert_close(got.detach(), tensor(expected), check_dtype=False, **(tolerance or CLOSE))


def same_rows(got: list[Row], expected: list[Row]) -> None:
    """Compares rows exactly; NaN equals NaN."""
    assert repr(numbers(got)) == repr(numbers(expected))


def has_empty_row(sparse: list[Any]) -> bool:
    return any(not row for row in as_rows(sparse))


def is_unsorted(sparse: list[Any]) -> bool:
    return any([index for index, _ in row] != sorted(index for index, _ in row) for row in as_rows(sparse))


def columns_fit(sparse: list[Any], num_columns: int) -> bool:
    return all(1 <= index <= num_columns for row in as_rows(sparse) for index, _ in row)


def sparsified(dense: list[list[float]], fill: float, offset: int) -> list[Row]:
    def kept(value: float) -> bool:
        return not math.isnan(value) if math.isnan(fill) else value != fill

    return [[[index + offset, value] for index, value in enumerate(row, 1) if kept(value)] for row in dense]


def densified(rows: Iterable[Row], fill: float, num_columns: int) -> list[list[float]]:
    dense = []
    for row in rows:
        dense.append([fill] * num_columns)
        for index, value in row:
            dense[-1][int(index) - 1] = value
    return dense


def stably_sorted(row: Row, part: int, descending: bool) -> Row:
    finite = [entry for entry in row if not math.isnan(entry[part])]
    finite.sort(key=lambda entry: -entry[part] if descending else entry[part])
    return finite + [entry for entry in row if math.isnan(entry[part])]


class BinaryCrossEntropy(torch.autograd.Function):
    """Torch7's BCECriterion, where 1e-12 keeps logarithms and quotients finite; torch's BCELoss clamps them instead."""

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(estimate, target)
        return -target * (estimate + 1e-12).log() - (1 - target) * (1 - estimate + 1e-12).log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        estimate, target = ctx.saved_tensors
        return grad * (estimate - target) / (estimate * (1 - estimate + 1e-12) + 1e-12), None


def binary_cross_entropy(estimate: Tensor, target: Tensor) -> Tensor:
    return BinaryCrossEntropy.apply(estimate, target)


def loss_and_slope(kind: str, estimate: float, target: float) -> tuple[float, float]:
    """One element's loss and its derivative."""
    difference = estimate - target
    if kind == "MSE":
        return difference**2, 2 * difference
    if kind == "Abs":
        return abs(difference), (difference > 0) - (difference < 0)
    if kind == "SmoothL1":
        small = abs(difference) < 1
        return (difference**2 / 2, difference) if small else (abs(difference) - 0.5, math.copysign(1, difference))
    if kind == "BCE":
        loss = -target * math.log(estimate) - (1 - target) * math.log(1 - estimate)
        return loss, difference / (estimate * (1 - estimate))
    raise AssertionError(f"no reference for the criterion {kind!r}")


def loss_and_gradient(
    kind: str, estimate: list[list[float]], rows: list[Row], weights: Sequence[Sequence[float]], divisor: float
) -> tuple[float, list[list[float]]]:
    """The loss over the entries of rows, and its gradient with respect to a dense estimate."""
    total, gradient = 0.0, [[0.0] * len(row) for row in estimate]
    for at, (row, row_weights) in enumerate(zip(rows, weights, strict=True)):
        for (index, value), weight in zip(row, row_weights, strict=True):
            loss, slope = loss_and_slope(kind, estimate[at][int(index) - 1], value)
            total += weight * loss / divisor
            gradient[at][int(index) - 1] += weight * slope / divisor
    return total, gradient
