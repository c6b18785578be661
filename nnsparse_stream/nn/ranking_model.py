"""The model of lists: a linear autoencoder of what a row has, whose scores order the columns that it has not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.kernels.operations import at_entries, decode_at, encode, row_sums
from nnsparse_stream.kernels.sampled import bias_at, decode_columns, from_others
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.nn.model import FactorModel, ModelConfig
from nnsparse_stream.nn.ranking import ScoreTile
from nnsparse_stream.sparse.rows import SparseRows

# Under the root of a squared norm, so that the code of no entries is 0 and has a gradient.
_TINY = 1e-12


@dataclass(frozen=True)
class RankingConfig(ModelConfig):
    """What a model of lists is, apart from its weights.

    Attributes:
        num_rows: rows of the data set that it was trained on.
        units: units of the code.
        tied: whether one matrix encodes and decodes.
        temperature: where not None, the matrix, which must be tied, has rows of norm 1 and a score is this times the
            cosine of code and row, plus the column's bias.
        code_power: without a temperature, a code is divided by so much a power of the row's number of entries.
        popularity_power: an entry counts in its row's code by its column's training entries ^ minus this: what few have
            says more of a row.
    """

    num_rows: int
    units: int
    tied: bool = False
    temperature: float | None = None
    code_power: float = 0.0
    popularity_power: float = 0.0

    free: ClassVar[frozenset[str]] = ModelConfig.free | {"num_rows"}

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"units must be 1 or more, got {self.units}")
        if self.temperature is not None and not (self.tied and self.temperature > 0):
            raise ValueError(f"temperature must be positive and the model tied, got {self.temperature}, {self.tied}")


class Estimates(NamedTuple):
    """Scores of a minibatch.

    Attributes:
        observed: (entries,), at the minibatch's own entries.
        sampled: (rows, sampled), at sampled columns.
    """

    observed: Tensor
    sampled: Tensor


class RankingAutoencoder(FactorModel):
    """Scores the columns that a row has not by those that it has, whatever their values.

    The code of a row is z = n^-p * the sum of the encoder's rows of its n entries, each by what it counts; the score of
    a column is z times the decoder's row plus the column's bias. With a temperature t, one matrix of unit rows does
    both, and the score is t * cos(z, row) + bias.

    What is trained is not to reproduce what is there (the identity would do) but to foretell it from the rest: an
    entry's own contribution is taken out of its estimate, exactly. That is what the zero diagonal of EASE does (Steck,
    "Embarrassingly Shallow Autoencoders for Sparse Data", 2019); ELSA has the matrix of unit rows (Vancura et al.,
    "Scalable Linear Shallow Autoencoder for Collaborative Filtering", 2022).

    A row without entries has the columns' biases as scores: their learned popularity. A column without a training entry
    is never listed, and its score is the lowest bias.
    """

    kind: ClassVar[str] = "ranking"
    config_type: ClassVar[type[ModelConfig]] = RankingConfig
    config: RankingConfig

    def __init__(
        self, config: RankingConfig, generator: torch.Generator | None = None, initial_std: float = 0.02
    ) -> None:
        """Draws normal initial weights; biases are 0.

        Args:
            config: sizes and kind.
            generator: source of the initial weights; torch's default one where None.
            initial_std: their standard deviation; rows of a model with a temperature are normalised after.
        """
        super().__init__(config)

        def weight() -> nn.Parameter:
            drawn = torch.empty(config.num_columns, config.units)
            if drawn.is_meta:  # there, torch would load a part of itself, of 150 MB, to draw nothing
                return nn.Parameter(drawn)
            drawn.normal_(0, initial_std, generator=generator)
            return nn.Parameter(drawn if config.temperature is None else nn.functional.normalize(drawn))

        self.encoder = weight()
        if not config.tied:
            self.decoder = weight()
        self.decoder_bias = nn.Parameter(torch.zeros(config.num_columns))

    @property
    def column_tensors(self) -> frozenset[str]:
        """See `Model.column_tensors`."""
        return super().column_tensors | {"encoder", "decoder_bias"} | (set() if self.config.tied else {"decoder"})

    @property
    def unit_row_tensors(self) -> frozenset[str]:
        """See `Model.unit_row_tensors`."""
        return frozenset() if self.config.temperature is None else frozenset({"encoder"})

    @property
    def output_matrix(self) -> Tensor:
        """What decodes, (columns, units)."""
        return self.encoder if self.config.tied else self.decoder

    def entry_weights(self, rows: SparseRows, visible: Tensor | None = None) -> Tensor:
        """How much each visible entry counts in its row's code, 0 at the others, (entries,).

        That is n^-p of the row's n visible entries, times its column's popularity ^ minus `popularity_power`.

        Args:
            rows: the rows; their values are not read.
            visible: bool (entries,); all where None.
        """
        counts = visible_counts(rows, visible)
        power = 0.0 if self.config.temperature is not None else self.config.code_power
        weights = at_entries(rows, counts.clamp(min=1).to(rows.dtype).pow(-power))
        if self.config.popularity_power:
            of_columns = self.column_counts[rows.columns.long()].to(rows.dtype)
            # A column without a training entry keeps its random weights, which say nothing.
            weights *= torch.where(of_columns > 0, of_columns.pow(-self.config.popularity_power), 0.0)
        return weights if visible is None else weights * visible

    def estimate(
        self,
        rows: SparseRows,
        columns: Tensor,
        transposed: Transposed,
        visible: Tensor | None = None,
        precision: str = "float32",
    ) -> Estimates:
        """The differentiable pass of training: scores at a minibatch's entries and at sampled columns.

        The score of an entry is that of a row which has all its other visible entries.

        Args:
            rows: the minibatch; its values are not read.
            columns: int32 (sampled,), distinct and ascending.
            transposed: the minibatch's transpose.
            visible: bool (entries,), which of them are not hidden from the code; all where None.
            precision: of the products with sampled columns, see `nnsparse_stream.kernels.dense.product`.
        """
        weighted = rows.with_values(self.entry_weights(rows, visible))
        counts = at_entries(rows, visible_counts(rows, visible))
        # Without the entry itself, where it is visible, the code is one of so many entries.
        others = counts - (1 if visible is None else visible.long())
        if self.config.temperature is None:
            ratios = (counts.to(rows.dtype) / others.clamp(min=1)).pow_(self.config.code_power)
            parameters = (self.encoder, self.output_matrix, self.decoder_bias)
            return Estimates(*from_others(*parameters, weighted, ratios, columns, transposed, precision))
        code = encode(self.encoder, weighted, transposed)
        products = decode_at(code, self.encoder, None, rows, transposed)
        # Rows have norm 1: (z - wa) . a = z . a - w, and |z - wa|^2 = |z|^2 - 2 w z . a + w^2; of no entries exactly 0,
        # which rounding would blow up.
        squares = code.square().sum(1)
        left = torch.where(others > 0, products - weighted.values, 0.0)
        left_squares = at_entries(rows, squares) + weighted.values * (weighted.values - 2 * products)
        left_squares = torch.where(others > 0, left_squares, 1.0)
        observed = self.config.temperature * left * _inverse_roots(left_squares)
        observed = observed + bias_at(self.decoder_bias, rows, transposed)
        scaled = code * (self.config.temperature * _inverse_roots(squares))[:, None]
        return Estimates(observed, decode_columns(scaled, self.encoder, self.decoder_bias, columns, precision))

    @property
    def code_units(self) -> int:
        """Numbers of a code: the units."""
        return self.config.units

    @torch.no_grad()
    def codes(self, known: SparseRows) -> Tensor:
        """What is multiplied by the decoder's rows, (rows, units); see `FactorModel.codes`."""
        self.check(known)
        code = encode(self.encoder, known.with_values(self.entry_weights(known)))
        if self.config.temperature is not None:
            code *= (self.config.temperature * _inverse_roots(code.square().sum(1)))[:, None]
        return code

    @torch.no_grad()
    def decode(self, codes: Tensor, columns: slice | Tensor) -> Tensor:
        """Scores of rows at some columns; see `FactorModel.decode`."""
        return self._decode(codes, columns, self._lowest_bias())

    @torch.no_grad()
    def tiles(self, known: SparseRows) -> ScoreTile:
        """Scores of rows at ranges of columns; see `Model.tiles`."""
        codes, lowest = self.codes(known), self._lowest_bias()  # which takes a pass over all columns
        return lambda start, stop: self._decode(codes, slice(start, stop), lowest)

    @torch.no_grad()
    def _decode(self, codes: Tensor, columns: slice | Tensor, lowest: Tensor) -> Tensor:
        scores = backend_of(self.output_matrix).dense_products(
            codes, self.output_matrix[columns], self.decoder_bias[columns]
        )
        untrained = self.untrained(columns)
        # Not by `masked_fill_`, which on a GPU takes a tensor's value by waiting for it.
        return scores if untrained is None else torch.where(untrained, lowest, scores, out=scores)

    @torch.no_grad()
    def predict_at(self, known: SparseRows, at: SparseRows, clip: bool = True) -> Tensor:
        """Scores at given entries, an entry of the row itself among them with its own contribution; never clipped."""
        self.check_pair(known, at)
        scores = decode_at(self.codes(known), self.output_matrix, self.decoder_bias, at)
        return torch.where(self.column_counts[at.columns.long()] > 0, scores, self._lowest_bias())

    @torch.no_grad()
    def at_unknown(self, known: SparseRows) -> Tensor:
        """The score of a column that nothing is known of, (rows,): the lowest bias, as that of one never trained."""
        self.check(known)
        return self._lowest_bias().expand(known.num_rows)

    @torch.no_grad()
    def contributions(self, known: SparseRows, columns: Tensor) -> Tensor:
        """What each known entry adds to scores of its row; with the column's bias, they add up to the score.

        Args:
            known: the rows' known entries; their values are not read.
            columns: int64 (rows, k), trained columns of each row; -1 for none.

        Returns:
            (entries of `known`, k); 0 for none.
        """
        self.check(known)
        weights, row = self.entry_weights(known), known.row_indices().long()
        if self.config.temperature is not None:
            squares = encode(self.encoder, known.with_values(weights)).square().sum(1)
            weights = weights * (self.config.temperature * _inverse_roots(squares))[row]
        found = weights.new_empty(known.num_entries, columns.shape[1])
        bounds = known.offsets.tolist()
        for listed, (first, last) in zip(columns.clamp(min=0), pairwise(bounds), strict=True):
            entries = self.encoder[known.columns[first:last].long()]
            torch.mm(entries, self.output_matrix[listed].t(), out=found[first:last])
        return found.mul_(weights[:, None]).masked_fill_((columns < 0)[row], 0.0)

    def _lowest_bias(self) -> Tensor:
        if not len(self.decoder_bias):
            return self.decoder_bias.new_zeros(())
        # Of no trained column 0; not by an index, which would wait for a GPU.
        lowest = torch.where(self.column_counts > 0, self.decoder_bias, torch.inf).min()
        return torch.where(lowest < torch.inf, lowest, 0.0)


def visible_counts(rows: SparseRows, visible: Tensor | None) -> Tensor:
    """How many entries of each row are visible, (rows,); all where `visible` is None."""
    if visible is None:
        return rows.lengths()
    return row_sums(rows, visible.to(rows.dtype))


def _inverse_roots(squares: Tensor) -> Tensor:
    """1 / the root; 0 has the root of a tiny number."""
    return squares.clamp(min=_TINY).rsqrt()
