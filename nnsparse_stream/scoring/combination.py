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
        """The combination of least squared error whose weights are not negative.

        It is ridge regression with an intercept, drawn to equal weights: a normal prior around 1 / models with standard
        deviation .3, and normal errors whose variance is that of the equally weighted mean. Stacked regressions
        (Breiman 1996) with weights of 0 or more, without the constraint on their sum.

        Raises:
            ValueError: there is no rating.
        """
        equal = Combination.mean([1.0] * self.models)
        ridge = self.rmse(equal) ** 2 / _PRIOR_STD**2
        means = self.sums[0] / self.count
        centred = self.sums - self.count * np.outer(means, means)
        gram = centred[1:-1, 1:-1] + ridge * np.eye(self.models)
        weights = non_negative_solution(gram, centred[1:-1, -1] + ridge / self.models)
        intercept = self.origin * (1.0 - weights.sum()) + means[-1] - weights @ means[1:-1]
        return Combination(tuple(weights.tolist()), float(intercept))


def non_negative_solution(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The x >= 0 that minimises x' gram x / 2 - right' x, by Lawson and Hanson's active set (1974, algorithm NNLS).

    Args:
        gram: float64 (n, n), symmetric, positive semidefinite.
        right: float64 (n,).
    """
    x = np.zeros(len(right))
    passive = np.zeros(len(right), dtype=bool)
    tolerance = 1e-12 * float(np.abs(right).max(initial=0.0))
    # Each round ends in another passive set with a smaller objective; the bound is for rounding errors.
    for _ in range(3 * len(right)):
        gradient = np.where(passive, -np.inf, right - gram @ x)
        if passive.all() or gradient.max() <= tolerance:
            break
        passive[gradient.argmax()] = True
        while True:
            wanted = np.zeros_like(x)
            wanted[passive] = np.linalg.lstsq(gram[np.ix_(passive, passive)], right[passive], rcond=None)[0]
            negative = passive & (wanted <= 0.0)
            if not negative.any():
                x = wanted
                break
            # As far as none becomes negative; the one that gets to 0 first leaves the passive set.
            steps = np.full_like(x, np.inf)
            steps[negative] = x[negative] / (x[negative] - wanted[negative])
            x = x + steps.min() * (wanted - x)
            passive[steps.argmin()] = False
            x[~passive] = 0.0
    return x
