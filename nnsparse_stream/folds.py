"""Which fold a rating is in, and which shard a row: the same on every engine and machine, in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

FOLDS = ("train", "validation", "test")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: uint64 (n,) -> uint64 (n,), a bijection that spreads every bit over all bits."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def hash_ids(ids: pa.Array) -> np.ndarray:
    """Hashes ids to 64 bits.

    Args:
        ids: int64, string or large_string, without nulls.

    Returns:
        uint64 (n,). Integers: mix(id + golden ratio), so that id 0 does not hash to 0. Strings: mix of the 64-bit
        FNV-1a hash of the UTF-8 bytes.
    """
    if pa.types.is_int64(ids.type):
        return mix(ids.to_numpy().view(np.uint64) + _GOLDEN)
    offsets, data = string_buffers(ids)
    hashes = np.full(len(ids), _FNV_OFFSET)
    lengths = np.diff(offsets)
    # One step per byte position over all ids that are long enough: the order by length keeps those a prefix.
    by_length = np.argsort(-lengths, kind="stable")
    starts = offsets[:-1][by_length]
    longer = len(ids) - np.searchsorted(np.sort(lengths), np.arange(lengths.max(initial=0)), side="right")
    for position, count in enumerate(longer):
        hashes[:count] = (hashes[:count] ^ data[starts[:count] + position]) * _FNV_PRIME
    result = np.empty_like(hashes)
    result[by_length] = hashes
    return mix(result)


def string_buffers(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """What an array of type string or large_string (n,) is made of.

    Returns:
        int64 (n + 1,), where each string begins and ends; and uint8, the bytes, of which these are places.
    """
    width = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    _, offsets, data = ids.buffers()
    places = np.frombuffer(offsets or b"", dtype=width)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    return places, np.frombuffer(data or b"", dtype=np.uint8)


def assign_folds(user_hash: np.ndarray, item_hash: np.ndarray, percent: tuple[float, ...], seed: int) -> np.ndarray:
    """Assigns each rating to a fold by its user, its item and the seed alone.

    The axis, the order, the file and the machine do not matter, so a user model and an item model are trained and
    judged on the same ratings.

    Args:
        user_hash, item_hash: uint64 (n,), from `hash_ids`.
        percent: shares of train, validation and test; they sum to 100.
        seed: any integer.

    Returns:
        uint8 (n,): 0 train, 1 validation, 2 test.
    """
    salt = mix(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)
    mixed = mix(mix(user_hash ^ salt) + item_hash)
    share = (mixed >> np.uint64(11)).astype(np.float64) * (100 * 2.0**-53)
    return np.searchsorted(np.cumsum(percent)[:-1], share, side="right").astype(np.uint8)


@dataclass(frozen=True)
class FoldKeys:
    """What the fold of each of n ratings may go by. A function is called only by the folds that need its answer.

    Attributes:
        hashes: gives uint64 (n,) of the users and of the items, from `hash_ids`.
        times: int64 (n,), or None where the ratings have no time.
        rows: gives int64 (n,): the number of each rating's row, from 0 without gaps.
        ties: gives int64 (n,): the order of a row's ratings of equal time.
    """

    hashes: Callable[[], tuple[np.ndarray, np.ndarray]]
    times: np.ndarray | None
    rows: Callable[[], np.ndarray]
    ties: Callable[[], np.ndarray]


class Folds(Protocol):
    """A way to cut ratings into folds.

    Attributes:
        timed: whether it needs the times.
        row_axis: the axis whose rows it needs whole, or None where a rating's fold depends on that rating alone.
    """

    timed: ClassVar[bool]

    @property
    def row_axis(self) -> str | None:
        """The axis whose rows it needs whole, if any."""

    def assign(self, keys: FoldKeys) -> np.ndarray:
        """The fold of each rating, uint8 (n,): 0 train, 1 validation, 2 test."""

    def to_json(self) -> dict[str, Any]:
        """The manifest's "folds": the method and its parameters."""


@dataclass(frozen=True)
class HashFolds:
    """Folds by a hash of user, item and seed; see `assign_folds`."""

    percent: tuple[float, float, float] = (90, 0, 10)
    seed: int = 0

    timed: ClassVar[bool] = False
    row_axis: ClassVar[None] = None

    def assign(self, keys: FoldKeys) -> np.ndarray:
        """The fold of each rating, uint8 (n,)."""
        return assign_folds(*keys.hashes(), self.percent, self.seed)

    def to_json(self) -> dict[str, Any]:
        """The manifest's "folds"."""
        return {"method": "hash", "percent": list(self.percent), "seed": self.seed}


@dataclass(frozen=True)
class TimeFolds:
    """Folds by a cut in time: validation at or after the one time, test at or after the other; None for no such fold.

    Raises:
        ValueError: there is no cut, or validation does not begin before test.
    """

    validation_from: int | None = None
    test_from: int | None = None

    timed: ClassVar[bool] = True
    row_axis: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.validation_from is None and self.test_from is None:
            raise ValueError("neither validation_from nor test_from is given")
        if self.validation_from is not None and self.test_from is not None and self.validation_from >= self.test_from:
            raise ValueError(f"validation_from {self.validation_from} is not before test_from {self.test_from}")

    def assign(self, keys: FoldKeys) -> np.ndarray:
        """The fold of each rating, uint8 (n,)."""
        assert keys.times is not None
        folds = np.zeros(len(keys.times), dtype=np.uint8)
        for fold, start in ((1, self.validation_from), (2, self.test_from)):
            if start is not None:
                folds[keys.times >= start] = fold
        return folds

    def to_json(self) -> dict[str, Any]:
        """The manifest's "folds"."""
        return {"method": "time", **asdict(self)}


@dataclass(frozen=True)
class LastFolds:
    """Folds by the order of each row's ratings in time: the latest are test, those before them validation.

    A row keeps one training rating, the first, or more: of k ratings min(test, k - 1) are test, and of the others but
    one, at most `validation` are validation.

    Args:
        axis: "user" or "item": whose latest ratings.
        validation, test: how many of each row.
    """

    axis: str
    validation: int = 0
    test: int = 1

    timed: ClassVar[bool] = True

    @property
    def row_axis(self) -> str:
        """The axis whose rows it needs whole."""
        return self.axis

    def assign(self, keys: FoldKeys) -> np.ndarray:
        """The fold of each rating, uint8 (n,); the ratings of one row are in one call."""
        assert keys.times is not None
        rows = keys.rows()
        order = np.lexsort((keys.ties(), keys.times, rows))
        counts = np.bincount(rows)
        # From 0 for the latest rating of a row.
        from_last = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(rows))
        others = counts - 1
        folds = np.empty(len(rows), dtype=np.uint8)
        folds[order] = (from_last < np.repeat(np.minimum(self.test + self.validation, others), counts)).astype(np.uint8)
        folds[order[from_last < np.repeat(np.minimum(self.test, others), counts)]] = 2
        return folds

    def to_json(self) -> dict[str, Any]:
        """The manifest's "folds"."""
        return {"method": "last", **asdict(self)}
