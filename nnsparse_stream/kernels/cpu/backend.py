"""The compiled loops as a backend: tensors in, arrays that share their memory to the loops."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Backend, Factors
from nnsparse_stream.kernels.cpu import item_weights, loops, updates
from nnsparse_stream.kernels.cpu.best import CpuBest
from nnsparse_stream.kernels.cpu.parts import by_rows
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam, Rule
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows

# A sum of so many products takes some ten milliseconds, and is worth a start of threads.
_MANY_PRODUCTS = 1 << 25
# Rows whose sums of an item model's weights are made together: they stay in a processor's cache.
_ROWS = 64


class CpuBackend(Backend):
    """Loops compiled for the CPU."""

    name = "cpu"
    dtypes = frozenset({torch.float32, torch.float64})

    def transpose(self, rows: SparseRows) -> Transposed:
        """See `Backend.transpose`."""
        rows.validate()
        return Transposed(
            *map(torch.from_numpy, loops.transpose(rows.offsets.numpy(), rows.columns.numpy(), rows.num_columns))
        )

    def merge(self, first: Transposed, second: Transposed, num_rows: int) -> Transposed:
        """See `Backend.merge`."""
        rows, order = second.rows + num_rows, second.order + len(first.order)
        parts = (first.columns, first.offsets, first.rows, first.order, second.columns, second.offsets, rows, order)
        return Transposed(*map(torch.from_numpy, loops.merge(*(part.numpy() for part in parts))))

    def weighted_sums(self, rows: SparseRows, weights: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.weighted_sums`."""
        out = matrix.new_empty(rows.num_rows, matrix.shape[1])
        arrays = (rows.columns.numpy(), weights.numpy(), matrix.numpy())
        offsets, sums = rows.offsets.numpy(), out.numpy()

        def add(first: int, last: int) -> None:
            loops.weighted_sums(offsets[first : last + 1], *arrays, sums[first:last])

        if rows.num_entries * matrix.shape[1] >= _MANY_PRODUCTS:
            by_rows(add, rows.num_rows)
        else:
            add(0, rows.num_rows)
        return out

    def products_at(self, at: SparseRows, code: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.products_at`."""
        out = matrix.new_empty(at.num_entries)
        loops.products_at(at.offsets.numpy(), at.columns.numpy(), code.numpy(), matrix.numpy(), out.numpy())
        return out

    def own_products(self, by: Transposed, left: Tensor, right: Tensor) -> Tensor:
        """See `Backend.own_products`."""
        out = left.new_empty(len(by.order))
        loops.own_products(*(array.numpy() for array in (by.columns, by.offsets, by.order, left, right, out)))
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
        loops.gradient_rows(_arrays(factors), out.numpy())
        return out

    def squared_norm(self, factors: Factors) -> Tensor:
        """See `Backend.squared_norm`."""
        return torch.tensor(loops.squared_norm(_arrays(factors)), dtype=factors.vectors.dtype)

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
            updates.sgd(*what, rule.lr, rule.momentum, velocity)
        elif isinstance(rule, Adagrad):
            updates.adagrad(*what, rule.lr, rule.eps, held["squares"])
        elif isinstance(rule, Adam):
            how = (rule.lr, rule.beta1, rule.beta2, rule.eps)
            updates.adam(*what, *how, held["first"], held["second"], held["updates"])
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
