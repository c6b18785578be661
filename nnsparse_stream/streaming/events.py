"""Events: ratings, and the taking back of ratings, with their times."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

#: Microseconds of a second; times are int64 microseconds since 1970 (UTC).
SECOND = 1_000_000
#: The watermark of a source that has ended: every window closes.
ENDED = (1 << 63) - 1
#: The watermark of a source that has had no event yet, and may have more: it says nothing.
UNKNOWN = -(1 << 62)


def event_schema(row_type: str, column_type: str) -> pa.Schema:
    """The columns of a block of events.

    Args:
        row_type: of the ids of rows, "int64" or "string".
        column_type: of those of columns.

    Returns:
        row, column (ids), value (float32; null takes the rating back), time (int64, microseconds since 1970).
    """
    return pa.schema(
        [
            pa.field("row", pa.type_for_alias(row_type), nullable=False),
            pa.field("column", pa.type_for_alias(column_type), nullable=False),
            pa.field("value", pa.float32()),
            pa.field("time", pa.int64(), nullable=False),
        ]
    )


def known_schema(row_type: str, column_type: str) -> pa.Schema:
    """The columns of a block of rows with what is known of them.

    Returns:
        row (ascending, distinct), columns (list of ids, ascending, distinct), values (list<float32>, as long).
    """
    return pa.schema(
        [
            ("row", pa.type_for_alias(row_type)),
            ("columns", pa.list_(pa.type_for_alias(column_type))),
            ("values", pa.list_(pa.float32())),
        ]
    )


class Letter(NamedTuple):
    """A record that is no event: where it is (a file and its line, a partition and its offset), why, and its text."""

    place: str
    reason: str
    text: str
