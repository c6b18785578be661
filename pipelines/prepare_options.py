"""The flags of `prepare` that choose ratings: into which fold each goes, and which are left out."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.options import positive_int, urls

if TYPE_CHECKING:
    from nnsparse_stream.ratings.folds import Folds, TimeShares
    from nnsparse_stream.ratings.input_plan import InputPlan
    from nnsparse_stream.ratings.selection import Selection

FILE_FLAGS = ("train_input", "validation_input", "test_input")
#: The ways to cut into folds, and the flags of each.
_METHODS = {
    "hash": ("folds",),
    "time": ("validation_from", "test_from"),
    "share of time": ("validation_share_time", "test_share_time"),
    "last": ("validation_last", "test_last"),
    "rows": ("validation_rows", "test_rows"),
    "files": FILE_FLAGS,
}
_TIMED_FLAGS = (*_METHODS["time"], *_METHODS["share of time"], *_METHODS["last"], "time_from", "time_to")


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of folds and of filters."""
    folds = parser.add_argument_group(
        "folds (one way of six; times are the time column's integers, or dates as 2026-01-31 or 2026-01-31T12:00:00Z)"
    )
    folds.add_argument(
        "--folds",
        type=_percent,
        metavar="T,V,E",
        help="percent of the ratings for train, validation and test, by a hash of user, item and seed (default: "
        "90,0,10)",
    )
    folds.add_argument("--fold_seed", type=int, metavar="N", help="of that hash, and of that of rows (default: 0)")
    for fold in ("validation", "test"):
        folds.add_argument(f"--{fold}_from", type=_time, metavar="TIME", help=f"ratings at or after it are {fold}")
    for fold, which in (("validation", " before those of test"), ("test", "")):
        folds.add_argument(
            f"--{fold}_share_time",
            type=_share,
            metavar="P",
            help=f"the latest P%% of all ratings{which} are {fold}: where to cut is found from their times",
        )
    for fold, which in (("validation", "before the test ratings"), ("test", "")):
        folds.add_argument(
            f"--{fold}_last",
            type=positive_int,
            metavar="N",
            help=f"of each row, the latest N ratings {which}".rstrip() + f" are {fold}; one stays for training",
        )
    for fold in ("validation", "test"):
        folds.add_argument(
            f"--{fold}_rows",
            type=_share,
            metavar="P",
            help=f"P%% of the rows, by a hash of their ids and the seed, are held out altogether for {fold}",
        )
    folds.add_argument(
        "--shown",
        type=_share,
        metavar="P",
        help="of the entries of a row that is held out, show P%% when the others are judged (default: 80)",
    )
    for flag in FILE_FLAGS:
        folds.add_argument(
            f"--{flag}",
            type=urls,
            action="extend",
            metavar="URL[,URL...]",
            help=f"rating files of the {flag[:-6]} fold",
        )
    filters = parser.add_argument_group("filters (what they leave out is counted)")
    filters.add_argument("--time_from", type=_time, metavar="TIME", help="leave out ratings before it")
    filters.add_argument("--time_to", type=_time, metavar="TIME", help="leave out ratings at or after it")
    for axis in ("row", "column"):
        filters.add_argument(
            f"--min_{axis}_ratings",
            type=positive_int,
            default=1,
            metavar="N",
            help=f"leave out {axis}s with fewer ratings, counted once, within the range of time (default: 1)",
        )


def check_fold_flags(args: argparse.Namespace) -> str:
    """The way to cut into folds: a key of `_METHODS`.

    Raises:
        InputError: the flags ask for two ways, or a flag goes with another way.
    """
    given = {
        method: next(flag for flag in flags if getattr(args, flag) is not None)
        for method, flags in _METHODS.items()
        if any(getattr(args, flag) is not None for flag in flags)
    }
    if len(given) > 1:
        one, other, *_ = given.values()
        raise InputError(f"--{one} and --{other} contradict each other; give one of them")
    method = next(iter(given), "hash")
    if args.fold_seed is not None and method not in ("hash", "rows"):
        raise InputError(f"--fold_seed and --{given[method]} contradict each other; give one of them")
    if args.shown is not None and method != "rows":
        raise InputError("--shown is of rows that are held out: pass --test_rows or --validation_rows, or drop it")
    return method


def timed_flag(args: argparse.Namespace) -> str | None:
    """A flag that needs the times of the ratings, if one is given."""
    return next((flag for flag in _TIMED_FLAGS if getattr(args, flag) is not None), None)


def chosen_folds(args: argparse.Namespace, plan: InputPlan) -> Folds | TimeShares | None:
    """How to cut into folds; None where the files say it.

    Args:
        args: the flags.
        plan: of the input: it says what times are.

    Raises:
        InputError: the flags ask for two ways, or a time does not fit the time column or the other time.
    """
    from nnsparse_stream.ratings.folds import HashFolds, LastFolds, RowFolds, TimeFolds, TimeShares

    method = check_fold_flags(args)
    if method == "time":
        try:
            return TimeFolds(*(_column_time(args, flag, plan) for flag in _METHODS["time"]))
        except ValueError as error:
            raise InputError(f"{error}; exchange them") from error
    if method == "last":
        return LastFolds(args.axis, args.validation_last or 0, args.test_last or 0)
    try:
        if method == "share of time":
            return TimeShares(args.validation_share_time or 0, args.test_share_time or 0)
        if method == "rows":
            shown = 80 if args.shown is None else args.shown
            return RowFolds(args.axis, args.validation_rows or 0, args.test_rows or 0, shown, args.fold_seed or 0)
    except ValueError as error:
        raise InputError(f"{error}; correct them") from error
    return HashFolds(args.folds or (90, 0, 10), args.fold_seed or 0) if method == "hash" else None


def chosen_selection(args: argparse.Namespace, plan: InputPlan, positive_from: float | None) -> Selection:
    """Which ratings stay.

    Raises:
        InputError: the range of time is empty, or a time does not fit the time column.
    """
    from nnsparse_stream.ratings.selection import Selection
    from nnsparse_stream.ratings.times import TimeRange

    start, end = (_column_time(args, flag, plan) for flag in ("time_from", "time_to"))
    if start is not None and end is not None and start >= end:
        raise InputError(f"--time_from {start} is not before --time_to {end}: there is no rating in between")
    return Selection(TimeRange(start, end), positive_from)


def _column_time(args: argparse.Namespace, flag: str, plan: InputPlan) -> int | None:
    from nnsparse_stream.ratings.times import column_time

    time = getattr(args, flag)
    return None if time is None else column_time(time, plan.calendar, flag, plan.time_unit)


def _percent(text: str) -> tuple[float, float, float]:
    wanted = "three percentages of train, validation and test that sum to 100, as 80,10,10"
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
    if len(parts) != 3 or any(not 0 <= part <= 100 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    if abs(sum(parts) - 100) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} sums to {sum(parts):g}, and is to be {wanted}")
    train, validation, test = map(_plain, parts)
    return train, validation, test


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage of more than 0 and less than 100")
    return _plain(share)


def _plain(number: float) -> float:
    """A whole number as an integer, so that a manifest has it as the user does."""
    return int(number) if number == int(number) else number


def _time(text: str) -> int | datetime:
    from nnsparse_stream.ratings.times import parse_time

    try:
        return parse_time(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an integer nor a date as 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None
