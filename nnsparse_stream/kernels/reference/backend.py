"""Torch operations as a backend: right on any device and for any dtype, where no other backend serves."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Backend, Best, Factors
from nnsparse_stream.kernels.reference.bag_sums import bag_sums
from nnsparse_stream.kernels.reference.best import ReferenceBest
from nnsparse_stream.kernels.rounding import rounded, wide
from nnsparse_stream.kernels.rules import Rule, apply_rule
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.indices import offsets_of
from nnsparse_stream.sparse.rows import SparseRows

# Rows whose scores by an item model are in memory at once, where only some of them are asked for.
_ROWS = 64

# torch warns once in a process that CSR tensors are in beta; we use two of their operations, and test both.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(
        torch.zeros(1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), (0, 0)
    )


class ReferenceBackend(Backend):
    """Torch operations. On a GPU some of them wait for the device, and all need columns that ascend within a row."""

    name = "reference"
    dtypes = frozenset({torch.float32, torch.float64, torch.bfloat16})

    def transpose(self, rows: SparseRows) -> Transposed:
        """See `Backend.transpose`."""
        sorted_columns, order = torch.sort(rows.columns, stable=True)
        columns, counts = torch.unique_consecutive(sorted_columns, return_counts=True)
        return Transposed(order.to(torch.int32), rows.row_indices()[order], columns, offsets_of(counts))

    def merge(self, first: Transposed, second: Transposed, num_rows: int) -> Transposed:
        """See `Backend.merge`."""
        rows, order = second.rows + num_rows, second.order + len(first.order)
        columns = torch.cat([block.columns.repeat_interleave(block.counts()) for block in (first, second)])
        columns, places = torch.sort(columns, stable=True)
        distinct, counts = torch.unique_consecutive(columns, return_counts=True)
        rows, order = torch.cat([first.rows, rows])[places], torch.cat([first.order, order])[places]
        return Transposed(order, rows, distinct, offsets_of(counts))

    def weighted_sums(self, rows: SparseRows, weights: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.weighted_sums`."""
        if not rows.num_entries:
            return weights.new_zeros(rows.num_rows, matrix.shape[1])
        columns, matrix = _in_use(rows.columns, matrix, weights.dtype)
        return bag_sums(matrix, columns, rows.offsets, weights)

    def products_at(self, at: SparseRows, code: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.products_at`."""
        zeros = code.new_zeros(at.num_entries)
        if not at.num_entries:
            return zeros
        columns, matrix = _in_use(at.columns, matrix, code.dtype)
        shape = (at.num_rows, len(matrix))
        if at.num_entries > at.num_rows * len(matrix):  # columns occur twice, and so often torch takes no structure
            return torch.linalg.vecdot(code[at.row_indices()], matrix[columns.long()])
        structure = torch.sparse_csr_tensor(at.offsets, columns, zeros, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(structure, code, matrix.t(), beta=0.0).values()

    def own_products(self, by: Transposed, left: Tensor, right: Tensor) -> Tensor:
        """See `Backend.own_products`."""
        index = by.columns.long()
        products = torch.linalg.vecdot(wide(left[index]), wide(right[index]))
        out = products.new_empty(len(by.order))
        out[by.order.long()] = products.repeat_interleave(by.counts(), output_size=len(by.order))
        return out

    def row_sums(self, rows: SparseRows, values: Tensor) -> Tensor:
        """See `Backend.row_sums`."""
        sums = torch.segment_reduce(values.double(), "sum", offsets=rows.offsets.long(), unsafe=True)
        return sums.to(values.dtype)

    def fill_at(self, at: SparseRows, places: Tensor, matrix: Tensor, value: float) -> None:
        """See `Backend.fill_at`."""
        # Entries without a place mark one behind the end.
        index = torch.where(places >= 0, at.row_indices().long() * matrix.shape[1] + places, matrix.numel())
        marked = torch.zeros(matrix.numel() + 1, dtype=torch.bool, device=matrix.device).index_fill_(0, index, True)
        matrix.masked_fill_(marked[:-1].view(matrix.shape), value)

    def gradient_rows(self, factors: Factors) -> Tensor:
        """See `Backend.gradient_rows`."""
        by = factors.by
        if not len(by.order):
            return factors.vectors.new_zeros(len(by.columns), factors.vectors.shape[1])
        return bag_sums(factors.vectors, by.rows, by.offsets, factors.weights[by.order.long()])

    def squared_norm(self, factors: Factors) -> Tensor:
        """See `Backend.squared_norm`."""
        return self.gradient_rows(factors).square().sum()

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
        """See `Backend.update`."""
        index = factors.by.columns.long()
        touched = {name: value[index] for name, value in state.items()}
        rows = wide(matrix[index])
        apply_rule(rule, rows, self.gradient_rows(factors), decays, touched, unit_rows)
        matrix[index] = rows if rows.dtype == matrix.dtype else rounded(rows, generator)
        for name, value in touched.items():
            state[name][index] = value

    def best(self, rated: SparseRows, eligible: Tensor, k: int) -> Best:
        """See `Backend.best`."""
        return ReferenceBest(rated, eligible, k)

    def item_sums(self, rows: SparseRows, weights: Tensor) -> Callable[[int, int], Tensor]:
        """See `Backend.item_sums`."""
        dense = torch.zeros(rows.shape, dtype=weights.dtype, device=rows.device)
        dense[rows.row_indices().long(), rows.columns.long()] = 1.0
        return lambda first, last: dense @ weights[:, first:last]

    def item_sums_at(self, rows: SparseRows, weights: Tensor, at: SparseRows) -> Tensor:
        """See `Backend.item_sums_at`."""
        out = weights.new_zeros(at.num_entries)
        for start in range(0, at.num_rows, _ROWS):
            block = at[start : start + _ROWS]
            first, last = at.offsets[[start, start + block.num_rows]].tolist()
            dense = self.item_sums(rows[start : start + _ROWS], weights)(0, weights.shape[1])
            out[first:last] = dense[block.row_indices().long(), block.columns.long().clamp(min=0)]
        return out.masked_fill_(at.columns < 0, 0.0)


def _in_use(columns: Tensor, matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Columns, and the matrix in the dtype of the arithmetic.

    A narrower matrix is cut to its rows that occur, and the columns are counted among these.
    """
    if matrix.dtype == dtype:
        return columns, matrix
    distinct, places = torch.unique(columns, return_inverse=True)
    return places.to(torch.int32), matrix[distinct.long()].to(dtype)
