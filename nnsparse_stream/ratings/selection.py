"""Which ratings stay, each judged by itself: those of a range of time, and those that are interactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from nnsparse_stream.ratings.times import TimeRange

#: What a data set's values are: ratings; or interactions, of which there is only what was, as clicks or plays.
Feedback = Literal["explicit", "implicit"]
FEEDBACK: tuple[Feedback, ...] = get_args(Feedback)


@dataclass(frozen=True)
class Selection:
    """Chooses among ratings, and makes interactions of them.

    Attributes:
        times: those of this range stay.
        positive_from: those of this value or more stay, and their value becomes 1: they are interactions. None: all
            stay as they are.
    """

    times: TimeRange = TimeRange()  # noqa: RUF009 (immutable)
    positive_from: float | None = None

    def filter(self, ratings: pa.RecordBatch) -> pa.RecordBatch:
        """The ratings of a block that stay; the block needs a column timestamp where there is a bound of time."""
        ratings = self.times.filter(ratings)
        if self.positive_from is None:
            return ratings
        # As a rating is stored: 4.1 is at least 4.1, whatever float32 makes of it.
        positive = ratings["rating"].to_numpy() >= np.float32(self.positive_from)
        ratings = ratings.filter(pa.array(positive))
        ones = pa.array(np.ones(len(ratings), np.float32))
        return ratings.set_column(ratings.schema.get_field_index("rating"), "rating", ones)
