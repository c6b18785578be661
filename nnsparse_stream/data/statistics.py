"""Statistics of ratings that add up: of shards to those of a data set, in whatever order the shards were made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nnsparse_stream.ratings.folds import FOLD_NAMES, FOLDS


class RatingStatistics(NamedTuple):
    """Statistics of some rows' ratings.

    Attributes:
        fold_entries: entries of each of `nnsparse_stream.ratings.folds.FOLD_NAMES`.
        minimum, maximum: over all folds; infinite where there is no entry.
        train_mean, train_squares: mean of the train fold, and its sum of squared deviations from that mean.
    """

    fold_entries: tuple[int, ...] = (0,) * len(FOLD_NAMES)
    minimum: float = float("inf")
    maximum: float = float("-inf")
    train_mean: float = 0.0
    train_squares: float = 0.0

    @classmethod
    def of(cls, rows: pa.RecordBatch) -> RatingStatistics:
        """The statistics of rows as a shard holds them; computed in float64."""
        values = rows["values"].flatten().to_numpy().astype(np.float64)
        fold = rows["fold"].flatten().to_numpy()
        if not len(values):
            return cls()
        train = values[fold == 0]
        mean = float(train.mean()) if len(train) else 0.0
        # Twice as fast as bincount.
        counts = [int(np.count_nonzero(fold == number)) for number in range(len(FOLD_NAMES))]
        return cls(
            tuple(counts),
            float(values.min()),
            float(values.max()),
            mean,
            float(np.square(train - mean).sum()),
        )

    def entries_by_fold(self) -> dict[str, int]:
        """The manifest's "fold_entries": those of shown entries are there where rows are held out."""
        counts = dict(zip(FOLD_NAMES, self.fold_entries, strict=True))
        held_out = any(counts[name] for name in FOLD_NAMES[len(FOLDS) :])
        return counts if held_out else {name: counts[name] for name in FOLDS}

    def to_json(self) -> dict[str, float | None]:
        """The manifest's "ratings": min, max, and mean and std (population) of the train fold; None where empty."""
        train, entries = self.fold_entries[0], sum(self.fold_entries)
        return {
            "min": self.minimum if entries else None,
            "max": self.maximum if entries else None,
            "mean": self.train_mean if train else None,
            "std": float(np.sqrt(self.train_squares / train)) if train else None,
        }


def add_statistics(parts: Iterable[RatingStatistics]) -> RatingStatistics:
    """Adds up statistics (Chan, Golub and LeVeque); the same parts in the same order give the same bits."""
    total = RatingStatistics()
    for part in parts:
        before, added = total.fold_entries[0], part.fold_entries[0]
        train = before + added
        shift = part.train_mean - total.train_mean
        total = RatingStatistics(
            tuple(a + b for a, b in zip(total.fold_entries, part.fold_entries, strict=True)),
            min(total.minimum, part.minimum),
            max(total.maximum, part.maximum),
            total.train_mean + shift * added / train if train else 0.0,
            total.train_squares + part.train_squares + (shift**2 * before * added / train if train else 0.0),
        )
    return total
