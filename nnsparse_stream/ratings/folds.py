"""Which fold a rating is in, and which shard a row: the same on every engine and machine, in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import GOLDEN_RATIO, mix
from nnsparse_stream.ratings.time_counts import TimeCounts, latest_from

FOLDS = ("train", "validation", "test")
#: Of rows that are held out altogether, the entries that are shown when the others are judged. Their codes follow those
#: of `FOLDS`, in the same order: 3 of validation rows, 4 of test rows.
SHOWN = ("validation_shown", "test_shown")
FOLD_NAMES = (*FOLDS, *SHOWN)

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
    return _shares(_mix_pairs(user_hash, item_hash, seed), percent)


def _mix_pairs(user_hash: np.ndarray, item_hash: np.ndarray, seed: int) -> np.ndarray:
    mixed = _salted(user_hash, seed)
    mixed += item_hash
    return mix(mixed)


def _salted(hashes: np.ndarray, seed: int) -> np.ndarray:
    return mix(hashes ^ mix(np.array([seed % 2**64], dtype=np.uint64) + GOLDEN_RATIO))


def _shares(hashes: np.ndarray, percent: tuple[float, ...]) -> np.ndarray:
    """In which of some shares, that sum to 100, the upper 53 bits of each hash lie, counted from 0: uint8 (n,)."""
    upper = hashes >> np.uint64(11)
    folds = np.zeros(len(upper), dtype=np.uint8)
    for bound in np.cumsum(percent)[:-1].tolist():
        folds += upper >= np.uint64(_first_at(bound))
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
        """The fold of each rating, uint8 (n,): its place in `FOLD_NAMES`."""

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

    Args:
        validation_from, test_from: the times.
        validation_share, test_share: where they were found by `TimeShares`, its shares.

    Raises:
        ValueError: there is no cut, or validation does not begin before test.
    """

    validation_from: int | None = None
    test_from: int | None = None
    validation_share: float | None = None
    test_share: float | None = None

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
        shares = {"validation_share": self.validation_share, "test_share": self.test_share}
        times = {"validation_from": self.validation_from, "test_from": self.test_from}
        return {"method": "time", **times, **{name: share for name, share in shares.items() if share is not None}}


@dataclass(frozen=True)
class TimeShares:
    """A cut in time of which only the shares are known: the latest ratings are test, the latest before them validation.

    Args:
        validation_share, test_share: percent of all ratings; 0 for no such fold.

    Raises:
        ValueError: there is no share, or they leave nothing for training.
    """

    validation_share: float = 0
    test_share: float = 0

    timed: ClassVar[bool] = True
    row_axis: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 0 < self.validation_share + self.test_share < 100:
            raise ValueError(
                f"`validation_share_time` {self.validation_share} and `test_share_time` {self.test_share} do not sum "
                "to more than 0 and less than 100 percent"
            )

    def cut(self, counts: TimeCounts) -> TimeFolds:
        """The folds that this is for ratings of these times. A fold has its share, or more where times are equal.

        Raises:
            InputError: too many have the same time.
        """
        if not len(counts[1]):
            return TimeFolds(test_from=0, test_share=self.test_share)  # there is no rating, whatever the time
        test_from = latest_from(counts, self.test_share) if self.test_share else None
        validation_from = latest_from(counts, self.validation_share + self.test_share)
        if validation_from == latest_from(counts, 100):
            raise InputError(
                f"too many ratings have the time {validation_from}, the first, for any to come before the latest "
                f"{self.validation_share + self.test_share:g}%; take smaller shares, or cut by other flags than "
                f"`{'test' if self.test_share else 'validation'}_share_time`"
            )
        if not self.validation_share:
            return TimeFolds(None, test_from, None, self.test_share)
        if test_from is not None and validation_from >= test_from:
            raise InputError(
                f"too many ratings have the time {test_from} for `validation_share_time` {self.validation_share} "
                f"before `test_share_time` {self.test_share}; take smaller shares, or give times"
            )
        return TimeFolds(validation_from, test_from, self.validation_share, self.test_share or None)


@dataclass(frozen=True)
class RowFolds:
    """Folds by rows, "strong generalisation": some rows are held out, a part of their entries shown, the rest judged.

    The protocol of Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering" (2018),
    section 4.2. A row is held out by a hash of its id and the seed alone. Of its k entries, the first by the hash that
    `assign_folds` goes by are judged, as many as k x (100 - `shown`)% rounded, but one is always shown.

    Args:
        axis: "user" or "item": which rows.
        validation, test: percent of the rows.
        shown: percent of a held-out row's entries.
        seed: any integer.

    Raises:
        ValueError: no row is held out, or none is left for training; or not a part of their entries is to be shown.
    """

    axis: str
    validation: float = 0
    test: float = 10
    shown: float = 80
    seed: int = 0

    timed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.validation + self.test < 100:
            raise ValueError(
                f"`validation_rows` {self.validation} and `test_rows` {self.test} do not sum to more than 0 and less "
                "than 100 percent"
            )
        if not 0 < self.shown < 100:
            raise ValueError(f"`shown` {self.shown} is not more than 0 and less than 100 percent")

    @property
    def row_axis(self) -> str:
        """The axis whose rows it needs whole."""
        return self.axis

    def assign(self, keys: FoldKeys) -> np.ndarray:
        """The fold of each rating, uint8 (n,): 1 and 2 are judged, 3 and 4 (see `SHOWN`) shown beside them."""
        users, items = keys.hashes()
        percent = (100 - self.validation - self.test, self.validation, self.test)
        row_hashes = users if self.axis == "user" else items
        folds = _shares(mix(_salted(row_hashes, self.seed) + GOLDEN_RATIO), percent)
        held = np.flatnonzero(folds)
        rows = keys.rows()[held]
        order = held[np.lexsort((_mix_pairs(users[held], items[held], self.seed), rows))]
        counts = np.bincount(rows)
        judged = np.minimum((counts * (100 - self.shown) / 100 + 0.5).astype(np.int64), counts - 1)
        from_first = np.arange(len(held)) - np.repeat(np.cumsum(counts) - counts, counts)
        folds[order[from_first >= np.repeat(judged, counts)]] += len(SHOWN)
        return folds

    def to_json(self) -> dict[str, Any]:
        """The manifest's "folds"."""
        return {"method": "rows", **asdict(self)}


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


def folds_from_json(value: Mapping[str, Any]) -> Folds | TimeShares | None:
    """The folds that a manifest's "folds" describe; parameters that have a default may be left out.

    Returns:
        None for the method "files": the ratings come with their folds. `TimeShares` for the method "time" with shares
        and without times.

    Raises:
        InputError: there is no such method or parameter, a parameter is missing, or its value is not fit.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"folds are {value!r}; give a mapping, as method: hash")
    method = value.get("method")
    parameters = {name: given for name, given in value.items() if name != "method" and given is not None}
    makers: dict[Any, Any] = {"hash": HashFolds, "time": TimeFolds, "last": LastFolds, "rows": RowFolds}
    known = [field.name for field in fields(makers[method])] if method in makers else []
    if method not in (*makers, "files"):
        raise InputError(f"the method of folds is {method!r}; give hash, time, last, rows or files")
    for name, given in parameters.items():
        if name not in known:
            raise InputError(f"folds of method {method} have no {name!r}; they have {', '.join(known) or 'nothing'}")
        wanted, fits = _PARAMETERS.get((method, name)) or _PARAMETERS.get(name, _INTEGER)
        if not fits(given):
            raise InputError(f"{name} of folds is {given!r}; give {wanted}")
    if "percent" in parameters:
        parameters["percent"] = tuple(parameters["percent"])
    if method in ("last", "rows") and "axis" not in parameters:
        what = "whose latest ratings" if method == "last" else "which rows"
        raise InputError(f"folds of method {method} lack the axis; give user or item: {what}")
    if method == "time" and parameters and not parameters.keys() & {"validation_from", "test_from"}:
        makers["time"] = TimeShares
    try:
        return makers[method](**parameters) if method in makers else None
    except ValueError as error:
        raise InputError(f"{error}; correct the folds") from error


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_percentage(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _are_percentages(value: Any) -> bool:
    try:
        return len(value) == 3 and min(value) >= 0 and abs(sum(value) - 100) <= 1e-6
    except TypeError:
        return False


_INTEGER: tuple[str, Callable[[Any], bool]] = ("an integer", _is_integer)
_COUNT = ("an integer from 0", lambda value: _is_integer(value) and value >= 0)
_PERCENTAGE = ("a percentage from 0 to 100", _is_percentage)
#: What the parameters of folds are to be, and whether a value is that; the others are integers.
_PARAMETERS: dict[str | tuple[Any, str], tuple[str, Callable[[Any], bool]]] = {
    "percent": ("three percentages of train, validation and test that sum to 100", _are_percentages),
    "axis": ("user or item", lambda value: value in ("user", "item")),
    ("last", "validation"): _COUNT,
    ("last", "test"): _COUNT,
    ("rows", "validation"): _PERCENTAGE,
    ("rows", "test"): _PERCENTAGE,
    "shown": _PERCENTAGE,
    "validation_share": _PERCENTAGE,
    "test_share": _PERCENTAGE,
}
