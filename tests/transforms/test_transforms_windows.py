"""Windowed input: elements keep their windows, or the transform refuses them when it is applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.typehints.row_type import RowTypeConstraint

from nnsparse_stream import transforms
from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.running import IN_PROCESS_RUNNER
from nnsparse_stream.ratings.folds import HashFolds, LastFolds, TimeShares
from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.ratings.times import TimeRange
from nnsparse_stream.transforms import beam_yaml
from nnsparse_stream.transforms.rating_rows import to_blocks
from nnsparse_stream.transforms.score import KeyPairs, ScoreRatings

BLOCK = pa.record_batch(
    {"user": [1, 2], "item": [1, 1], "rating": pa.array([1, 2], pa.float32()), "timestamp": [5, 15]}
)
ROWS = RowTypeConstraint.from_fields([("user", int), ("item", int), ("rating", float)])
PREPARE: dict[str, Any] = {"selection": Selection(), "duplicates": "error", "folds": None, "num_shards": 1}


def windowed(pipeline: beam.Pipeline, elements: list[Any], kind: Any) -> beam.PCollection:
    """Elements at times 0, 10, 20, ..., each in a window of its own."""
    timed = [TimestampedValue(element, 10 * place) for place, element in enumerate(elements)]
    return (
        pipeline
        | beam.Create(timed, reshuffle=False)
        | beam.Map(lambda element: element).with_output_types(kind)
        | beam.WindowInto(FixedWindows(10))
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda url: transforms.BuildVocabulary("item", "int64", url),
        lambda url: transforms.SparsifyRatings("user", None, BLOCK),
        lambda url: transforms.WriteShards(url),
        lambda url: transforms.PrepareShards(url, "user", BLOCK, min_row_ratings=1, min_column_ratings=1, **PREPARE),
        lambda url: transforms.AssignFolds(LastFolds("user")),
        lambda url: transforms.AssignFolds(TimeShares(0, 10)),
        lambda url: ScoreRatings(url, url, 1, top_k=1, folds=[0]),
        lambda url: transforms.BlendPairs([url], [url], [1.0], url, folds=[0]),
    ],
)
def test_what_needs_all_of_its_input_refuses_windows(make: Callable[[str], beam.PTransform], tmp_path: Path) -> None:
    transform = make(str(tmp_path / "out"))
    with pytest.raises(InputError, match=f"^{type(transform).__name__} takes its input as a whole.*FixedWindows"):
        _ = windowed(beam.Pipeline(IN_PROCESS_RUNNER), [BLOCK], pa.RecordBatch) | transform
    assert not (tmp_path / "out").exists()


def test_a_data_set_of_windowed_rows_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = windowed(beam.Pipeline(IN_PROCESS_RUNNER), [beam.Row(user=1, item=2, rating=3.0)], ROWS)
    with pytest.raises(InputError, match=r"^WriteDataset takes its input as a whole"):
        _ = rows | beam_yaml.WriteDataset(str(tmp_path / "out"), "user")
    assert not (tmp_path / "out").exists()


def window_of(element: Any, window: Any = beam.DoFn.WindowParam) -> tuple[int, Any]:
    return int(window.start), element.to_pylist() if isinstance(element, pa.RecordBatch) else element


def test_what_takes_elements_one_by_one_keeps_their_windows() -> None:
    from apache_beam.testing.util import assert_that, equal_to

    with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
        blocks = windowed(pipeline, [BLOCK, BLOCK], pa.RecordBatch)
        kept = blocks | transforms.FilterRatings(Selection(TimeRange(0, 10)))
        first = BLOCK.slice(0, 1).to_pylist()
        assert_that(kept.ratings | "R" >> beam.Map(window_of), equal_to([(0, first), (10, first)]), "ratings")
        assert_that(kept.filtered | "F" >> beam.Map(window_of), equal_to([(0, 1), (10, 1)]), "filtered")
        folded = blocks | transforms.AssignFolds(HashFolds((100, 0, 0)))
        starts = folded | "A" >> beam.Map(lambda _, window=beam.DoFn.WindowParam: int(window.start))
        assert_that(starts, equal_to([0, 10]), "folds")
        keyed = (
            blocks | KeyPairs("user", 1) | "K" >> beam.Map(lambda _, window=beam.DoFn.WindowParam: int(window.start))
        )
        assert_that(keyed, equal_to([0, 10]), "pairs")


def row_as_block(row: Any) -> dict[str, Any]:
    return {"user": row.user, "item": row.item, "rating": row.rating}


@pytest.mark.parametrize("extra", [[], [("colour", str)]])
def test_rows_become_blocks_of_their_windows(extra: list[tuple[str, type]]) -> None:
    """Rows with a field of another kind come one by one, and wait to be more: not with those of other windows."""
    from apache_beam.testing.util import assert_that, equal_to

    fields = {"colour": "red"} if extra else {}
    rows = [beam.Row(user=number, item=2, rating=3.0, **fields) for number in range(2)]
    kind = RowTypeConstraint.from_fields([("user", int), ("item", int), ("rating", float), *extra])
    schema = pa.schema([("user", pa.int64()), ("item", pa.int64()), ("rating", pa.float32())])
    with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
        given = windowed(pipeline, rows, kind)
        blocks = given | to_blocks(given, schema) | "Window" >> beam.Map(window_of)
        expected = [(10 * number, [row_as_block(row)]) for number, row in enumerate(rows)]
        assert_that(blocks, equal_to(expected))
