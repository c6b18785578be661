"""The compiled loops as a backend: tensors in, arrays that share their memory to the loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Backend, Factors
from nnsparse_stream.kernels.cpu import item_weights, loops, updates
from nnsparse_stream.kernels.cpu.best import CpuBest
from nnsparse_stream.kernels.cpu.threads import by_rows, share
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam, Rule
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows

# Rows whose sums of an item model's weights are made together: they stay in a processor's cache.
_ROWS = 64


class CpuBackend(Backend):
    """Loops compiled for the CPU."""

    name = "cpu"
    dtypes = frozenset({torch.float32, torch.float64})

    def transpose(self, rows: SparseRows) -> Transposed:
        """See `Backend.transpose`."""
        found = loops.transpose(rows.offsets.numpy(), rows.columns.numpy(), rows.num_columns)
        return Transposed(*map(torch.from_numpy, found))

    def merge(self, first: Transposed, second: Transposed, num_rows: int) -> Transposed:
        """See `Backend.merge`."""
        rows, order = second.rows + num_rows, second.order + len(first.order)
        parts = (first.columns, first.offsets, first.rows, first.order, second.columns, second.offsets, rows, order)
        return Transposed(*map(torch.from_numpy, loops.merge(*(part.numpy() for part in parts))))

    def weighted_sums(self, rows: SparseRows, weights: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.weighted_sums`."""
        out = matrix.new_empty(rows.num_rows, matrix.shape[1])
        arrays = (rows.offsets, rows.columns, weights, matrix, out)
        share(loops.weighted_sums, *(array.numpy() for array in arrays), cost=_cost(rows.num_entries, matrix))
        return out

    def products_at(self, at: SparseRows, code: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.products_at`."""
        out = matrix.new_empty(at.num_entries)
        arrays = (at.offsets, at.columns, code, matrix, out)
        share(loops.products_at, *(array.numpy() for array in arrays), cost=_cost(at.num_entries, matrix))
        return out

    def own_products(self, by: Transposed, left: Tensor, right: Tensor) -> Tensor:
        """See `Backend.own_products`."""
        out = left.new_empty(len(by.order))
        arrays = (by.columns, by.offsets, by.order, left, right, out)
        share(loops.own_products, *(array.numpy() for array in arrays), cost=_cost(len(by.columns), left))
        return out

    def row_sums(self, rows: SparseRows, values: Tensor) -> Tensor:
        """See `Backend.row_sums`."""
        sums = torch.segment_reduce(values.double(), "sum", offsets=rows.offsets.long(), unsafe=True)
        return sums.to(values.dtype)

    def fill_at(self, at: SparseRows, places: Tensor, matrix: Tensor, value: float) -> None:
        """See `Backend.fill_at`."""
        loops.fill_at(at.offsets.numpy(), places.numpy(), value, matrix.detach().numpy())

    def gradient_rows(self, factors: Factors) -> Tensor:
        """See `Backend.gradient_rows`."""
        out = factors.vectors.new_empty(len(factors.by.columns), factors.vectors.shape[1])
        share(loops.gradient_rows, _arrays(factors), out.numpy(), cost=_cost(len(factors.weights), factors.vectors))
        return out

    def squared_norm(self, factors: Factors) -> Tensor:
        """See `Backend.squared_norm`."""
        squares = np.empty(len(factors.by.columns))
        share(loops.squared_norms, _arrays(factors), squares, cost=_cost(len(factors.weights), factors.vectors))
        return torch.tensor(squares.sum(), dtype=factors.vectors.dtype)

    def update(
        self,
        rule: Rule,
        matrix: Tensor,
        factors: Factors,
        decays: Tensor,
        state: dict[str, Tensor],
        unit_rows: bool,
        generator: torch.Generator | None,
    ) -> None:
        """See `Backend.update`; a gradient row is summed in a buffer and applied at once, never stored."""
        what = (matrix.numpy(), _arrays(factors), decays.numpy(), unit_rows)
        held = {name: value.numpy() for name, value in state.items()}
        if isinstance(rule, SGD):
            velocity = held["velocity"] if held else matrix.new_empty(0, 0).numpy()
            share(
                updates.sgd, *what, rule.lr, rule.momentum, velocity, cost=_cost(len(factors.weights), factors.vectors)
            )
        elif isinstance(rule, Adagrad):
            share(
                updates.adagrad,
                *what,
                rule.lr,
                rule.eps,
                held["squares"],
                cost=_cost(len(factors.weights), factors.vectors),
            )
        elif isinstance(rule, Adam):
            how = (rule.lr, rule.beta1, rule.beta2, rule.eps)
            share(
                updates.adam,
                *what,
                *how,
                held["first"],
                held["second"],
                held["updates"],
                cost=_cost(len(factors.weights), factors.vectors),
            )
        else:
            raise TypeError(f"there is no loop for {type(rule).__name__}")

    def dense_products(self, code: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        """See `Backend.dense_products`."""
        # Not by `addmm`, which spreads the bias over the result first: that takes a sixth of the product's time.
        return torch.mm(code, matrix.t()).add_(bias)

    def best(self, rated: SparseRows, eligible: Tensor, k: int) -> CpuBest:
        """See `Backend.best`."""
        return CpuBest(rated, eligible, k)

    def item_sums(self, rows: SparseRows, weights: Tensor) -> Callable[[int, int], Tensor]:
        """See `Backend.item_sums`."""
        transposed = [self.transpose(rows[start : start + _ROWS]) for start in range(0, rows.num_rows, _ROWS)]

        def sums(first: int, last: int) -> Tensor:
            out = weights.new_empty(rows.num_rows, last - first)

            def add(start: int, stop: int) -> None:
                for block in range(start, stop):
                    by, part = transposed[block], out[block * _ROWS : (block + 1) * _ROWS]
                    arrays = (by.rows.numpy(), by.columns.numpy(), by.offsets.numpy(), weights.numpy())
                    item_weights.weight_sums(*arrays, first, part.numpy())

            by_rows(add, len(transposed))
            return out

        return sums

    def item_sums_at(self, rows: SparseRows, weights: Tensor, at: SparseRows) -> Tensor:
        """See `Backend.item_sums_at`."""
        out = weights.new_zeros(at.num_entries)
        arrays = (rows.offsets, rows.columns, weights, at.offsets, at.columns, out)
        item_weights.weight_sums_at(*(array.numpy() for array in arrays))
        return out.masked_fill_(at.columns < 0, 0.0)


def _arrays(factors: Factors) -> loops.Factors:
    by = factors.by
    held = (by.columns, by.offsets, by.order, by.rows, factors.weights, factors.vectors)
    return loops.Factors(*(array.numpy() for array in held))


def _cost(entries: int, matrix: Tensor) -> int:
    """Products at so many entries; to find a short row in memory takes as long as some."""
    return entries * max(matrix.shape[1], 64)
