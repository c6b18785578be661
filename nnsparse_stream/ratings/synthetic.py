"""Synthetic logs: ratings of which the best reachable error is known, and interactions for lists.

Users who rate have tastes for genres, items belong to genres, both have biases; items' popularity follows a power law.
A rating is the sum of these and of normal noise, rounded to half stars between 0.5 and 5: so the expected rating of any
user for any item, and with it the lowest RMSE that any predictor can reach, can be computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

GENRES = ("comedy", "crime", "drama", "fantasy", "horror", "romance", "thriller", "western")
_STARS = np.arange(0.5, 5.01, 0.5)


@dataclass(frozen=True)
class SyntheticRatings:
    """A sample and the truth behind it.

    Attributes:
        ratings: columns user (string), item (string, "genre-number"), rating (float32); each pair once, in random
            order.
        of_users: float64 (users, 10), each user's part of the noiseless, unrounded ratings: tastes, 1 and his bias.
        of_items: float64 (items, 10), each item's part: genres, bias and 1. Their product is the rating of a pair.
        noise: standard deviation of the noise.
    """

    ratings: pa.Table
    of_users: np.ndarray
    of_items: np.ndarray
    noise: float

    def affinities(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The noiseless, unrounded ratings of pairs.

        Args:
            users: int (n,), user numbers.
            items: int (n,), item numbers.

        Returns:
            float64 (n,).
        """
        return _products(self.of_users, self.of_items, users, items)

    def expected(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The expected rating of pairs, after noise and rounding: what the best predictor answers.

        Args:
            users: int (n,), user numbers.
            items: int (n,), item numbers.

        Returns:
            float64 (n,).
        """
        affinity = self.affinities(users, items)
        # A rating is 0.5 plus 0.5 for each threshold that the noisy affinity exceeds.
        thresholds = (_STARS[1:] + _STARS[:-1]) / 2
        erf = np.frompyfunc(math.erf, 1, 1)
        scaled = (affinity[:, None] - thresholds) / (self.noise * math.sqrt(2))
        return _STARS[0] + 0.5 * (0.5 * (1 + np.asarray(erf(scaled), dtype=np.float64))).sum(1)


def user_ids(count: int) -> pa.Array:
    """Ids of users 0 to count - 1."""
    return pa.array([f"user-{number:05d}" for number in range(count)])


def item_ids(count: int) -> pa.Array:
    """Ids of items 0 to count - 1; item i belongs to genre i % 8."""
    return pa.array([f"{GENRES[number % len(GENRES)]}-{number // len(GENRES):03d}" for number in range(count)])


def make_ratings(num_users: int, num_items: int, num_ratings: int, noise: float, seed: int) -> SyntheticRatings:
    """Draws a sample; the same arguments give the same sample.

    Args:
        num_users: users.
        num_items: items.
        num_ratings: ratings, approximately: pairs that are drawn twice count once.
        noise: standard deviation of the noise, in stars.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    tastes = random.normal(0, 0.75, (num_users, len(GENRES)))
    genres = random.normal(0, 0.15, (num_items, len(GENRES)))
    genres[np.arange(num_items), np.arange(num_items) % len(GENRES)] += 1.0
    user_biases, item_biases = 3.4 + random.normal(0, 0.3, num_users), random.normal(0, 0.4, num_items)
    of_users = np.column_stack([tastes, np.ones(num_users), user_biases])
    of_items = np.column_stack([genres, item_biases, np.ones(num_items)])
    popularity = random.permutation(np.arange(1, num_items + 1) ** -0.8)
    activity = random.lognormal(0, 0.8, num_users)
    users = random.choice(num_users, num_ratings, p=activity / activity.sum())
    items = random.choice(num_items, num_ratings, p=popularity / popularity.sum())
    pairs = random.permutation(np.unique(users.astype(np.int64) * num_items + items))
    users, items = pairs // num_items, pairs % num_items
    noisy = _products(of_users, of_items, users, items) + random.normal(0, noise, len(pairs))
    stars = np.clip(np.floor(noisy * 2 + 0.5) / 2, _STARS[0], _STARS[-1])
    ratings = pa.table(
        {
            "user": user_ids(num_users).take(pa.array(users)),
            "item": item_ids(num_items).take(pa.array(items)),
            "rating": stars.astype(np.float32),
        }
    )
    return SyntheticRatings(ratings, of_users, of_items, noise)


def _products(of_users: np.ndarray, of_items: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    # Factor by factor: no matrix of users x items, nor of pairs x factors, is made.
    total = np.zeros(len(users))
    for user, item in zip(of_users.T, of_items.T, strict=True):
        total += user[users] * item[items]
    return total


def make_interactions(num_users: int, num_items: int, num_entries: int, num_groups: int, seed: int) -> pa.Table:
    """Draws a log of interactions without ratings; the same arguments give the same log.

    Users like some few groups of items, in different shares; an item belongs to one group or two. An interaction is a
    user's (by an activity that is lognormal, five or more), in one of the groups that he likes, with an item of it by
    popularity, which follows a power law; one in ten is with any item, by popularity alone.

    Args:
        num_users: users.
        num_items: items.
        num_entries: interactions, approximately: pairs that are drawn twice count once.
        num_groups: groups of items; their sizes differ as the activities do.
        seed: of the random numbers.

    Returns:
        Columns user (int64), item (int64); each pair once, in random order.
    """
    random = np.random.default_rng(seed)
    popularity = random.permutation(np.arange(1, num_items + 1) ** -0.8)
    sizes = random.lognormal(0, 1, num_groups)
    sizes /= sizes.sum()
    # Memberships, sorted by group: of all items in a first group, of a third of them in a second one.
    item = np.concatenate([np.arange(num_items), np.flatnonzero(random.random(num_items) < 1 / 3)])
    group = random.choice(num_groups, len(item), p=sizes)
    order = np.argsort(group, kind="stable")
    item, group = item[order], group[order]
    within = np.concatenate([[0.0], np.cumsum(popularity[item])])
    starts = within[np.searchsorted(group, np.arange(num_groups + 1))]
    # What users like: of eight groups the first few, in shares of a uniform point of the simplex.
    liked = random.choice(num_groups, (num_users, 8), p=sizes)
    shares = random.exponential(size=liked.shape)
    shares[np.arange(8) > random.poisson(3, num_users)[:, None]] = 0
    bounds = np.cumsum(shares / shares.sum(1, keepdims=True), 1)

    activity = random.lognormal(0, 1, num_users)
    drawn = np.rint(activity / activity.mean() * num_entries / num_users).astype(np.int64)
    users = np.repeat(np.arange(num_users), np.maximum(drawn, 5))
    groups = liked[users, (random.random(len(users))[:, None] > bounds[users]).sum(1).clip(max=7)]
    place = starts[groups] + random.random(len(users)) * (starts[groups + 1] - starts[groups])
    items = item[np.searchsorted(within, place, side="right").clip(1, len(item)) - 1]
    anywhere = random.random(len(users)) < 0.1
    items[anywhere] = random.choice(num_items, int(anywhere.sum()), p=popularity / popularity.sum())
    pairs = random.permutation(np.unique(users * num_items + items))
    return pa.table({"user": pairs // num_items, "item": pairs % num_items})
