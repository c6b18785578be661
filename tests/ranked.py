"""Lists in plain Python, and scores in orders that are hard on what keeps the best of them."""

from __future__ import annotations

import numpy as np

SPECIAL = (-np.inf, np.inf, np.nan, -0.0, 0.0)


def sorted_whole(scores: np.ndarray, taboo: list[set[int]], k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Columns and scores of each row, by a sort of (score, column) in plain Python."""
    columns, values = [], []
    for row, excluded in zip(scores.tolist(), taboo, strict=True):
        able = [c for c in range(len(row)) if c not in excluded and row[c] > -np.inf]
        best = sorted(able, key=lambda c: (-row[c], c))[:k]
        missing = min(k, len(row)) - len(best)
        columns.append(best + [-1] * missing)
        values.append([row[c] for c in best] + [-np.inf] * missing)
    return columns, values


def orders(rng: np.random.Generator, width: int) -> dict[str, np.ndarray]:
    """Scores of three rows."""
    noise = rng.normal(size=(3, width))
    rising = np.linspace(0, 50, width)
    return {
        "random": noise,
        "ascending": np.sort(noise),
        "descending": -np.sort(noise),
        "rising": noise + rising,
        "equal": np.ones((3, width)),
        "few values": rng.integers(0, 4, (3, width)),
        "few values, rising": np.floor(noise + rising),
        "a saw": np.tile(np.arange(width) % 97, (3, 1)),
        "hardly any": np.where(rng.random((3, width)) < 0.01, noise, -np.inf),
    }
