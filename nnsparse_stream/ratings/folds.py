"""Which fold a rating is in, and which shard a row: the same on every engine and machine, in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import GOLDEN_RATIO, mix

FOLDS = ("train", "validation", "test")

#: Percent of 2**53 hashes that one of them is.
_PERCENT = 100 * 2.0**-53


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
    salt = mix(np.array([seed % 2**64], dtype=np.uint64) + GOLDEN_RATIO)
    mixed = mix(user_hash ^ salt)
    mixed += item_hash
    mixed = mix(mixed) >> np.uint64(11)
    folds = np.zeros(len(mixed), dtype=np.uint8)
    for bound in np.cumsum(percent)[:-1].tolist():
        folds += mixed >= np.uint64(_first_at(bound))
    return folds


def _first_at(percent: float) -> int:
    """The least of the hashes 0 to 2**53 whose share, computed as a float64 percentage, is at least `percent`."""
    least = int(percent / _PERCENT)
    while least and (least - 1) * _PERCENT >= percent:
        least -= 1
    while least * _PERCENT < percent:
        least += 1
    return least


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
            raise ValueError("neither `validation_from` nor `test_from` is given")
        if self.validation_from is not None and self.test_from is not None and self.validation_from >= self.test_from:
            raise ValueError(f"`validation_from` {self.validation_from} is not before `test_from` {self.test_from}")

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


def folds_from_json(value: Mapping[str, Any]) -> Folds | None:
    """The folds that a manifest's "folds" describe; parameters that have a default may be left out.

    Returns:
        None for the method "files": the ratings come with their folds.

    Raises:
        InputError: there is no such method or parameter, a parameter is missing, or its value is not fit.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"folds are {value!r}; give a mapping, as method: hash")
    method = value.get("method")
    parameters = {name: given for name, given in value.items() if name != "method" and given is not None}
    makers: dict[Any, Any] = {"hash": HashFolds, "time": TimeFolds, "last": LastFolds}
    known = [field.name for field in fields(makers[method])] if method in makers else []
    if method not in (*makers, "files"):
        raise InputError(f"the method of folds is {method!r}; give hash, time, last or files")
    for name, given in parameters.items():
        if name not in known:
            raise InputError(f"folds of method {method} have no {name!r}; they have {', '.join(known) or 'nothing'}")
        wanted, fits = _PARAMETERS.get(name, _INTEGER)
        if not fits(given):
            raise InputError(f"{name} of folds is {given!r}; give {wanted}")
    if "percent" in parameters:
        parameters["percent"] = tuple(parameters["percent"])
    if method == "last" and "axis" not in parameters:
        raise InputError("folds of method last lack the axis; give user or item: whose latest ratings")
    try:
        return makers[method](**parameters) if method in makers else None
    except ValueError as error:
        raise InputError(f"{error}; correct the folds") from error


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_percentages(value: Any) -> bool:
    try:
        return len(value) == 3 and min(value) >= 0 and abs(sum(value) - 100) <= 1e-6
    except TypeError:
        return False


_INTEGER: tuple[str, Callable[[Any], bool]] = ("an integer", _is_integer)
_COUNT = ("an integer from 0", lambda value: _is_integer(value) and value >= 0)
#: What the parameters of folds are to be, and whether a value is that; the others are integers.
_PARAMETERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "percent": ("three percentages of train, validation and test that sum to 100", _are_percentages),
    "axis": ("user or item", lambda value: value in ("user", "item")),
    "validation": _COUNT,
    "test": _COUNT,
}
