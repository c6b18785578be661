"""Torch modules that take or make sparse rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nnsparse_stream.kernels.operations import decode_at, encode
from nnsparse_stream.kernels.reference.bag_sums import bag_sums
from nnsparse_stream.sparse.original import densify, sparsify
from nnsparse_stream.sparse.rows import SparseRows


class SparseLinearBatch(nn.Module):
    """A linear map of sparse rows; its cost follows the entries, not the columns.

    Entries may come in any order, a column that occurs twice in a row counts with both values, and an empty row gives
    the bias.

    Attributes:
        weight: ``(in_features, out_features)``: the transpose of ``nn.Linear``'s, so that a column's weights lie
            together in memory.
        bias: ``(out_features,)`` or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        input_grad: bool = False,
        sparse: bool = False,
    ) -> None:
        """Makes the layer.

        Args:
            in_features: number of columns of the input.
            out_features: size of each output row.
            bias: add a bias.
            input_grad: let the gradient reach ``input.values``; the first layer of a network does without.
            sparse: give the weight's gradient as a ``RowGradient`` of the columns that occur. It spares all work of the
                size of the weight, and the optimisers of ``nn.optimisers`` take it; torch's do not.

        Raises:
            ValueError: both ``input_grad`` and ``sparse`` are set.
        """
        super().__init__()
        if input_grad and sparse:
            raise ValueError("input_grad and sparse exclude each other: a sparse weight gradient stops at the input")
        self.in_features = in_features
        self.out_features = out_features
        self.input_grad = input_grad
        self.sparse = sparse
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias uniformly between plus and minus ``1 / sqrt(in_features)``, as ``nn.Linear`` does."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @classmethod
    def from_linear(cls, linear: nn.Linear, input_grad: bool = False, sparse: bool = False) -> SparseLinearBatch:
        """A layer with a copy of the parameters of ``nn.Linear``."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, input_grad, sparse)
        layer.weight = nn.Parameter(linear.weight.detach().t().clone(memory_format=torch.contiguous_format))
        if linear.bias is not None:
            layer.bias = nn.Parameter(linear.bias.detach().clone())
        return layer

    def to_linear(self) -> nn.Linear:
        """An ``nn.Linear`` with a copy of the parameters."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        linear.weight = nn.Parameter(self.weight.detach().t().clone(memory_format=torch.contiguous_format))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone())
        return linear

    def forward(self, rows: SparseRows) -> Tensor:
        """Multiplies ``(rows, in_features)`` sparse rows by the weight.

        Returns:
            ``(rows, out_features)``.

        Raises:
            ValueError: the rows have another number of columns, or hold a column out of range; names row and column.
        """
        if rows.num_columns != self.in_features:
            raise ValueError(f"the rows have {rows.num_columns} columns, but the layer takes {self.in_features}")
        # On a GPU an index out of range would end the process, without saying which.
        rows.validate()
        if self.sparse:
            output = encode(self.weight, rows)
        else:
            weights = rows.values if self.input_grad else rows.values.detach()
            output = bag_sums(self.weight, rows.columns, rows.offsets, weights)
        return output if self.bias is None else output + self.bias

    def extra_repr(self) -> str:
        """What ``repr`` shows of the layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"input_grad={self.input_grad}, sparse={self.sparse}"
        )


class SampledLinear(nn.Module):
    """A linear map computed only at the entries asked for: the output side's twin of ``SparseLinearBatch``.

    Its cost follows the entries, not the columns; what is not asked for is neither computed nor learned from (as in a
    sampled softmax, or a loss over the observed ratings).

    Attributes:
        weight: ``(out_features, in_features)``, as ``nn.Linear``'s.
        bias: ``(out_features,)`` or None.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, sparse: bool = False) -> None:
        """Makes the layer.

        Args:
            in_features: size of each input row.
            out_features: number of columns of the output.
            bias: add a bias.
            sparse: give the gradients of weight and bias as ``RowGradient`` of the columns asked for. It spares all
                work of the size of the weight, and the optimisers of ``nn.optimisers`` take it; torch's do not.
        """
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.sparse = sparse
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias uniformly between plus and minus ``1 / sqrt(in_features)``, as ``nn.Linear`` does."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, at: SparseRows) -> SparseRows:
        """Multiplies ``(rows, in_features)`` by the weight's rows at given entries.

        Args:
            x: the input rows.
            at: the entries to compute, a block of as many rows; its values are not read. On a GPU columns must ascend
                within a row, without duplicates.

        Returns:
            ``at`` with the outputs as values.

        Raises:
            ValueError: sizes do not fit, or ``at`` holds a column out of range; names row and column.
        """
        at.validate()
        return at.with_values(decode_at(x, self.weight, self.bias, at, dense_gradients=not self.sparse))

    def extra_repr(self) -> str:
        """What ``repr`` shows of the layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"sparse={self.sparse}"
        )


class Densify(nn.Module):
    """Turns sparse rows into a dense ``(rows, num_columns)`` tensor; the gradient reaches their values."""

    def __init__(self, num_columns: int, fill: float = 0.0) -> None:
        """Makes the layer.

        Args:
            num_columns: number of columns of the output.
            fill: what stands where nothing is stored.
        """
        super().__init__()
        self.num_columns = num_columns
        self.fill = fill

    def forward(self, rows: SparseRows) -> Tensor:
        """The dense rows.

        Raises:
            ValueError: a column is out of range; names the row.
        """
        return densify(rows, self.fill, self.num_columns)

    def extra_repr(self) -> str:
        """What ``repr`` shows of the layer."""
        return f"num_columns={self.num_columns}, fill={self.fill}"


class Sparsifier(nn.Module):
    """Turns a dense vector or matrix into sparse rows of its elements other than 0."""

    def __init__(self, offset: int = 0) -> None:
        """Makes the layer.

        Args:
            offset: added to every column.
        """
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> SparseRows:
        """The sparse rows of ``x``, a vector ``(columns,)`` or a matrix ``(rows, columns)``."""
        return sparsify(x, offset=self.offset)

    def extra_repr(self) -> str:
        """What ``repr`` shows of the layer."""
        return f"offset={self.offset}"
