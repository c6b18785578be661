"""Windows of event time: fixed, of one size, counted from 1970; and what they are named."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

_NAME = re.compile(r"(-?\d{4,6}-\d\d-\d\d)T(\d\d)-(\d\d)-(\d\d(?:\.\d{6})?)Z")


class Windows(NamedTuple):
    """Windows [begin, begin + size), their begins multiples of the size.

    Attributes:
        size: microseconds, at least 1.
        allowed_lateness: microseconds after its end for which a window still takes events that come late.
    """

    size: int
    allowed_lateness: int

    def begin_of(self, times: np.ndarray) -> np.ndarray:
        """The begins of the windows of times: int64 (n,) microseconds -> int64 (n,)."""
        return times - times % self.size

    @staticmethod
    def name(begin: int) -> str:
        """A window's name, which sorts by time: "2026-11-26T12-00-05Z", with its microseconds if it has any.

        Args:
            begin: of the window, microseconds since 1970.
        """
        text = str(np.datetime64(begin, "us"))
        return text.removesuffix(".000000").replace(":", "-") + "Z"

    @staticmethod
    def begin_of_name(name: str) -> int:
        """The inverse of `name`.

        Raises:
            ValueError: it is no window's name.
        """
        match = _NAME.fullmatch(name)
        if not match:
            raise ValueError(f"{name!r} is no window's name")
        day, hour, minute, second = match.groups()
        return int(np.datetime64(f"{day}T{hour}:{minute}:{second}", "us").astype(np.int64))
