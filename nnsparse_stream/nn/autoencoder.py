"""The model: a sparse autoencoder with centring and scaling inside; raw ratings in, ratings of the same scale out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from nnsparse_stream.kernels.operations import Transposed, decode_at, encode
from nnsparse_stream.nn.ranking import TILE_COLUMNS, best_columns
from nnsparse_stream.sparse.rows import SparseRows

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "selu": nn.functional.selu,
    "silu": nn.functional.silu,
}

_STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelConfig:
    """What a model is, apart from its weights.

    Attributes:
        num_columns: columns of the catalogue that it was trained on.
        hidden: units of each hidden layer, outermost first; (700, 500) encodes to 700, then to 500 units, and decodes
            by way of 700 again.
        activation: name of the hidden layers' activation.
        output_activation: name of the output's activation; "tanh" bounds residuals to one `unit`.
        mean: mean training rating, in rating units.
        unit: rating units that one unit of a residual stands for.
        mean_damping: a row's mean is damped by so many ratings of the mean training rating.
        input_scale: where not None, a row's input is multiplied by this and divided by the square root of its number of
            visible entries, so that its code does not grow with the number of ratings.
        presence: whether a second matrix encodes which columns are visible, whatever their ratings, divided by the
            square root of their number (as the implicit feedback of SVD++, Koren 2008).
        row_offset: whether a linear function of the code is added to all estimates of a row.
        rating_min: lowest rating of the data set, in any fold.
        rating_max: highest.
        storage: dtype of the matrices that have a row for each column, "float32" or "bfloat16"; all arithmetic
            is in float32.
    """

    num_columns: int
    hidden: tuple[int, ...]
    activation: str = "tanh"
    output_activation: str = "tanh"
    mean: float = 0.0
    unit: float = 1.0
    mean_damping: float = 0.0
    input_scale: float | None = None
    row_offset: bool = False
    presence: bool = False
    rating_min: float = -1.0
    rating_max: float = 1.0
    storage: str = "float32"

    def __post_init__(self) -> None:
        if self.storage not in _STORAGE:
            raise ValueError(f"there is no storage {self.storage!r}; there are {', '.join(_STORAGE)}")
        for name in (self.activation, self.output_activation):
            if name not in _ACTIVATIONS:
                raise ValueError(f"there is no activation {name!r}; there are {', '.join(_ACTIVATIONS)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of one or more units, got {self.hidden}")
        if not self.rating_min <= self.rating_max:
            raise ValueError(f"rating_min {self.rating_min} exceeds rating_max {self.rating_max}")
        if not self.unit > 0 or self.mean_damping < 0:
            raise ValueError(
                f"unit must be positive and mean_damping not negative, got {self.unit}, {self.mean_damping}"
            )

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """The configuration that `to_json` wrote."""
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})


class RatingAutoencoder(nn.Module):
    """Predicts a row's ratings from those that it has (the autoencoder of CFN, Strub & Mary 2015, Strub et al. 2016).

    A row's observed ratings, less their mean and divided by `unit`, are encoded by the rows of `encoder` that occur,
    passed through the hidden layers, and decoded by `decoder`: at given entries in training, at all columns only where
    a dense answer is asked for.

    Fallbacks, never NaN: a row without ratings is centred on the mean training rating, and its code is that of an
    empty input, so that its predictions are the columns' learned offsets; a column without a training rating is
    predicted as the row's mean, and is never recommended.
    """

    column_counts: Tensor

    def __init__(
        self,
        config: ModelConfig,
        generator: torch.Generator | None = None,
        initial_std: float | None = None,
    ) -> None:
        """Draws the initial weights.

        Args:
            config: sizes, activations and rating statistics.
            generator: source of the initial weights; torch's default one where None.
            initial_std: standard deviation of normal weights, with biases of 0; where None, weights and biases are
                uniform in +-1/sqrt(inputs), as those of the original's layers.
        """
        super().__init__()
        self.config = config
        sizes = config.hidden

        def weight(*shape: int, inputs: int) -> nn.Parameter:
            if initial_std is not None:
                return nn.Parameter(torch.empty(*shape).normal_(0, initial_std, generator=generator))
            bound = inputs**-0.5
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound, generator=generator))

        def bias(size: int, inputs: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(size)) if initial_std is not None else weight(size, inputs=inputs)

        self.encoder = weight(config.num_columns, sizes[0], inputs=max(config.num_columns, 1))
        self.presence = (
            weight(config.num_columns, sizes[0], inputs=max(config.num_columns, 1)) if config.presence else None
        )
        self.encoder_bias = bias(sizes[0], inputs=max(config.num_columns, 1))
        self.inner = nn.ModuleList()
        for inputs, outputs in [*pairwise(sizes), *pairwise(sizes[::-1])]:
            layer = nn.Linear(inputs, outputs)
            layer.weight = weight(outputs, inputs, inputs=inputs)
            layer.bias = bias(outputs, inputs=inputs)
            self.inner.append(layer)
        self.decoder = weight(config.num_columns, sizes[0], inputs=sizes[0])
        self.decoder_bias = bias(config.num_columns, inputs=sizes[0])
        for matrix in (self.encoder, self.presence, self.decoder):
            if matrix is not None:
                matrix.data = matrix.data.to(_STORAGE[config.storage])
        self.row_offset = nn.Parameter(torch.zeros(sizes[0])) if config.row_offset else None
        # Training ratings of each column: a column without one keeps its random weights, which must not predict.
        self.register_buffer("column_counts", torch.zeros(config.num_columns, dtype=torch.int64))

    def row_means(self, ratings: SparseRows) -> Tensor:
        """The (damped) mean rating of each row, (rows,); the mean training rating where a row has none."""
        counts = ratings.lengths()
        sums = ratings.values.new_zeros(ratings.num_rows).index_add_(0, ratings.row_indices(), ratings.values)
        damping, mean = self.config.mean_damping, sums.new_tensor(self.config.mean)
        return torch.where(counts > 0, (sums + damping * mean) / (counts + damping).clamp(min=1), mean)

    def residuals(self, ratings: SparseRows, means: Tensor) -> SparseRows:
        """Ratings less their row's mean, in units of `config.unit`.

        Args:
            ratings: a block of raw ratings.
            means: (rows,), from `row_means` of the rows' known ratings.
        """
        return ratings.with_values((ratings.values - means[ratings.row_indices()]) / self.config.unit)

    def code(
        self,
        residuals: SparseRows,
        visible: Tensor | None = None,
        transposed: Transposed | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """The activations of a hidden layer: of the last, (rows, hidden[0]), where `layers` does not say another.

        Args:
            residuals: the block's input, in residual units; what is hidden from it has the value 0.
            visible: bool (entries,), which entries are not hidden; all where None. It counts only for `input_scale` and
                `presence`.
            transposed: the block's transpose.
            layers: pass through so many hidden layers only.
        """
        activation = _ACTIVATIONS[self.config.activation]
        inputs: Tensor = self.encoder_bias
        if self.presence is not None:
            present = residuals.with_values(_shares(residuals, visible))
            inputs = inputs + encode(self.presence, present, transposed)
        if self.config.input_scale is not None:
            scale = self.config.input_scale * _shares(residuals, visible)
            residuals = residuals.with_values(residuals.values * scale)
        code = activation(encode(self.encoder, residuals, transposed) + inputs)
        for layer in self.inner[: None if layers is None else layers - 1]:
            code = activation(layer(code))
        return code

    def reconstruct(self, code: Tensor, layer: int) -> Tensor:
        """A hidden layer's input, passed through it and through its mirror image on the decoding side.

        Args:
            code: (rows, hidden[layer - 1]), what the layer reads.
            layer: from 1, the first hidden layer that reads another's code.
        """
        activation = _ACTIVATIONS[self.config.activation]
        return activation(self.inner[-layer](activation(self.inner[layer - 1](code))))

    def estimate(
        self,
        residuals: SparseRows,
        at: SparseRows,
        visible: Tensor | None = None,
        transposed: Transposed | None = None,
        layers: int | None = None,
    ) -> SparseRows:
        """Estimated residuals at given entries only; the differentiable pass of training.

        Args:
            residuals: the block's input, in residual units.
            at: the entries to estimate, a block of as many rows; its values are not read.
            visible: bool (entries of `residuals`,), which of them are not hidden; all where None.
            transposed: the transpose shared by `residuals` and `at`, where both have one structure.
            layers: 1 to leave out the inner layers, which are trained later.

        Returns:
            `at` with the estimates as values.
        """
        code = self.code(residuals, visible, transposed, layers)
        output = decode_at(code, self.decoder, self.decoder_bias, at, transposed)
        if self.row_offset is not None:
            output = output + (code @ self.row_offset)[at.row_indices()]
        return at.with_values(_ACTIVATIONS[self.config.output_activation](output))

    @torch.no_grad()
    def predict_at(self, ratings: SparseRows, at: SparseRows, clip: bool = True) -> Tensor:
        """Predicts ratings at given entries.

        Args:
            ratings: the rows' known raw ratings.
            at: the entries to predict, a block of as many rows; its values are not read.
            clip: keep predictions within the range of the data set's ratings.

        Returns:
            (entries of `at`,), in rating units.

        Raises:
            ValueError: the blocks differ in their number of rows, or in columns from the model.
        """
        self._check(ratings)
        self._check(at)
        if at.num_rows != ratings.num_rows:
            raise ValueError(f"{ratings.num_rows} rows of ratings, but entries of {at.num_rows} rows to predict")
        means = self.row_means(ratings)
        estimates = self.estimate(self.residuals(ratings, means), at).values
        estimates = torch.where(self.column_counts[at.columns.long()] > 0, estimates, 0.0)
        return self.to_ratings(estimates, means[at.row_indices()], clip)

    @torch.no_grad()
    def predict(self, ratings: SparseRows, clip: bool = True) -> Tensor:
        """Predicts the ratings of all columns, a dense (rows, columns) tensor in rating units.

        Args:
            ratings: the rows' known raw ratings.
            clip: keep predictions within the range of the data set's ratings.
        """
        code, means = self.encode_rows(ratings)
        return self.to_ratings(self.decode(code, slice(None)), means[:, None], clip)

    @torch.no_grad()
    def top_k(self, ratings: SparseRows, k: int, tile_columns: int = TILE_COLUMNS) -> tuple[Tensor, Tensor]:
        """The k columns of the highest predicted ratings that a row has not rated.

        Scores are computed a tile of columns at a time: memory is O(rows x (tile + k)), not O(rows x columns). Columns
        without a training rating are never returned.

        Args:
            ratings: the rows' known raw ratings; their columns are excluded.
            k: how many columns a row.
            tile_columns: columns scored at once.

        Returns:
            Columns int64 (rows, k) and scores (rows, k), in rating units and not clipped, since clipped scores would
            tie; by descending score, then ascending column. Where a row has fewer than k such columns, the rest are -1
            with a score of -inf. A k beyond the number of columns is cut to it.
        """
        code, means = self.encode_rows(ratings)
        columns, estimates = best_columns(
            lambda start, stop: self.decode(code, slice(start, stop)), ratings, self.column_counts > 0, k, tile_columns
        )
        return columns, self.to_ratings(estimates, means[:, None], clip=False)

    @torch.no_grad()
    def encode_rows(self, ratings: SparseRows) -> tuple[Tensor, Tensor]:
        """What predictions of a row are made of: its code (rows, hidden[0]) and its mean (rows,).

        Args:
            ratings: the rows' known raw ratings.
        """
        self._check(ratings)
        means = self.row_means(ratings)
        return self.code(self.residuals(ratings, means)), means

    @torch.no_grad()
    def decode(self, code: Tensor, columns: slice | Tensor) -> Tensor:
        """Estimated residuals of rows at some columns, dense (rows, columns named); 0 at columns never trained.

        Args:
            code: (rows, hidden[0]), from `encode_rows`.
            columns: a slice of the columns, or an int64 index of them.
        """
        output = torch.addmm(self.decoder_bias[columns], code, self.decoder[columns].to(code.dtype).t())
        if self.row_offset is not None:
            output += (code @ self.row_offset)[:, None]
        output = _ACTIVATIONS[self.config.output_activation](output)
        return output.masked_fill_(self.column_counts[columns] == 0, 0.0)

    def to_ratings(self, residuals: Tensor, means: Tensor, clip: bool) -> Tensor:
        """Estimated residuals as ratings; `means`, those of the rows, must broadcast to their shape."""
        ratings = residuals * self.config.unit + means
        return ratings.clamp(self.config.rating_min, self.config.rating_max) if clip else ratings

    def _check(self, rows: SparseRows) -> None:
        if rows.num_columns != self.config.num_columns:
            raise ValueError(f"rows have {rows.num_columns} columns, but the model has {self.config.num_columns}")


def _shares(rows: SparseRows, visible: Tensor | None) -> Tensor:
    """1 / sqrt(the row's visible entries) at each of them, 0 at the others, (entries,)."""
    seen = torch.ones_like(rows.values) if visible is None else visible.to(rows.dtype)
    row = rows.row_indices()
    return seen * seen.new_zeros(rows.num_rows).index_add_(0, row, seen).clamp(min=1).rsqrt()[row]
