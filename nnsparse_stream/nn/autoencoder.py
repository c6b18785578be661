"""The model: a sparse autoencoder with centring and scaling inside; raw ratings in, ratings of the same scale out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.kernels.dense import PRECISIONS
from nnsparse_stream.kernels.operations import at_entries, decode_at, encode, row_sums
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.nn.inner_linear import InnerLinear
from nnsparse_stream.nn.model import FactorModel, ModelConfig
from nnsparse_stream.nn.ranking import ScoreTile
from nnsparse_stream.sparse.rows import SparseRows

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "shifted_sigmoid": lambda x: torch.sigmoid(x) - 0.5,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "selu": nn.functional.selu,
    "silu": nn.functional.silu,
}

_STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AutoencoderConfig(ModelConfig):
    """What an autoencoder is, apart from its weights.

    Attributes:
        num_columns: columns of the catalogue that it was trained on.
        hidden: units of each hidden layer, outermost first; (700, 500) encodes to 700, then to 500 units.
        mirrored: whether it decodes by way of the hidden layers in reverse order, with weights of their own (500, 700),
            and not from the last one.
        activation: name of the hidden layers' activation.
        output_activation: name of the output's activation; "tanh" bounds residuals to one `unit`.
        mean: mean training rating, in rating units.
        unit: rating units that one unit of a residual stands for.
        mean_damping: a row's mean is damped by so many ratings of the mean that is expected of it: the mean training
            rating or, of a row with features, what these foretell.
        raw_input: whether the input is the ratings themselves, and not the residuals.
        input_scale: where not None, a row's input is multiplied by this and divided by the square root of its number of
            visible entries, so that its code does not grow with the number of ratings.
        presence: whether a second matrix encodes which columns are visible, whatever their ratings, divided by the
            square root of their number (as the implicit feedback of SVD++, Koren 2008).
        num_features: features of rows that there are, beside their ratings; 0 where there are none.
        feature_scale: the features of a row are encoded, multiplied by this and divided by the square root of their
            number: by a third matrix for the code, and by a vector for the mean that is expected of the row.
        row_offset: whether a linear function of the code is added to all estimates of a row.
        rating_min: lowest rating of the data set, in any fold.
        rating_max: highest.
        storage: dtype of the matrices that have a row for each column, "float32" or "bfloat16"; all arithmetic
            is in float32.
        inner_precision: of the products of inner layers, "float32", "tf32" or "bfloat16"; see
            `nnsparse_stream.kernels.dense.product`.
        num_rows: rows of the data set that it was trained on; 0 where that is not known.
    """

    hidden: tuple[int, ...]
    mirrored: bool = True
    activation: str = "tanh"
    output_activation: str = "tanh"
    mean: float = 0.0
    unit: float = 1.0
    mean_damping: float = 0.0
    raw_input: bool = False
    input_scale: float | None = None
    row_offset: bool = False
    presence: bool = False
    num_features: int = 0
    feature_scale: float = 0.0
    rating_min: float = -1.0
    rating_max: float = 1.0
    storage: str = "float32"
    inner_precision: str = "float32"
    num_rows: int = 0

    free: ClassVar[frozenset[str]] = ModelConfig.free | {"num_rows", "rating_min", "rating_max", "inner_precision"}

    @property
    def rating_range(self) -> tuple[float, float]:
        """The lowest and the highest rating that is predicted."""
        return self.rating_min, self.rating_max

    def __post_init__(self) -> None:
        if self.storage not in _STORAGE:
            raise ValueError(f"there is no storage {self.storage!r}; there are {', '.join(_STORAGE)}")
        if self.inner_precision not in PRECISIONS:
            raise ValueError(f"there is no inner_precision {self.inner_precision!r}; there are {', '.join(PRECISIONS)}")
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

    @property
    def decoded_units(self) -> int:
        """Units of the last hidden layer, which is decoded."""
        return self.hidden[0] if self.mirrored else self.hidden[-1]


class _Decodable(NamedTuple):
    """What predictions of rows are made of; all but the code are (rows, 1)."""

    code: Tensor  # (rows, decoded units)
    inner: Tensor | None  # what is added to a row's outputs before their activation; None for nothing
    outer: Tensor  # what is added after it, in rating units
    means: Tensor


class RatingAutoencoder(FactorModel):
    """Predicts a row's ratings from those that it has (the autoencoder of CFN, Strub & Mary 2015, Strub et al. 2016).

    A row's observed ratings, less their mean and divided by `unit`, are encoded by the rows of `encoder` that occur,
    passed through the hidden layers, and decoded by `decoder`: at given entries in training, at all columns only where
    a dense answer is asked for.

    Fallbacks, never NaN: a row without ratings is centred on the mean that is expected of it, and its code is that of
    its features and an empty input, so that without any its predictions are the columns' learned offsets; a column
    without a training rating is predicted as the row's mean, and is never recommended.
    """

    kind = "autoencoder"
    config_type = AutoencoderConfig
    config: AutoencoderConfig

    def __init__(
        self,
        config: AutoencoderConfig,
        generator: torch.Generator | None = None,
        initial_std: float | None = None,
        inner_gain: float | None = None,
    ) -> None:
        """Draws the initial weights.

        Args:
            config: sizes, activations and rating statistics.
            generator: source of the initial weights; torch's default one where None.
            initial_std: standard deviation of normal weights, with biases of 0; where None, weights and biases are
                uniform in +-1/sqrt(inputs), as those of the original's layers.
            inner_gain: where not None, weights of inner layers are normal with a standard deviation of this /
                sqrt(inputs).
        """
        super().__init__(config)
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
        # From 0, so that what a feature of few rows has not learned adds no noise.
        self.features, self.feature_means = (
            nn.Parameter(torch.zeros(config.num_features, units)) if config.num_features else None
            for units in (sizes[0], 1)
        )
        self.encoder_bias = bias(sizes[0], inputs=max(config.num_columns, 1))
        self.inner = nn.ModuleList()
        for inputs, outputs in [*pairwise(sizes), *(pairwise(sizes[::-1]) if config.mirrored else ())]:
            layer = InnerLinear(inputs, outputs, config.inner_precision)
            layer.weight = weight(outputs, inputs, inputs=inputs)
            if inner_gain is not None:
                layer.weight.data.normal_(0, inner_gain * inputs**-0.5, generator=generator)
            layer.bias = bias(outputs, inputs=inputs)
            self.inner.append(layer)
        decoded = config.decoded_units
        self.decoder = weight(config.num_columns, decoded, inputs=decoded)
        self.decoder_bias = bias(config.num_columns, inputs=decoded)
        for matrix in (self.encoder, self.presence, self.decoder):
            if matrix is not None:
                matrix.data = matrix.data.to(_STORAGE[config.storage])
        self.row_offset = nn.Parameter(torch.zeros(decoded)) if config.row_offset else None

    @property
    def column_tensors(self) -> frozenset[str]:
        """See `Model.column_tensors`."""
        presence = {"presence"} if self.config.presence else set()
        return super().column_tensors | {"encoder", "decoder", "decoder_bias"} | presence

    @property
    def reads_features(self) -> bool:
        """Whether there is a matrix of features."""
        return self.features is not None

    def expected_means(self, ratings: SparseRows) -> Tensor:
        """The mean rating that the features of each row foretell, (rows,); the mean training rating without any."""
        means = ratings.values.new_full((ratings.num_rows,), self.config.mean)
        if self.feature_means is None or ratings.features is None:
            return means
        return means + encode(self.feature_means, self._scaled(ratings.features))[:, 0]

    def _scaled(self, features: SparseRows) -> SparseRows:
        """Features as they are encoded."""
        values = self.config.feature_scale * _shares(features, None)
        return SparseRows(features.offsets, features.columns, values, self.config.num_features)

    def row_means(self, ratings: SparseRows) -> Tensor:
        """The (damped) mean rating of each row, (rows,); the mean that is expected of it where it has none."""
        counts, sums = ratings.lengths(), row_sums(ratings, ratings.values.double())
        damping, mean = self.config.mean_damping, self.expected_means(ratings).detach().double()
        means = torch.where(counts > 0, (sums + damping * mean) / (counts + damping).clamp(min=1), mean)
        return means.to(ratings.dtype)

    def residuals(self, ratings: SparseRows, means: Tensor) -> SparseRows:
        """Ratings less their row's mean, in units of `config.unit`.

        Args:
            ratings: a block of raw ratings.
            means: (rows,), from `row_means` of the rows' known ratings.
        """
        return ratings.with_values((ratings.values - at_entries(ratings, means)) / self.config.unit)

    def inputs(self, ratings: SparseRows, means: Tensor) -> SparseRows:
        """What the layers read, in units of `config.unit`: residuals or raw ratings; arguments as in `residuals`."""
        if self.config.raw_input:
            return ratings.with_values(ratings.values / self.config.unit)
        return self.residuals(ratings, means)

    def code(
        self,
        inputs: SparseRows,
        visible: Tensor | None = None,
        transposed: Transposed | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """The activations of a hidden layer: of the last, (rows, decoded units), where `layers` does not say another.

        Args:
            inputs: from `inputs`; what is hidden has the value 0.
            visible: bool (entries,), which entries are not hidden; all where None. It counts only for `input_scale` and
                `presence`.
            transposed: the block's transpose.
            layers: pass through so many hidden layers only.
        """
        activation = _ACTIVATIONS[self.config.activation]
        offset: Tensor = self.encoder_bias
        if self.presence is not None:
            present = inputs.with_values(_shares(inputs, visible))
            offset = offset + encode(self.presence, present, transposed)
        if self.features is not None and inputs.features is not None:
            offset = offset + encode(self.features, self._scaled(inputs.features))
        if self.config.input_scale is not None:
            scale = self.config.input_scale * _shares(inputs, visible)
            inputs = inputs.with_values(inputs.values * scale)
        code = activation(encode(self.encoder, inputs, transposed) + offset)
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
        inputs: SparseRows,
        at: SparseRows,
        visible: Tensor | None = None,
        transposed: Transposed | None = None,
        layers: int | None = None,
    ) -> SparseRows:
        """Estimated residuals at given entries only; the differentiable pass of training.

        Args:
            inputs: from `inputs`; what is hidden has the value 0.
            at: the entries to estimate, a block of as many rows; its values are not read.
            visible: bool (entries of `inputs`,), which of them are not hidden; all where None.
            transposed: the transpose shared by `inputs` and `at`, where both have one structure.
            layers: 1 to leave out the inner layers, which are trained later.

        Returns:
            `at` with the estimates as values.
        """
        code = self.code(inputs, visible, transposed, layers)
        output = decode_at(code, self.decoder, self.decoder_bias, at, transposed)
        if self.row_offset is not None:
            output = output + at_entries(at, code @ self.row_offset)
        return at.with_values(_ACTIVATIONS[self.config.output_activation](output))

    @torch.no_grad()
    def predict_at(self, known: SparseRows, at: SparseRows, clip: bool = True) -> Tensor:
        """Predicted ratings at given entries, in rating units; see `Model.predict_at`.

        Args:
            known: the rows' known raw ratings.
            at: the entries to predict, a block of as many rows; its values are not read.
            clip: keep predictions within the range of the data set's ratings.
        """
        self.check_pair(known, at)
        means = self.row_means(known)
        estimates = self.estimate(self.inputs(known, means), at).values
        # A column without a training rating keeps its random weights, which must not predict.
        estimates = torch.where(self.column_counts[at.columns.long()] > 0, estimates, 0.0)
        return self._ratings(estimates, at_entries(at, means), clip)

    @torch.no_grad()
    def predict(self, known: SparseRows, clip: bool = True) -> Tensor:
        """Predicts the ratings of all columns, a dense (rows, columns) tensor in rating units.

        Args:
            known: the rows' known raw ratings.
            clip: keep predictions within the range of the data set's ratings.
        """
        ratings = self.decode(self.codes(known), slice(None))
        return ratings.clamp_(self.config.rating_min, self.config.rating_max) if clip else ratings

    @torch.no_grad()
    def at_unknown(self, known: SparseRows) -> Tensor:
        """The rows' means, (rows,)."""
        return self.row_means(known)

    @property
    def code_units(self) -> int:
        """Those of the layer that is decoded, and the row's mean."""
        return self.config.decoded_units + 1

    @torch.no_grad()
    def codes(self, known: SparseRows) -> Tensor:
        """What predictions of a row are made of, (rows, code_units): the last code of the layers, then its mean."""
        self.check(known)
        means = self.row_means(known)
        return torch.cat([self.code(self.inputs(known, means)), means[:, None]], 1)

    @torch.no_grad()
    def decode(self, codes: Tensor, columns: slice | Tensor) -> Tensor:
        """Predicted ratings of rows at some columns, not clipped; the row's mean at columns never trained.

        Args:
            codes: (rows, code_units), from `codes`.
            columns: a slice of the columns, or an int64 index of them.
        """
        return self._decode(self._decodable(codes), columns)

    @torch.no_grad()
    def tiles(self, known: SparseRows) -> ScoreTile:
        """Predicted ratings of rows at ranges of columns; see `Model.tiles`."""
        rows = self._decodable(self.codes(known))
        return lambda start, stop: self._decode(rows, slice(start, stop))

    def _decodable(self, codes: Tensor) -> _Decodable:
        # In one piece: a product of rows that lie apart by an odd number of bytes is slow on a GPU.
        code, means = codes[:, :-1].contiguous(), codes[:, -1:]
        offset = None if self.row_offset is None else (code @ self.row_offset)[:, None]
        if self.config.output_activation == "identity" and offset is not None:
            return _Decodable(code, None, means + self.config.unit * offset, means)
        return _Decodable(code, offset, means, means)

    @torch.no_grad()
    def _decode(self, rows: _Decodable, columns: slice | Tensor) -> Tensor:
        output = backend_of(self.decoder).dense_products(rows.code, self.decoder[columns], self.decoder_bias[columns])
        if rows.inner is not None:
            output += rows.inner
        output = _ACTIVATIONS[self.config.output_activation](output)
        torch.add(rows.outer, output, alpha=self.config.unit, out=output)
        untrained = self.untrained(columns)
        return output if untrained is None else torch.where(untrained, rows.means, output)

    def _ratings(self, residuals: Tensor, means: Tensor, clip: bool) -> Tensor:
        """Estimated residuals as ratings, in place; `means`, those of the rows, must broadcast to their shape."""
        ratings = residuals.mul_(self.config.unit).add_(means)
        return ratings.clamp(self.config.rating_min, self.config.rating_max) if clip else ratings


def _shares(rows: SparseRows, visible: Tensor | None) -> Tensor:
    """1 / sqrt(the row's visible entries) at each of them, 0 at the others, (entries,)."""
    counts = rows.lengths() if visible is None else row_sums(rows, visible.to(rows.dtype))
    shares = at_entries(rows, counts.clamp(min=1).double().rsqrt().to(rows.dtype))
    return shares if visible is None else torch.where(visible, shares, 0.0)
