"""The gradient of a large matrix as two small factors, from which any row can be computed when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnsparse_stream.kernels import cpu as cpu_kernels
from nnsparse_stream.kernels.bag_sums import bag_sums
from nnsparse_stream.sparse.indices import offsets_of
from nnsparse_stream.sparse.rows import SparseRows


def is_compiled(tensor: Tensor) -> bool:
    """Whether the compiled kernels take a tensor; torch operations with the same results take the others."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


@dataclass(frozen=True)
class Transposed:
    """The column-wise view of a block of sparse rows, which the backward passes and the optimisers read.

    Attributes:
        order: int32 (entries,), the permutation that sorts the entries by column; rows ascend within a column.
        rows: int32 (entries,), the row of each entry in that order.
        columns: int32 (distinct,), the columns that occur, ascending.
        offsets: int32 (distinct + 1,), entries `offsets[i]:offsets[i + 1]` in that order belong to `columns[i]`.
    """

    order: Tensor
    rows: Tensor
    columns: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: SparseRows) -> Transposed:
        """Transposes a block; O(entries), whatever the number of columns.

        Raises:
            ValueError: the block's offsets or columns are out of range.
        """
        if is_compiled(rows.values):
            rows.validate()
            arrays = cpu_kernels.transpose(rows.offsets.numpy(), rows.columns.numpy(), rows.num_columns)
            return cls(*map(torch.from_numpy, arrays))
        sorted_columns, order = torch.sort(rows.columns, stable=True)
        columns, counts = torch.unique_consecutive(sorted_columns, return_counts=True)
        return cls(order.to(torch.int32), rows.row_indices()[order], columns, offsets_of(counts))

    @classmethod
    def of_rows(cls, columns: Tensor) -> Transposed:
        """The view of a block in which row i has the one entry `columns[i]`; int32, ascending, distinct."""
        places = torch.arange(len(columns) + 1, dtype=torch.int32, device=columns.device)
        return cls(places[:-1], places[:-1], columns, places)

    def followed_by(self, other: Transposed, num_rows: int) -> Transposed:
        """The view of this block of `num_rows` rows and another one behind it, as one; O(entries) on the CPU."""
        rows, order = other.rows + num_rows, other.order + len(self.order)
        if self.columns.device.type == "cpu":
            parts = (self.columns, self.offsets, self.rows, self.order, other.columns, other.offsets, rows, order)
            return Transposed(*map(torch.from_numpy, cpu_kernels.merge(*(part.numpy() for part in parts))))
        blocks = (self, other)
        columns = torch.cat([block.columns.repeat_interleave(block.offsets.diff()) for block in blocks])
        columns, places = torch.sort(columns, stable=True)
        distinct, counts = torch.unique_consecutive(columns, return_counts=True)
        rows, order = torch.cat([self.rows, rows])[places], torch.cat([self.order, order])[places]
        return Transposed(order, rows, distinct, offsets_of(counts))


class RowGradient(Tensor):
    """The gradient of a matrix (columns, ...) of which a minibatch touched some rows; what `weight.grad` is.

    It holds factors, not rows: the row of a column is the sum of `weights[e] * vectors[row of e]` over the column's
    entries. So it takes memory of the minibatch's size, and the optimisers of `nn.optimisers` compute each row
    when they update it. Untouched rows have no gradient, which is not the same as a gradient of 0: no optimiser here
    decays them.

    It is a tensor of the matrix's shape so that autograd can treat it as the gradient that it is: `zero_grad` clears
    it, and a second backward pass adds to it (exactly: the factors are put side by side). It has no storage, and no
    other operation of torch takes it; `to_dense` makes a plain tensor. It is refused where the same parameter has a
    dense gradient too.

    Attributes:
        transposed: the minibatch, by column.
        vectors: (rows, units), one vector a row.
        weights: (entries,), in the order of the minibatch's entries.
    """

    transposed: Transposed
    vectors: Tensor
    weights: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls,
        transposed: Transposed,
        vectors: Tensor,
        weights: Tensor,
        shape: tuple[int, ...] | torch.Size,
        dtype: torch.dtype,
    ) -> RowGradient:
        """Wraps the factors.

        Args:
            transposed: the minibatch, by column.
            vectors: (rows, units).
            weights: (entries,).
            shape: of the matrix, (columns, units), or (columns,) for one unit.
            dtype: of the matrix, which autograd asks of its gradient; the factors, and so the rows, may be wider.
        """
        gradient = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=vectors.device)
        gradient.transposed, gradient.vectors, gradient.weights = transposed, vectors, weights
        return gradient

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it without `func`
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        first, second = (*args, None)[:2]
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(first.transposed, first.vectors, first.weights, first.shape, first.dtype)
        if func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) and not kwargs:
            if isinstance(first, RowGradient) and isinstance(second, RowGradient):
                total = first._plus(second)
                if func is torch.ops.aten.add.Tensor:
                    return total
                first.transposed, first.vectors, first.weights = total.transposed, total.vectors, total.weights
                return first
            raise TypeError("a parameter has a gradient by rows and a dense one; make the layer with sparse=False")
        raise TypeError(
            f"{func} does not take a gradient by rows: update the parameter by RowSGD, RowAdagrad or RowAdam, "
            "make the layer with sparse=False, or call to_dense() on the gradient"
        )

    def __repr__(self) -> str:  # type: ignore[override]
        """Sizes and dtype, not the rows."""
        return f"RowGradient({len(self.columns)} of {self.shape[0]} rows, {self.dtype}, {self.device})"

    @property
    def columns(self) -> Tensor:
        """The distinct columns that have a gradient, int32 (distinct,), ascending."""
        return self.transposed.columns

    def counts(self) -> Tensor:
        """The number of the minibatch's entries in each distinct column, int32 (distinct,)."""
        return self.transposed.offsets.diff()

    def rows(self) -> Tensor:
        """The gradient rows, (distinct, units), computed now."""
        units = self.vectors.shape[1]
        if not len(self.columns):
            return self.vectors.new_zeros(0, units)
        if is_compiled(self.vectors):
            out = self.vectors.new_empty(len(self.columns), units)
            cpu_kernels.gradient_rows(self.factors(), out.numpy())
            return out
        by = self.transposed
        return bag_sums(self.vectors, by.rows, by.offsets, self.weights[by.order])

    def to_dense(self, dtype: torch.dtype | None = None, *, masked_grad: bool | None = None) -> Tensor:
        """The gradient as a plain tensor of the matrix's shape, 0 in untouched rows."""
        dense = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        dense.view(self.shape[0], -1)[self.columns.long()] = self.rows().to(self.dtype)
        return dense if dtype is None else dense.to(dtype)

    def squared_norm(self) -> Tensor:
        """The sum of the squares of all rows, a 0-d tensor; on the CPU no row is kept for it."""
        if is_compiled(self.vectors):
            return torch.tensor(cpu_kernels.squared_norm(self.factors()), dtype=self.vectors.dtype)
        return self.rows().square().sum()

    def scale_(self, factor: float | Tensor) -> RowGradient:
        """Multiplies the gradient by a number, in place; O(entries)."""
        self.weights = self.weights * factor
        return self

    def factors(self) -> cpu_kernels.Factors:
        """The factors as arrays that share their memory, for the compiled kernels."""
        by = self.transposed
        return cpu_kernels.Factors(
            by.columns.numpy(),
            by.offsets.numpy(),
            by.order.numpy(),
            by.rows.numpy(),
            self.weights.numpy(),
            self.vectors.numpy(),
        )

    def _plus(self, other: RowGradient) -> RowGradient:
        """The sum: the minibatches of both, one after the other, as one."""
        merged = self.transposed.followed_by(other.transposed, len(self.vectors))
        vectors, weights = torch.cat([self.vectors, other.vectors]), torch.cat([self.weights, other.weights])
        return RowGradient(merged, vectors, weights, self.shape, self.dtype)
