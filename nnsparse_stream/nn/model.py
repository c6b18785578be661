"""What a trained model offers, whatever it is: scores at entries, at tiles of columns, and the best columns of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.ranking import Eligible, ScoreTile, best_columns, rows_at_once
from nnsparse_stream.sparse.rows import SparseRows


@dataclass(frozen=True)
class ModelConfig:
    """What a model is, apart from its weights; each kind of model adds its own fields.

    Attributes:
        num_columns: columns of the catalogue that it was trained on.
    """

    num_columns: int

    #: Fields that do not say what weights mean: they may be others in a model that takes over those of an earlier one.
    free: ClassVar[frozenset[str]] = frozenset({"num_columns"})

    @property
    def rating_range(self) -> tuple[float, float] | None:
        """The lowest and the highest rating that is predicted; None where scores are no ratings."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class Model(nn.Module, ABC):
    """Turns the known entries of rows into scores: ratings in the scale of the log, or whatever lists are ordered by.

    All weights are parameters or buffers, so that a checkpoint holds them; they can be made on the device "meta".
    Fallbacks, never NaN: rows without a known entry and columns without a training entry have scores, too.

    Attributes:
        kind: the name under which `nn.models` finds the class.
        config_type: of `config`.
        config: what the model is.
        column_counts: int64 (columns,), the training entries of each column; one without is never listed.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type[ModelConfig]]
    config: Any
    column_counts: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("column_counts", torch.zeros(config.num_columns, dtype=torch.int64))
        self._copied_counts: tuple[Tensor, int, Tensor] | None = None

    @property
    def num_columns(self) -> int:
        """How many columns there are."""
        columns: int = self.config.num_columns
        return columns

    @property
    def column_tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers that have a row, or a number, for each column."""
        return frozenset({"column_counts"})

    @property
    def unit_row_tensors(self) -> frozenset[str]:
        """Names of the parameters whose rows have norm 1."""
        return frozenset()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.column_counts.device

    @property
    def host_counts(self) -> Tensor:
        """`column_counts` on the CPU; of a model on a GPU a copy, which is waited for once they have changed."""
        counts = self.column_counts
        if counts.device.type == "cpu":
            return counts
        copied = self._copied_counts
        if copied is None or copied[0] is not counts or copied[1] != counts._version:
            copied = self._copied_counts = (counts, counts._version, counts.cpu())
        return copied[2]

    def untrained(self, columns: slice | Tensor) -> Tensor | None:
        """Which columns have no training entry, bool (columns named,), on the model's device; None where all have one.

        Of a model on a GPU it is not waited for columns that a tensor names: some of these may have none.
        """
        counts = self.host_counts
        if (isinstance(columns, slice) or counts is self.column_counts) and bool((counts[columns] > 0).all()):
            return None
        return self.column_counts[columns] == 0

    @property
    def reads_features(self) -> bool:
        """Whether features of rows count for their scores, and not only their entries."""
        return False

    @abstractmethod
    def predict_at(self, known: SparseRows, at: SparseRows, clip: bool = True) -> Tensor:
        """Scores at given entries.

        Args:
            known: the rows' known entries, raw.
            at: the entries to score, a block of as many rows, ascending within a row; its values are not read.
            clip: keep scores within their range, where they have one.

        Returns:
            (entries of `at`,).

        Raises:
            ValueError: the blocks differ in their number of rows, or in columns from the model.
        """

    @abstractmethod
    def tiles(self, known: SparseRows) -> ScoreTile:
        """Scores of rows at ranges of columns, dense, not clipped.

        Args:
            known: the rows' known entries, raw, on the model's device.
        """

    @abstractmethod
    def at_unknown(self, known: SparseRows) -> Tensor:
        """Scores of a column that the vocabulary does not hold, (rows,).

        Args:
            known: the rows' known entries, raw.
        """

    @torch.no_grad()
    def top_k(self, known: SparseRows, k: int, tile_columns: int | None = None) -> tuple[Tensor, Tensor]:
        """The k columns of the highest scores that a row does not have.

        Scores are computed some rows and a tile of columns at a time: beside the result, memory depends neither on the
        number of rows nor on that of columns. Columns without a training entry are never returned.

        Args:
            known: the rows' known entries, raw; their columns are excluded.
            k: how many columns a row.
            tile_columns: columns scored at once; some 2,000, and more of few rows on a GPU, where None.

        Returns:
            Columns int64 (rows, k) and scores (rows, k), not clipped, since clipped scores would tie; by descending
            score, then ascending column. Where a row has fewer than k such columns, the rest are -1 with a score of
            -inf. A k beyond the number of columns is cut to it.
        """
        self.check(known)
        size, eligible = rows_at_once(self.device), Eligible(self.column_counts > 0, self.host_counts > 0)
        # At least one block, so that no rows make an empty result; and all before the first is scored, since to cut
        # them waits for a GPU.
        starts = range(0, max(len(known), 1), size)
        blocks = [known[first : first + size] for first in starts] if len(starts) > 1 else [known]
        best = [best_columns(self.tiles(rows), rows, eligible, k, tile_columns) for rows in blocks]
        columns, scores = zip(*best, strict=True)
        return torch.cat(columns), torch.cat(scores)

    def contributions(self, known: SparseRows, columns: Tensor) -> Tensor:
        """What each known entry adds to the scores of some columns of its row, where scores are sums of such parts.

        Args:
            known: the rows' known entries, raw.
            columns: int64 (rows, k), columns of each row; -1 for none.

        Returns:
            (entries of `known`, k); 0 for none.

        Raises:
            InputError: scores of this model are no such sums.
        """
        raise InputError(
            f"a model of kind {self.kind} cannot explain its scores: they are no sums over known entries, as those of "
            "a linear model are"
        )

    def check(self, rows: SparseRows) -> None:
        """Refuses rows of another number of columns.

        Raises:
            ValueError: that is so.
        """
        if rows.num_columns != self.num_columns:
            raise ValueError(f"rows have {rows.num_columns} columns, but the model has {self.num_columns}")

    def check_pair(self, known: SparseRows, at: SparseRows) -> None:
        """Refuses blocks that do not go together.

        Raises:
            ValueError: their numbers of rows differ, or one has another number of columns than the model.
        """
        self.check(known)
        self.check(at)
        if at.num_rows != known.num_rows:
            raise ValueError(f"{known.num_rows} rows of ratings, but entries of {at.num_rows} rows to predict")


class FactorModel(Model):
    """A model whose score is a function of a row's code, once computed, and a column's weights."""

    @property
    @abstractmethod
    def code_units(self) -> int:
        """Numbers of a code."""

    @abstractmethod
    def codes(self, known: SparseRows) -> Tensor:
        """All that scores of a row are made of, (rows, code_units).

        Args:
            known: the rows' known entries, raw.
        """

    @abstractmethod
    def decode(self, codes: Tensor, columns: slice | Tensor) -> Tensor:
        """Scores of rows at some columns, dense (rows, columns named), not clipped; the caller may write to them.

        Args:
            codes: (rows, code_units), from `codes`.
            columns: a slice of the columns, or an int64 index of them.
        """

    def tiles(self, known: SparseRows) -> ScoreTile:
        """Scores of rows at ranges of columns; see `Model.tiles`."""
        codes = self.codes(known)
        return lambda start, stop: self.decode(codes, slice(start, stop))
