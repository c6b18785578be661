"""The gradient of a large matrix as two small factors, from which any row can be computed when it is needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.kernels.transposed import Transposed


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
        """The columns that have a gradient, int32 (places,), ascending; see `Transposed.columns`."""
        return self.transposed.columns

    def counts(self) -> Tensor:
        """The number of the minibatch's entries of each place, int32 (places,)."""
        return self.transposed.counts()

    def factors(self) -> Factors:
        """What a backend takes."""
        return Factors(self.transposed, self.vectors, self.weights)

    def rows(self) -> Tensor:
        """The gradient rows, (places, units), computed now."""
        return backend_of(self.vectors).gradient_rows(self.factors())

    def to_dense(self, dtype: torch.dtype | None = None, *, masked_grad: bool | None = None) -> Tensor:
        """The gradient as a plain tensor of the matrix's shape, 0 in untouched rows."""
        dense = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        touched = self.counts() > 0
        dense.view(self.shape[0], -1)[self.columns[touched].long()] = self.rows()[touched].to(self.dtype)
        return dense if dtype is None else dense.to(dtype)

    def squared_norm(self) -> Tensor:
        """The sum of the squares of all rows, a 0-d tensor."""
        return backend_of(self.vectors).squared_norm(self.factors())

    def scale_(self, factor: float | Tensor) -> RowGradient:
        """Multiplies the gradient by a number, in place; O(entries)."""
        self.weights = self.weights * factor
        return self

    def _plus(self, other: RowGradient) -> RowGradient:
        """The sum: the minibatches of both, one after the other, as one."""
        merged = backend_of(self.vectors).merge(self.transposed, other.transposed, len(self.vectors))
        vectors, weights = torch.cat([self.vectors, other.vectors]), torch.cat([self.weights, other.weights])
        return RowGradient(merged, vectors, weights, self.shape, self.dtype)
