"""The model: a sparse autoencoder with centring and scaling inside; raw ratings in, ratings of the same scale out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from nnsparse_stream.kernels import Transposed, decode_at, encode
from nnsparse_stream.rows import SparseRows

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "selu": nn.functional.selu,
    "silu": nn.functional.silu,
}


@dataclass(frozen=True)
class ModelConfig:
    """What a model is, apart from its weights.

    Attributes:
        num_columns: columns of the catalogue that it was trained on.
        hidden: units of each hidden layer, outermost first; (700, 500) encodes to 700, then to 500 units, and decodes
            by way of 700 again.
        activation: name of the hidden layers' activation.
        output_activation: name of the output's activation; "tanh" bounds residuals to one half of the rating range.
        mean: mean training rating, in rating units.
        rating_min: lowest training rating.
        rating_max: highest training rating.
    """

    num_columns: int
    hidden: tuple[int, ...]
    activation: str = "tanh"
    output_activation: str = "tanh"
    mean: float = 0.0
    rating_min: float = -1.0
    rating_max: float = 1.0

    def __post_init__(self) -> None:
        for name in (self.activation, self.output_activation):
            if name not in _ACTIVATIONS:
                raise ValueError(f"there is no activation {name!r}; there are {', '.join(_ACTIVATIONS)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of one or more units, got {self.hidden}")
        if not self.rating_min <= self.rating_max:
            raise ValueError(f"rating_min {self.rating_min} exceeds rating_max {self.rating_max}")

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """The configuration that `to_json` wrote."""
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})


class RatingAutoencoder(nn.Module):
    """Predicts a row's ratings from those that it has (the autoencoder of CFN, Strub & Mary 2015, Strub et al. 2016).

    A row's observed ratings, less their mean and scaled to [-1, 1] by half the rating range, are encoded by the rows of
    `encoder` that occur, passed through the hidden layers, and decoded by `decoder`: at given entries in training, at
    all columns only where a dense answer is asked for.

    Fallbacks, never NaN: a row without ratings is centred on the mean training rating, and its code is that of an
    empty input, so that its predictions are the columns' learned offsets; a column without a training rating is
    predicted as the row's mean, and is never recommended.
    """

    column_counts: Tensor

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        """Draws the weights uniformly from +-1/sqrt(inputs), as the original's layers do.

        Args:
            config: sizes, activations and rating statistics.
            generator: source of the initial weights; torch's default one where None.
        """
        super().__init__()
        self.config = config
        sizes = config.hidden

        def uniform(*shape: int, inputs: int) -> nn.Parameter:
            bound = inputs**-0.5
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound, generator=generator))

        self.encoder = uniform(config.num_columns, sizes[0], inputs=max(config.num_columns, 1))
        self.encoder_bias = uniform(sizes[0], inputs=max(config.num_columns, 1))
        self.inner = nn.ModuleList()
        for inputs, outputs in [*pairwise(sizes), *pairwise(sizes[::-1])]:
            layer = nn.Linear(inputs, outputs)
            layer.weight = uniform(outputs, inputs, inputs=inputs)
            layer.bias = uniform(outputs, inputs=inputs)
            self.inner.append(layer)
        self.decoder = uniform(config.num_columns, sizes[0], inputs=sizes[0])
        self.decoder_bias = uniform(config.num_columns, inputs=sizes[0])
        # Training ratings of each column: a column without one keeps its random weights, which must not predict.
        self.register_buffer("column_counts", torch.zeros(config.num_columns, dtype=torch.int64))

    @property
    def half_range(self) -> float:
        """Half the rating range, in rating units: what one unit of a residual stands for."""
        return (self.config.rating_max - self.config.rating_min) / 2 or 1.0

    def row_means(self, ratings: SparseRows) -> Tensor:
        """The mean rating of each row, (rows,); the mean training rating where a row has none."""
        counts = ratings.lengths()
        sums = ratings.values.new_zeros(ratings.num_rows).index_add_(0, ratings.row_indices(), ratings.values)
        return torch.where(counts > 0, sums / counts.clamp(min=1), sums.new_tensor(self.config.mean))

    def residuals(self, ratings: SparseRows, means: Tensor) -> SparseRows:
        """Ratings less their row's mean, in units of half the rating range.

        Args:
            ratings: a block of raw ratings.
            means: (rows,), from `row_means` of the rows' known ratings.
        """
        return ratings.with_values((ratings.values - means[ratings.row_indices()]) / self.half_range)

    def code(self, residuals: SparseRows, transposed: Transposed | None = None) -> Tensor:
        """The last hidden layer's activations for a block of (corrupted) residuals, (rows, hidden[0])."""
        activation = _ACTIVATIONS[self.config.activation]
        code = activation(encode(self.encoder, residuals, transposed) + self.encoder_bias)
        for layer in self.inner:
            code = activation(layer(code))
        return code

    def estimate(self, residuals: SparseRows, at: SparseRows, transposed: Transposed | None = None) -> SparseRows:
        """Estimated residuals at given entries only; the differentiable pass of training.

        Args:
            residuals: the block's input, in residual units.
            at: the entries to estimate, a block of as many rows; its values are not read.
            transposed: the transpose shared by `residuals` and `at`, where both have one structure.

        Returns:
            `at` with the estimates as values.
        """
        code = self.code(residuals, transposed)
        output = decode_at(code, self.decoder, self.decoder_bias, at, transposed)
        return at.with_values(_ACTIVATIONS[self.config.output_activation](output))

    @torch.no_grad()
    def predict_at(self, ratings: SparseRows, at: SparseRows, clip: bool = True) -> Tensor:
        """Predicts ratings at given entries.

        Args:
            ratings: the rows' known raw ratings.
            at: the entries to predict, a block of as many rows; its values are not read.
            clip: keep predictions within the training ratings' range.

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
        return self._to_ratings(estimates, means[at.row_indices()], clip)

    @torch.no_grad()
    def predict(self, ratings: SparseRows, clip: bool = True) -> Tensor:
        """Predicts the ratings of all columns, a dense (rows, columns) tensor in rating units.

        Args:
            ratings: the rows' known raw ratings.
            clip: keep predictions within the training ratings' range.
        """
        self._check(ratings)
        means = self.row_means(ratings)
        code = self.code(self.residuals(ratings, means))
        return self._to_ratings(self._decode_tile(code, 0, self.config.num_columns), means[:, None], clip)

    @torch.no_grad()
    def top_k(
        self, ratings: SparseRows, k: int, exclude: SparseRows | None = None, tile_columns: int = 65536
    ) -> tuple[Tensor, Tensor]:
        """The k columns of the highest predicted ratings that a row has not rated.

        Scores are computed a tile of columns at a time: memory is O(rows x tile), not O(rows x columns). Columns
        without a training rating are never returned.

        Args:
            ratings: the rows' known raw ratings; their columns are excluded.
            k: how many columns a row.
            exclude: entries to exclude as well, a block of as many rows; its values are not read.
            tile_columns: columns scored at once.

        Returns:
            Columns int64 (rows, k) and scores (rows, k), in rating units and not clipped, since clipped scores would
            tie; by descending score, then ascending column. Where a row has
            fewer than k such columns, the rest are -1 with a score of -inf.
        """
        self._check(ratings)
        means = self.row_means(ratings)
        code = self.code(self.residuals(ratings, means))
        blocks = [ratings] if exclude is None else [ratings, exclude]
        rows = torch.cat([block.row_indices() for block in blocks]).long()
        columns = torch.cat([block.columns for block in blocks]).long()
        best_scores = code.new_empty(ratings.num_rows, 0)
        best_columns = torch.empty(ratings.num_rows, 0, dtype=torch.int64, device=code.device)
        for start in range(0, self.config.num_columns, tile_columns):
            stop = min(start + tile_columns, self.config.num_columns)
            scores = self._decode_tile(code, start, stop)
            scores.masked_fill_(self.column_counts[start:stop] == 0, -torch.inf)
            in_tile = (columns >= start) & (columns < stop)
            scores[rows[in_tile], columns[in_tile] - start] = -torch.inf
            names = torch.arange(start, stop, device=code.device).expand(len(scores), -1)
            candidates = torch.cat([best_scores, scores], 1)
            best_scores, order = candidates.topk(min(k, candidates.shape[1]), dim=1)
            best_columns = torch.cat([best_columns, names], 1).gather(1, order)
        # Equal scores in the order of their columns.
        best_columns, order = best_columns.sort(dim=1)
        best_scores, order = best_scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        best_columns = best_columns.gather(1, order)
        missing = k - best_scores.shape[1]
        if missing > 0:
            best_scores = nn.functional.pad(best_scores, (0, missing), value=-torch.inf)
            best_columns = nn.functional.pad(best_columns, (0, missing), value=-1)
        best_columns = best_columns.masked_fill(best_scores == -torch.inf, -1)
        return best_columns, self._to_ratings(best_scores, means[:, None], clip=False)

    def _decode_tile(self, code: Tensor, start: int, stop: int) -> Tensor:
        """Estimated residuals of a tile of columns, dense (rows, stop - start); 0 at columns never trained."""
        output = torch.addmm(self.decoder_bias[start:stop], code, self.decoder[start:stop].t())
        output = _ACTIVATIONS[self.config.output_activation](output)
        return output.masked_fill_(self.column_counts[start:stop] == 0, 0.0)

    def _to_ratings(self, residuals: Tensor, means: Tensor, clip: bool) -> Tensor:
        ratings = residuals * self.half_range + means
        return ratings.clamp(self.config.rating_min, self.config.rating_max) if clip else ratings

    def _check(self, rows: SparseRows) -> None:
        if rows.num_columns != self.config.num_columns:
            raise ValueError(f"rows have {rows.num_columns} columns, but the model has {self.config.num_columns}")
