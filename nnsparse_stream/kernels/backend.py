"""What a backend does: the loops that training and scoring spend their time in, over blocks of sparse rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from nnsparse_stream.kernels.rules import Rule
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows


class Factors(NamedTuple):
    """A gradient by rows: the row of a place is the sum of `weights[e] * vectors[row of e]` over its entries.

    Attributes:
        by: the entries by column.
        vectors: (rows, units).
        weights: (entries,), in the order of the block.
    """

    by: Transposed
    vectors: Tensor
    weights: Tensor


class Best(Protocol):
    """The best columns of the tiles that were added, in ascending order of tiles."""

    def add(self, start: int, stop: int, scores: Tensor) -> None:
        """Takes the scores (rows, stop - start) of the columns from `start` on, which may be overwritten."""

    def result(self) -> tuple[Tensor, Tensor]:
        """Columns int64 (rows, k) and scores (rows, k), as `nn.ranking.best_columns` describes them."""


class Backend(ABC):
    """The loops, for tensors of one kind; `backends.backend_of` finds it.

    A matrix (columns, units) may be stored in bfloat16, where vectors, codes and weights are float32: what is read of
    it is widened, and all arithmetic is float32. Otherwise all are of one dtype. Results do not depend on timing, and
    sums of very many numbers are exact to about the precision of their dtype. Arguments are taken for granted:
    `operations` checks them.

    Attributes:
        name: by which `backends.using` knows it.
        dtypes: of the matrices that it takes.
    """

    name: ClassVar[str]
    dtypes: ClassVar[frozenset[torch.dtype]]

    @abstractmethod
    def transpose(self, rows: SparseRows) -> Transposed:
        """The column-wise view of a block; its cost follows the entries, not the columns."""

    @abstractmethod
    def merge(self, first: Transposed, second: Transposed, num_rows: int) -> Transposed:
        """The view of a block of `num_rows` rows and another one behind it, as one."""

    @abstractmethod
    def weighted_sums(self, rows: SparseRows, weights: Tensor, matrix: Tensor) -> Tensor:
        """For each row the sum of `weights[e] * matrix[column of e]` over its entries, (rows, units)."""

    @abstractmethod
    def products_at(self, at: SparseRows, code: Tensor, matrix: Tensor) -> Tensor:
        """The products `code[row of e] . matrix[column of e]` at the entries of `at`, (entries,)."""

    @abstractmethod
    def own_products(self, by: Transposed, left: Tensor, right: Tensor) -> Tensor:
        """The products `left[column of e] . right[column of e]`, (entries,), in the order of the block."""

    @abstractmethod
    def row_sums(self, rows: SparseRows, values: Tensor) -> Tensor:
        """The sum of each row's values (entries,), (rows,); in float64 within."""

    @abstractmethod
    def fill_at(self, at: SparseRows, places: Tensor, matrix: Tensor, value: float) -> None:
        """Sets `matrix[row of e, places[e]]` to a value at the entries of `at` that have a place, in place.

        Args:
            at: says which entries are a row's.
            places: int32 (entries,), each in [0, width); -1 for none.
            matrix: (rows, width), contiguous.
            value: the value.
        """

    @abstractmethod
    def gradient_rows(self, factors: Factors) -> Tensor:
        """The rows of a gradient, (places, units); 0 where a place has no entries."""

    @abstractmethod
    def squared_norm(self, factors: Factors) -> Tensor:
        """The sum of the squares of a gradient's rows, a 0-d tensor."""

    @abstractmethod
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
        """Updates the rows of a matrix that a gradient touches, and their state, in place.

        Args:
            rule: what to do.
            matrix: (columns, units).
            factors: the gradient.
            decays: (places,), the L2 coefficient of each row.
            state: what the rule keeps, each (columns, units) or (columns, 1), float32 for a matrix in bfloat16.
            unit_rows: whether the rows have norm 1 and keep it.
            generator: draws the rounding of bfloat16; torch's own where None.
        """

    def dense_products(self, code: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        """All products of codes (rows, units) and rows of a matrix (n, units), plus a bias (n,): (rows, n)."""
        # A GPU adds the bias where it writes the product.
        return torch.addmm(bias, code, matrix.to(code.dtype).t())

    @abstractmethod
    def best(self, rated: SparseRows, eligible: Tensor, k: int) -> Best:
        """Takes tiles of scores, and keeps each row's best; arguments as those of `nn.ranking.best_columns`."""

    @abstractmethod
    def item_sums(self, rows: SparseRows, weights: Tensor) -> Callable[[int, int], Tensor]:
        """Sums of the weights (columns, columns) of each row's columns, to ranges of columns: (rows, stop - start)."""

    @abstractmethod
    def item_sums_at(self, rows: SparseRows, weights: Tensor, at: SparseRows) -> Tensor:
        """The same at entries only, (entries,); where a column of `at` is -1, 0."""
