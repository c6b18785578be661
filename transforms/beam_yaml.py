"""The transforms of preparation as Beam YAML has them: configured by JSON, from rows to rows.

`beam_providers.yaml` names them. `nnsparse_stream.transforms.rating_rows` says what a row of a rating is.
"""

# No `from __future__ import annotations`: Beam takes types of rows and of configurations from the annotations.

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

from nnsparse_stream import transforms
from nnsparse_stream.data.assembly import DATA_FILES, DEAD_LETTERS, assemble_manifest, filters_to_json
from nnsparse_stream.data.grouping import DUPLICATES
from nnsparse_stream.data.manifest import AXES
from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.dead_letters import check_bad_records, letters_file, remove_other_letters, span_of_times
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.folds import FOLDS, Folds, HashFolds, TimeShares, folds_from_json
from nnsparse_stream.ratings.formats import FORMATS
from nnsparse_stream.ratings.input_plan import plan_inputs
from nnsparse_stream.ratings.layout import NO_COLUMN, FieldNames
from nnsparse_stream.ratings.selection import FEEDBACK, Selection
from nnsparse_stream.ratings.time_columns import UNITS
from nnsparse_stream.ratings.times import TimeRange, check_bounds
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.output_directory import OutputDirectory
from nnsparse_stream.transforms.folds import time_folds
from nnsparse_stream.transforms.rating_rows import block_schema, field_types, to_blocks, to_rows
from nnsparse_stream.transforms.summary_rows import ReadSummary, WrittenShard, read_summary
from nnsparse_stream.transforms.windows import refuse_windows

_FORMATS = ("auto", *FORMATS)


class ReadRatings(beam.PTransform):
    """Reads rating files to rows of ratings; the root of a pipeline.

    Args:
        input: URLs of files, globs or directories; or a mapping of train, validation and test to such, which gives the
            rows a field fold.
        dead_letters: URL of a directory for the records that cannot be read; those of an earlier run are replaced.
        user_column, item_column, rating_column: how the files name the fields, or their positions from 0; a
            rating_column of None or "none" counts every record as a 1.
        timestamp_column: the same; where it is given, the rows have a field timestamp: integers as they are, all else
            in microseconds since 1970.
        format: "auto", "parquet", "csv", "tsv", "movielens" or "jsonl".
        delimiter, quote, decimal, encoding, comment, skip_lines, header, multiline: of text, see
            `nnsparse_stream.ratings.dialect.Dialect`.
        id_type: "auto", "int" or "string".
        timestamp_unit: what times that are numbers count since 1970: "s", "ms", "us" or "ns"; or "auto".

    Returns:
        Two PCollections: `ratings`, rows of ratings; and `summaries`, a row of `ReadSummary` for each split.

    Raises:
        InputError: when the pipeline is built: what `nnsparse_stream.ratings.input_plan.plan_inputs` raises.
    """

    def __init__(
        self,
        input: Any,
        dead_letters: str,
        user_column: str = "user",
        item_column: str = "item",
        rating_column: str | None = "rating",
        timestamp_column: str | None = None,
        format: str = "auto",
        delimiter: str | None = None,
        quote: str | None = None,
        decimal: str = ".",
        encoding: str = "utf-8",
        comment: str = "",
        skip_lines: int = 0,
        header: bool | None = None,
        multiline: bool = False,
        id_type: str = "auto",
        timestamp_unit: str = "auto",
    ) -> None:
        super().__init__()
        _check_one_of("format", format, _FORMATS)
        _check_one_of("id_type", id_type, ("auto", "int", "string"))
        _check_one_of("timestamp_unit", timestamp_unit, ("auto", *UNITS))
        self._urls: Sequence[str] | dict[int, Sequence[str]]
        if isinstance(input, Mapping):
            unknown = sorted(set(input) - set(FOLDS))
            if unknown or "train" not in input:
                raise InputError(f"input is of the folds {', '.join(input)}; give train, and maybe validation and test")
            self._urls = {number: _urls(input[fold]) for number, fold in enumerate(FOLDS) if fold in input}
        else:
            self._urls = _urls(input)
        self._dead_letters = dead_letters
        # A position is written as a number in YAML.
        self._names = FieldNames(
            str(user_column),
            str(item_column),
            NO_COLUMN if rating_column is None else str(rating_column),
            None if timestamp_column is None else str(timestamp_column),
        )
        self._format, self._id_type, self._timestamp_unit = format, id_type, timestamp_unit
        self._dialect = Dialect(delimiter, quote, decimal, encoding, comment, skip_lines, header, multiline).checked()

    def expand(self, begin: beam.pvalue.PBegin) -> dict[str, beam.PCollection]:
        """Applies the transform to the pipeline."""
        plan = plan_inputs(
            self._urls,
            self._names,
            file_format=self._format,
            dialect=self._dialect,
            id_type=self._id_type,
            timed_for=None if self._names.timestamp is None else "timestamp_column",
            timestamp_unit=self._timestamp_unit,
        )
        read = begin | "Read" >> transforms.ReadRatings(plan, self._dead_letters)
        names = read.letters | "Dead letters' files" >> beam.Map(letters_file).with_output_types(str)
        _ = (
            begin
            | "Once" >> beam.Create([self._dead_letters], reshuffle=False)
            | "Remove earlier dead letters" >> beam.Map(remove_other_letters, beam.pvalue.AsList(names))
        )
        return {
            "ratings": read.ratings | "To rows" >> to_rows(plan.empty_block().schema),
            "summaries": read.summaries | "Summaries" >> beam.Map(read_summary).with_output_types(ReadSummary),
        }


class AssignFolds(beam.PTransform):
    """Adds to rows of ratings the field fold: 0 train, 1 validation, 2 test; of rows held out, 3 and 4 what is shown.

    Other fields than those of a rating are left out.

    Args:
        folds: as in a manifest, for instance {"method": "hash", "percent": [80, 10, 10]}; see docs/data-layout.md.

    Raises:
        InputError: when the pipeline is built: the folds or the rows are not fit.
    """

    def __init__(self, folds: Mapping[str, Any]) -> None:
        super().__init__()
        chosen = folds_from_json(folds)
        if chosen is None:
            raise InputError("folds of the method files are those that the rows have; give hash, time, last or rows")
        self._folds: Folds | TimeShares = chosen

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Applies the transform."""
        # The time goes along where the rows have one, whether these folds need it or not.
        timed = self._folds.timed or "timestamp" in field_types(rows)
        schema = block_schema(rows, timestamp=timed, fold=False)
        folded = rows | "To blocks" >> to_blocks(rows, schema) | "Assign" >> transforms.AssignFolds(self._folds)
        return folded | "To rows" >> to_rows(schema.append(pa.field("fold", pa.uint8())))


class WriteDataset(beam.PTransform):
    """Writes rows of ratings as a whole data set, as `nnsparse-stream prepare` does.

    The input is the ratings, or a mapping of `ratings` and `summaries`: what `ReadRatings` gave, with nothing between
    that leaves rows out. With summaries the manifest counts the bad records, and too many of them fail the run.

    The job's first stage removes what is overwritten and marks the directory as unfinished. A run that fails leaves it
    so; the next run with the same output begins anew. Dead letters in the directory are those of `ReadRatings`: they
    are neither removed nor waited for.

    Args:
        output: URL of the data set's directory.
        axis: "user" or "item": what a row of the data set is.
        overwrite: whether a data set that lies there is replaced.
        folds: as in a manifest; by default {"method": "hash", "percent": [90, 0, 10], "seed": 0}. {"method": "files"}
            takes the rows' field fold. Where the method is last or rows, the axis is the data set's.
        feedback: "explicit" or "implicit"; by default explicit, with `positive_from` implicit. Rows of implicit
            feedback need no field rating: each without counts as a 1.
        duplicates: "error", "first", "last", "mean", "sum", "max" or "count"; by default error, of implicit feedback
            count. First and last go by the rows' field timestamp.
        time_from, time_to: bounds of the field timestamp, the first included, the second not.
        positive_from: ratings of this value or more are interactions, each a 1; the others are left out.
        min_row_ratings, min_column_ratings: rows and columns with fewer ratings are left out.
        num_shards: by default one for every 500,000 ratings.
        max_bad_fraction: of bad records that is let pass; of no effect without summaries.

    Returns:
        A PCollection of rows of `WrittenShard`; there are none before the data set is whole.

    Raises:
        InputError: when the pipeline is built: the configuration or the rows are not fit, the rows are cut into
            windows, or the output is taken; in a worker: a row lacks a value, a pair is rated twice, too many records
            are bad, or no rating is left.
    """

    def __init__(
        self,
        output: str,
        axis: str,
        overwrite: bool = False,
        folds: Mapping[str, Any] | None = None,
        feedback: str | None = None,
        duplicates: str | None = None,
        time_from: int | None = None,
        time_to: int | None = None,
        positive_from: float | None = None,
        min_row_ratings: int = 1,
        min_column_ratings: int = 1,
        num_shards: int | None = None,
        max_bad_fraction: float = 0.01,
    ) -> None:
        super().__init__()
        _check_one_of("axis", axis, AXES)
        feedback = feedback or ("explicit" if positive_from is None else "implicit")
        duplicates = duplicates or ("error" if feedback == "explicit" else "count")
        _check_one_of("feedback", feedback, FEEDBACK)
        _check_one_of("duplicates", duplicates, DUPLICATES)
        if positive_from is not None and (not isinstance(positive_from, int | float) or feedback == "explicit"):
            raise InputError(
                f"positive_from is {positive_from!r}, and feedback {feedback}; give a number, and implicit"
            )
        bounds = {"time_from": time_from, "time_to": time_to}
        counts = {
            "min_row_ratings": min_row_ratings,
            "min_column_ratings": min_column_ratings,
            "num_shards": num_shards,
        }
        if not isinstance(max_bad_fraction, int | float) or not 0 <= max_bad_fraction <= 1:
            raise InputError(f"max_bad_fraction is {max_bad_fraction!r}; give a number from 0 to 1")
        for name, number in {**bounds, **counts}.items():
            if number is not None and (not isinstance(number, int) or (name not in bounds and number < 1)):
                raise InputError(f"{name} is {number!r}; give an integer{'' if name in bounds else ' from 1'}")
        if time_from is not None and time_to is not None and time_from >= time_to:
            raise InputError(f"time_from {time_from} is not before time_to {time_to}; exchange them")
        if isinstance(folds, Mapping) and folds.get("method") in ("last", "rows"):
            folds = {"axis": axis, **folds}
        self._folds = HashFolds() if folds is None else folds_from_json(folds)
        if self._folds and self._folds.row_axis not in (None, axis):
            raise InputError(
                f"folds go by the rows of the axis {self._folds.row_axis}, and axis is {axis}; drop theirs"
            )
        self._output, self._axis, self._overwrite = output, axis, overwrite
        self._feedback, self._duplicates = feedback, duplicates
        self._selection = Selection(TimeRange(time_from, time_to), positive_from)
        self._min_row_ratings, self._min_column_ratings = min_row_ratings, min_column_ratings
        self._num_shards, self._max_bad_fraction = num_shards, max_bad_fraction
        self._filters = filters_to_json(self._selection, min_row_ratings, min_column_ratings)

    def expand(self, inputs: beam.PCollection | dict[str, beam.PCollection]) -> beam.PCollection:
        """Applies the transform."""
        named = {"ratings": inputs} if isinstance(inputs, beam.PCollection) else dict(inputs)
        if "ratings" not in named or set(named) - {"ratings", "summaries"}:
            raise InputError(f"the inputs are {', '.join(named)}; give ratings, and maybe summaries")
        refuse_windows(self, *named.values())
        rows = named["ratings"]
        needs_time = (
            (self._folds is not None and self._folds.timed)
            or self._selection.times != TimeRange()
            or self._duplicates in ("first", "last")
        )
        rated = self._feedback == "explicit" or self._selection.positive_from is not None
        schema = block_schema(rows, timestamp=needs_time, fold=self._folds is None, rating=rated)
        # `ReadRatings` of the same pipeline may write dead letters into it, before the first stage or after it.
        output = OutputDirectory(
            self._output, contents=DATA_FILES, beside=DEAD_LETTERS, overwrite=self._overwrite, job=uuid.uuid4().hex
        )
        output.check()
        begun = rows.pipeline | "Once at first" >> beam.Create([output], reshuffle=False) | "Begin" >> beam.Map(_begin)
        prepared = (
            rows
            | "To blocks" >> to_blocks(rows, schema)
            # What writes to the directory comes after these.
            | "When begun" >> beam.Map(_first, beam.pvalue.AsSingleton(begun)).with_output_types(pa.RecordBatch)
            | "PrepareShards"
            >> transforms.PrepareShards(
                self._output,
                self._axis,
                pa.RecordBatch.from_pylist([], schema=schema),
                selection=self._selection,
                duplicates=self._duplicates,
                folds=self._folds,
                num_shards=self._num_shards,
                min_row_ratings=self._min_row_ratings,
                min_column_ratings=self._min_column_ratings,
            )
        )
        known = {
            "axis": self._axis,
            "user_type": str(schema.field("user").type),
            "item_type": str(schema.field("item").type),
            "folds": self._folds,
            "feedback": self._feedback,
            "duplicates": self._duplicates,
            "filters": self._filters,
        }
        return (
            rows.pipeline
            | "Once" >> beam.Impulse()
            | "Complete"
            >> beam.FlatMap(
                _complete,
                output,
                known,
                self._selection.times,
                self._max_bad_fraction,
                beam.pvalue.AsList(named["summaries"]) if "summaries" in named else None,
                beam.pvalue.AsList(prepared.filtered),
                None if prepared.cut is None else beam.pvalue.AsSingleton(prepared.cut),
                beam.pvalue.AsSingleton(prepared.vocabulary),
                beam.pvalue.AsList(prepared.shards),
            ).with_output_types(WrittenShard)
        )


def _begin(output: OutputDirectory) -> bool:
    output.begin()
    return True


def _first(block: pa.RecordBatch, _: bool) -> pa.RecordBatch:
    return block


def _complete(
    _: bytes,
    output: OutputDirectory,
    known: dict[str, Any],
    times: TimeRange,
    max_bad_fraction: float,
    summaries: list[ReadSummary] | None,
    filtered: list[int],
    cut: dict[str, Any] | None,
    vocabulary: dict[str, Any],
    shards: list[dict[str, Any]],
) -> Iterator[WrittenShard]:
    """Writes the manifest, last of all: a retry writes the same again. `known` is what is so before the job starts."""
    if cut is not None:
        known = {**known, "folds": time_folds(cut)}
    came = sum(filtered) + vocabulary["ratings"]
    read, bad = came, 0
    if summaries is not None:
        parts = [part._asdict() for part in summaries]
        read, bad = check_bad_records(parts, max_bad_fraction)
        check_bounds(span_of_times(parts), times, known["folds"])
        if read - bad != came:
            raise InputError(
                f"the summaries count {read - bad} ratings, and {came} came; where a transform between ReadRatings and "
                "WriteDataset leaves rows out or adds some, drop the input summaries"
            )
    manifest = assemble_manifest(
        **known, read=read, bad=bad, filtered=sum(filtered), vocabulary=vocabulary, shards=shards
    )
    there = storage.list_files(output.url)
    written = [file.path for file in manifest.columns] + [shard.path for shard in manifest.shards]
    lost = [path for path in written if path not in there]
    if lost:
        raise RuntimeError(f"{output.url}: {lost[0]} was written and is not there any more")
    output.complete(manifest.to_json())
    for file in manifest.shards:
        yield WrittenShard(file.path, file.rows, file.entries, file.bytes, file.sha256)


def _urls(value: Any) -> list[str]:
    urls = [value] if isinstance(value, str) else value
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        raise InputError(f"input is {value!r}; give the URL of a file, glob or directory, or a list of such")
    return urls


def _check_one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; give {', '.join(allowed[:-1])} or {allowed[-1]}")
