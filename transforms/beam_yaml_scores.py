"""Scoring as Beam YAML has it: configured by JSON, from rows to rows; `beam_yaml` has what prepares."""

# No `from __future__ import annotations`: Beam takes types of rows and of configurations from the annotations.

from typing import Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream import transforms
from nnsparse_stream.checkpoints.state import read_state
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming.events import known_schema
from nnsparse_stream.streaming.live_scores import scored_schema
from nnsparse_stream.transforms.rating_rows import field_types, to_rows


class ScoreRows(beam.PTransform):
    """Lists of rows, for what is known of them in the row: rows with fields row, columns and values to rows of lists.

    The field row is an id, columns a list of ids, values a list of as many numbers; other fields are left out. Windows
    and timestamps are kept; see `nnsparse_stream.transforms.ScoreRows`.

    Args:
        model: URL of a run or of a checkpoint; with `data` also of a pointer.
        data: URL of a data set whose vocabulary the model has, or extends: with it the newest model is looked for while
            the job runs.
        top_k: columns a row.
        refresh: seconds between two looks for a newer model.
        exclude_known: whether columns that a row has are left out.
        min_column_ratings: training entries that a listed column must have.

    Returns:
        Rows with the fields row_id, column_id, score, rank, model_step and model.

    Raises:
        InputError: when the pipeline is built: the configuration or the rows are not fit, or there is no model; in a
            worker: a row's fields are not of the model's types.
    """

    def __init__(
        self,
        model: str,
        data: str | None = None,
        top_k: int = 10,
        refresh: float = 30.0,
        exclude_known: bool = True,
        min_column_ratings: int = 1,
    ) -> None:
        super().__init__()
        rules = ListRules(exclude_known, min_column_ratings)
        self._score = transforms.ScoreRows(model, data, top_k=top_k, refresh=refresh, rules=rules)
        self._types = _id_types(model, data)

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Applies the transform."""
        missing = [name for name in ("row", "columns", "values") if name not in field_types(rows)]
        if missing:
            raise InputError(f"the rows have no field {missing[0]}, only {', '.join(field_types(rows))}; name it so")
        blocks = rows | "To blocks" >> beam.Map(_known_block, *self._types).with_output_types(pa.RecordBatch)
        return blocks | "Score" >> self._score | "To rows" >> to_rows(scored_schema(*self._types, ranked=True))


def _known_block(row: Any, row_type: str, column_type: str) -> pa.RecordBatch:
    """A block of one row with what is known of it."""
    schema = known_schema(row_type, column_type)
    try:
        values = {
            "row": row.row,
            "columns": list(row.columns),
            "values": [float(value) for value in row.values],
        }
        return pa.RecordBatch.from_pylist([values], schema=schema)
    except (pa.ArrowException, TypeError, ValueError) as error:
        wanted = f"row is to be {row_type}, columns a list of {column_type}, values a list of numbers"
        raise InputError(f"{str(row)[:1000]}: {storage.one_line(error)}; {wanted}") from error


def _id_types(model: str, data: str | None) -> tuple[str, str]:
    """The types of the ids of rows and of columns."""
    if data is not None:
        manifest = Manifest.read(data)
        return manifest.row_id_type, manifest.column_id_type
    state = read_state(model).state
    return state["row_id_type"], state["column_id_type"]
