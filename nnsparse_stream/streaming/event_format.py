"""How the records of a source are written, and what their events are to be: what a user's flags say."""

from __future__ import annotations

from typing import NamedTuple

from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.ratings.text_records import BlockSchema
from nnsparse_stream.ratings.time_columns import BY_SIZE, OWN
from nnsparse_stream.streaming.events import SECOND

#: In which order a directory's files are read.
ORDERS = ("time", "name")


class EventFormat(NamedTuple):
    """How records are read, by the words of `prepare`, and as events of which data set.

    Attributes:
        axis: "user" or "item", the axis of the data set's rows.
        row_type, column_type: "int64" or "string", of the data set's ids.
        names: of the fields; without a timestamp, events have the time at which the store received them: a file's
            modification time, a log's append time. `NO_COLUMN` for the rating: every record counts as a 1.
        file_format: "parquet", "csv", "tsv", "movielens", "jsonl", or "auto" to tell it from the content.
        dialect: what the user says of the dialect of text, as `Dialect.checked` gives it.
        timestamp_unit: of times that are numbers: "s", "ms", "us" or "ns"; "auto" goes by each number's size.
        out_of_order: microseconds by which an event may come behind one of a later time, before windows close.
        positive_from: ratings below it are left out, and the others become 1, as in a data set of interactions.
        order: of a directory's files: "time", as they were written, or "name".
    """

    axis: str
    row_type: str
    column_type: str
    names: FieldNames = FieldNames()
    file_format: str = "auto"
    dialect: Dialect = Dialect()
    timestamp_unit: str = "auto"
    out_of_order: int = SECOND
    positive_from: float | None = None
    order: str = "time"

    def block_schema(self, timed: bool) -> BlockSchema:
        """What `ratings` is to read of a record.

        Args:
            timed: whether records have times.
        """
        user, item = (self.row_type, self.column_type) if self.axis == "user" else (self.column_type, self.row_type)
        return BlockSchema(user, item, timestamp=timed, position=True, retractions=True)

    def for_events(self, file: RatingFile) -> RatingFile:
        """A file, as it was found, so that what a record means depends on no other one."""
        if self.timestamp_unit == "auto" and (file.format != "parquet" or file.time_form in (OWN, "s")):
            file = file._replace(time_form=BY_SIZE)
        return file._replace(json_ids=("", ""))
