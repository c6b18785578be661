"""Flags that say what the records are, ratings or interactions, and what the value of an entry is."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, NamedTuple

from nnsparse_stream.errors import InputError

if TYPE_CHECKING:
    from nnsparse_stream.ratings.selection import Feedback


class ChosenFeedback(NamedTuple):
    """What the flags say of the records.

    Attributes:
        feedback: "explicit" or "implicit".
        column: name or position of the column of values; "none" where every record counts as a 1.
        duplicates: what is made of the records of one user and item.
        positive_from: from which value on a rating is an interaction.
    """

    feedback: Feedback
    column: str
    duplicates: str
    positive_from: float | None


def add_feedback_arguments(group: argparse._ArgumentGroup, duplicates: bool = True) -> None:
    """Adds the flags to a group: prepare, score on raw files, and stream share them.

    Args:
        group: receives them.
        duplicates: whether several records of a pair may be made one in several ways; else the last counts.
    """
    group.add_argument(
        "--feedback",
        choices=("explicit", "implicit"),
        help="explicit: records are ratings; implicit: they are interactions, as clicks, plays or purchases, which "
        "need no column of values and may be repeated (default: explicit)",
    )
    group.add_argument(
        "--weight_column",
        metavar="NAME",
        help="of implicit feedback, name or position of a column of weights, as of numbers of plays, instead of "
        "--rating_column (default: none, every record counts as a 1)",
    )
    group.add_argument(
        "--positive_from",
        type=_number,
        metavar="X",
        help="make implicit feedback of ratings: those of X or more are interactions, each a 1; leave out the others",
    )
    if not duplicates:
        group.set_defaults(duplicates="last")
        return
    group.add_argument(
        "--duplicates",
        choices=("error", "first", "last", "mean", "sum", "max", "count"),
        help="what to do where a user and an item have several records (default: error; of implicit feedback "
        "count: the value of an entry is the number of its records; with a column of weights sum); first and last go "
        "by the time column, without one by the order of the input",
    )


def chosen_feedback(args: argparse.Namespace) -> ChosenFeedback:
    """What the flags say of the records.

    Raises:
        InputError: the flags contradict each other.
    """
    if args.rating_column is not None and args.weight_column is not None:
        raise InputError("--rating_column and --weight_column both name the column of values; give one of them")
    implied = next((flag for flag in ("weight_column", "positive_from") if getattr(args, flag) is not None), None)
    if implied and args.feedback == "explicit":
        raise InputError(f"--{implied} makes implicit feedback, and --feedback is explicit; drop one")
    column = args.weight_column if args.rating_column is None else args.rating_column
    if args.positive_from is not None and column == "none":
        raise InputError("--positive_from chooses among ratings, and there is no column of them; drop one")
    if not implied and args.feedback != "implicit":
        return ChosenFeedback("explicit", column or "rating", args.duplicates or "error", None)
    summed = column not in (None, "none") and args.positive_from is None
    return ChosenFeedback(
        "implicit",
        column or ("none" if args.positive_from is None else "rating"),
        args.duplicates or ("sum" if summed else "count"),
        args.positive_from,
    )


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number
