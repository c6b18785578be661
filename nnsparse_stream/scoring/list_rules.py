"""What top-K lists hold, beside how many columns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ListRules:
    """Which columns may be listed, and what is said of them.

    Attributes:
        exclude_known: whether columns that a row has are left out.
        min_column_ratings: training entries that a column must have.
        explain: how many known entries, at most, are named as the reasons of each listed column.
    """

    exclude_known: bool = True
    min_column_ratings: int = 1
    explain: int = 0
