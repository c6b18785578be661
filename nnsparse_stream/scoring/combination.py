"""How several models' predictions become one: a weighted sum and an intercept, given by hand or learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# Where the validation ratings say little, weights stay near equal ones: standard deviation of the prior around these.
_PRIOR_STD = 0.3


@dataclass(frozen=True)
class Combination:
    """intercept + sum of weight x prediction, over the models.

    Attributes:
        weights: one a model.
        intercept: in rating units.
        bounds: lowest and highest combined rating; None where the weights are those of a mean, which needs none.
    """

    weights: tuple[float, ...]
    intercept: float = 0.0
    bounds: tuple[float, float] | None = None

    @classmethod
    def mean(cls, weights: Sequence[float]) -> Combination:
        """The weighted mean: of weights of 0 or more, divided by their sum."""
        total = sum(weights)
        return cls(tuple(weight / total for weight in weights))

    def of(self, predictions: np.ndarray) -> np.ndarray:
        """Combined ratings, float64 (entries,), within `bounds`, of the models' predictions (models, entries)."""
        combined = np.asarray(self.weights) @ predictions.astype(np.float64) + self.intercept
        return combined if self.bounds is None else combined.clip(*self.bounds)


@dataclass
class PredictionMoments:
    """What of the models' predictions of some ratings is needed to fit a combination; adds up over blocks.

    With z = (1, predictions - origin, rating - origin) of a rating, the sums of z z' over ratings.

    Attributes:
        models: how many.
        origin: what is subtracted, so that no digits are lost: a number near the ratings' mean.
        sums: float64 (models + 2, models + 2).
    """

    models: int
    origin: float
    sums: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.models + 2, self.models + 2))

    def add(self, predictions: np.ndarray, ratings: np.ndarray) -> None:
        """Adds ratings (entries,) and the models' predictions of them (models, entries)."""
        z = np.concatenate([np.ones((1, len(ratings))), np.vstack([predictions, ratings]) - np.float64(self.origin)])
        self.sums += z @ z.T

    def __iadd__(self, other: PredictionMoments) -> PredictionMoments:
        self.sums += other.sums
        return self

    @property
    def count(self) -> int:
        """How many ratings."""
        return int(self.sums[0, 0])

    def rmse(self, combination: Combination) -> float:
        """RMSE of a combination, but for its bounds.

        Raises:
            ValueError: there is no rating.
        """
        if not self.count:
            raise ValueError("there is no rating to judge by")
        constant = combination.intercept + self.origin * (sum(combination.weights) - 1.0)
        error = np.array([constant, *combination.weights, -1.0])
        return math.sqrt(max(float(error @ self.sums @ error), 0.0) / self.count)

    def fit(self) -> Combination:
        """The combination of least squared error, drawn to equal weights where ratings are too few to tell.

        It is ridge regression: a normal prior of each weight around 1 / models with standard deviation .3, and normal
        errors whose variance is that of the equally weighted mean. A weight may be negative: a model that errs as
        another one does, but more, is good for taking that error out.

        Raises:
            ValueError: there is no rating.
        """
        ridge = self.rmse(Combination.mean([1.0] * self.models)) ** 2 / _PRIOR_STD**2
        means = self.sums[0] / self.count
        centred = self.sums - self.count * np.outer(means, means)
        gram = centred[1:-1, 1:-1] + ridge * np.eye(self.models)
        # Without an error there is no ridge, and perhaps more than one solution.
        weights = np.linalg.lstsq(gram, centred[1:-1, -1] + ridge / self.models, rcond=None)[0]
        intercept = self.origin * (1.0 - weights.sum()) + means[-1] - weights @ means[1:-1]
        return Combination(tuple(weights.tolist()), float(intercept))
