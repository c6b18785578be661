"""Triton's kernels as a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.gpu import products, segments, transposition, updates
from nnsparse_stream.kernels.gpu.best import GpuBest
from nnsparse_stream.kernels.reference.backend import ReferenceBackend, merged_entries
from nnsparse_stream.kernels.rules import Rule
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows


class GpuBackend(ReferenceBackend):
    """Triton's kernels; what has none, as the sums of an item model, torch operations do.

    No method with a kernel waits for the device, and no shape depends on what a block holds. Indices are not checked:
    one that is out of range reads or writes foreign memory. On one kind of GPU, with one version of Triton, results are
    the same bit by bit.
    """

    name = "gpu"
    dtypes = frozenset({torch.float32, torch.bfloat16})

    def transpose(self, rows: SparseRows) -> Transposed:
        """See `Backend.transpose`; there are min(entries, num_columns) places."""
        with torch.cuda.device_of(rows.columns):
            return Transposed(*transposition.transpose(rows.offsets, rows.columns, rows.num_columns))

    def merge(self, first: Transposed, second: Transposed, num_rows: int) -> Transposed:
        """See `Backend.merge`; there are as many places as both have."""
        columns, order, rows = merged_entries(first, second, num_rows)
        with torch.cuda.device_of(columns):
            places = transposition.places_of(columns, len(first.columns) + len(second.columns))
        return Transposed(order, rows, *places)

    def weighted_sums(self, rows: SparseRows, weights: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.weighted_sums`."""
        with torch.cuda.device_of(matrix):
            return segments.sums(
                segments.Segments(rows.offsets, rows.columns, None, weights.contiguous(), matrix.contiguous())
            )

    def products_at(self, at: SparseRows, code: Tensor, matrix: Tensor) -> Tensor:
        """See `Backend.products_at`."""
        with torch.cuda.device_of(matrix):
            return products.products_at(at.offsets, at.columns, code.contiguous(), matrix.contiguous())

    def own_products(self, by: Transposed, left: Tensor, right: Tensor) -> Tensor:
        """See `Backend.own_products`."""
        with torch.cuda.device_of(left):
            return products.own_products(by.columns, by.offsets, by.order, left.contiguous(), right.contiguous())

    def row_sums(self, rows: SparseRows, values: Tensor) -> Tensor:
        """See `Backend.row_sums`."""
        with torch.cuda.device_of(values):
            return products.row_sums(rows.offsets, values.contiguous())

    def gradient_rows(self, factors: Factors) -> Tensor:
        """See `Backend.gradient_rows`."""
        with torch.cuda.device_of(factors.vectors):
            return segments.sums(*_gradient(factors))

    def squared_norm(self, factors: Factors) -> Tensor:
        """See `Backend.squared_norm`."""
        with torch.cuda.device_of(factors.vectors):
            return segments.sum_of_squares(*_gradient(factors))

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
        gradient, short = _gradient(factors)
        with torch.cuda.device_of(matrix):
            updates.update(rule, matrix, factors.by.columns, gradient, decays, state, unit_rows, generator, short)

    def best(self, rated: SparseRows, eligible: Tensor, k: int) -> GpuBest:
        """See `Backend.best`."""
        return GpuBest(rated, eligible, k)


def _gradient(factors: Factors) -> tuple[segments.Segments, bool]:
    """A gradient's rows as sums of segments, and whether a column can have many entries only if it repeats in a row."""
    by, vectors, weights = factors
    gradient = segments.Segments(by.offsets, by.rows, by.order, weights.contiguous(), vectors.contiguous())
    return gradient, len(vectors) <= segments.PIECE
