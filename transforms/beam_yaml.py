"""The transforms of preparation as Beam YAML has them: configured by JSON, from rows to rows.

`beam_providers.yaml` names them. A *row of a rating* has the fields user, item (integers or strings), rating (a number)
and maybe timestamp (an integer) and fold (0 train, 1 validation, 2 test). Where nothing else reads the rows between
two of these transforms, they travel as the Arrow tables that they are made of, which Beam calls batches.
"""

# No `from __future__ import annotations`: Beam takes types of rows and of configurations from the annotations.

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import named_fields_from_element_type
from apache_beam.utils.windowed_value import WindowedValue

import transforms
from nnsparse_stream.dataset import AXES
from nnsparse_stream.errors import InputError
from nnsparse_stream.folds import FOLDS, Folds, HashFolds, folds_from_json
from nnsparse_stream.formats import SEPARATORS, FieldNames
from nnsparse_stream.inputs import plan_inputs
from nnsparse_stream.output import OutputDirectory
from nnsparse_stream.prepared import CONTENTS, assemble_manifest
from nnsparse_stream.reading import BLOCK_BYTES
from nnsparse_stream.split_outputs import check_bad_records
from nnsparse_stream.text_records import is_storable
from nnsparse_stream.times import TimeRange

#: Rows that are not in tables wait until they are so many: about 1 MB of them.
_PENDING_ROWS = 1 << 15
_FORMATS = ("auto", "parquet", *SEPARATORS, "jsonl")
_DUPLICATES = ("error", "first", "last", "mean")
#: The fields of a rating's row, and the kinds that each may have; see `_kind`.
_KINDS = {
    "user": ("int64", "string"),
    "item": ("int64", "string"),
    "rating": ("int64", "float"),
    "timestamp": ("int64",),
    "fold": ("int64",),
}
_WORDS = {"int64": "an integer", "string": "a string", "float": "another number"}


class BadExample(NamedTuple):
    """A record that could not be read: its file, its line in the split or its record number, why, its text."""

    file: str
    position: int
    reason: str
    text: str


class ReadSummary(NamedTuple):
    """What was read of a split of a file: numbers of the file and of the split in it, counts, the first bad records."""

    file: int
    split: int
    lines: int
    read: int
    bad: int
    examples: Sequence[BadExample]


class WrittenShard(NamedTuple):
    """A shard of a whole data set: the manifest's entry for it."""

    path: str
    rows: int
    entries: int
    bytes: int
    sha256: str


class ReadRatings(beam.PTransform):
    """Reads rating files to rows of ratings; the root of a pipeline.

    Args:
        input: URLs of files, globs or directories; or a mapping of train, validation and test to such, which gives the
            rows a field fold.
        dead_letters: URL of a directory for the records that cannot be read.
        user_column, item_column, rating_column: how the files name the fields, or their positions from 0.
        timestamp_column: the same; where it is given, the rows have a field timestamp, of a Parquet timestamp in
            microseconds since 1970.
        format: "auto", "parquet", "csv", "tsv", "movielens" or "jsonl".
        id_type: "auto", "int" or "string".

    Returns:
        Two PCollections: `ratings`, rows of ratings; and `summaries`, a row of `ReadSummary` for each split.

    Raises:
        InputError: when the pipeline is built: what `nnsparse_stream.inputs.plan_inputs` raises.
    """

    def __init__(
        self,
        input: Any,
        dead_letters: str,
        user_column: str = "user",
        item_column: str = "item",
        rating_column: str = "rating",
        timestamp_column: str | None = None,
        format: str = "auto",
        id_type: str = "auto",
    ) -> None:
        super().__init__()
        _check_one_of("format", format, _FORMATS)
        _check_one_of("id_type", id_type, ("auto", "int", "string"))
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
            str(rating_column),
            None if timestamp_column is None else str(timestamp_column),
        )
        self._format, self._id_type = format, id_type

    def expand(self, begin: beam.pvalue.PBegin) -> dict[str, beam.PCollection]:
        """Applies the transform to the pipeline."""
        plan = plan_inputs(
            self._urls,
            self._names,
            file_format=self._format,
            id_type=self._id_type,
            timed_for=None if self._names.timestamp is None else "timestamp_column",
        )
        read = begin | "Read" >> transforms.ReadRatings(plan, self._dead_letters)
        return {
            "ratings": read.ratings | "To rows" >> _to_rows(plan.empty_block().schema),
            "summaries": read.summaries | "Summaries" >> beam.Map(_read_summary).with_output_types(ReadSummary),
        }


class AssignFolds(beam.PTransform):
    """Adds to rows of ratings the field fold: 0 train, 1 validation, 2 test.

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
            raise InputError("folds of the method files are those that the rows have; give hash, time or last")
        self._folds: Folds = chosen

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Applies the transform."""
        # The time goes along where the rows have one, whether these folds need it or not.
        timed = self._folds.timed or "timestamp" in _field_types(rows)
        schema = _block_schema(rows, timestamp=timed, fold=False)
        folded = rows | "To blocks" >> _to_blocks(rows, schema) | "Assign" >> transforms.AssignFolds(self._folds)
        return folded | "To rows" >> _to_rows(schema.append(pa.field("fold", pa.uint8())))


class WriteDataset(beam.PTransform):
    """Writes rows of ratings as a whole data set, as `nnsparse-stream prepare` does.

    The input is the ratings, or a mapping of `ratings` and `summaries`: what `ReadRatings` gave, with nothing between
    that leaves rows out. With summaries the manifest counts the bad records, and too many of them fail the run.

    The directory is marked as unfinished when the pipeline is built. A run that fails leaves it so; the next run with
    the same output begins anew.

    Args:
        output: URL of the data set's directory.
        axis: "user" or "item": what a row of the data set is.
        overwrite: whether a data set that lies there is replaced.
        folds: as in a manifest; by default {"method": "hash", "percent": [90, 0, 10], "seed": 0}. {"method": "files"}
            takes the rows' field fold. Where the method is last, the axis is the data set's.
        duplicates: "error", "first", "last" or "mean"; first and last go by the rows' field timestamp.
        time_from, time_to: bounds of the field timestamp, the first included, the second not.
        min_row_ratings, min_column_ratings: rows and columns with fewer ratings are left out.
        num_shards: by default one for every 500,000 ratings.
        max_bad_fraction: of bad records that is let pass; of no effect without summaries.

    Returns:
        A PCollection of rows of `WrittenShard`; there are none before the data set is whole.

    Raises:
        InputError: when the pipeline is built: the configuration or the rows are not fit, or the output is taken; in a
            worker: a row lacks a value, a pair is rated twice, too many records are bad, or no rating is left.
    """

    def __init__(
        self,
        output: str,
        axis: str,
        overwrite: bool = False,
        folds: Mapping[str, Any] | None = None,
        duplicates: str = "error",
        time_from: int | None = None,
        time_to: int | None = None,
        min_row_ratings: int = 1,
        min_column_ratings: int = 1,
        num_shards: int | None = None,
        max_bad_fraction: float = 0.01,
    ) -> None:
        super().__init__()
        _check_one_of("axis", axis, AXES)
        _check_one_of("duplicates", duplicates, _DUPLICATES)
        bounds = {"time_from": time_from, "time_to": time_to}
        least = {"min_row_ratings": min_row_ratings, "min_column_ratings": min_column_ratings}
        if not isinstance(max_bad_fraction, int | float) or not 0 <= max_bad_fraction <= 1:
            raise InputError(f"max_bad_fraction is {max_bad_fraction!r}; give a number from 0 to 1")
        for name, number in {**bounds, **least, "num_shards": num_shards}.items():
            if number is not None and (not isinstance(number, int) or (name not in bounds and number < 1)):
                raise InputError(f"{name} is {number!r}; give an integer{'' if name in bounds else ' from 1'}")
        if time_from is not None and time_to is not None and time_from >= time_to:
            raise InputError(f"time_from {time_from} is not before time_to {time_to}; exchange them")
        if isinstance(folds, Mapping) and folds.get("method") == "last":
            folds = {"axis": axis, **folds}
        self._folds = HashFolds() if folds is None else folds_from_json(folds)
        if self._folds and self._folds.row_axis not in (None, axis):
            raise InputError(
                f"folds go by the rows of the axis {self._folds.row_axis}, and axis is {axis}; drop theirs"
            )
        self._output, self._axis, self._overwrite = output, axis, overwrite
        self._duplicates = duplicates
        self._times = TimeRange(time_from, time_to)
        self._least, self._num_shards, self._max_bad_fraction = least, num_shards, max_bad_fraction
        self._filters = {
            **{name: bound for name, bound in bounds.items() if bound is not None},
            **{name: count for name, count in least.items() if count > 1},
        }

    def expand(self, inputs: beam.PCollection | dict[str, beam.PCollection]) -> beam.PCollection:
        """Applies the transform."""
        named = {"ratings": inputs} if isinstance(inputs, beam.PCollection) else dict(inputs)
        if "ratings" not in named or set(named) - {"ratings", "summaries"}:
            raise InputError(f"the inputs are {', '.join(named)}; give ratings, and maybe summaries")
        rows = named["ratings"]
        needs_time = (
            (self._folds is not None and self._folds.timed)
            or self._times != TimeRange()
            or self._duplicates in ("first", "last")
        )
        schema = _block_schema(rows, timestamp=needs_time, fold=self._folds is None)
        OutputDirectory(self._output, contents=CONTENTS, overwrite=self._overwrite).begin()
        kept = rows | "To blocks" >> _to_blocks(rows, schema) | "FilterByTime" >> transforms.FilterByTime(self._times)
        column = "item" if self._axis == "user" else "user"
        vocabulary = kept.ratings | "BuildVocabulary" >> transforms.BuildVocabulary(
            column, str(schema.field(column).type), self._output, min_ratings=self._least["min_column_ratings"]
        )
        shards = (
            kept.ratings
            | "SparsifyRatings"
            >> transforms.SparsifyRatings(
                self._axis,
                vocabulary,
                pa.RecordBatch.from_pylist([], schema=schema),
                duplicates=self._duplicates,
                folds=self._folds,
                num_shards=self._num_shards,
                min_row_ratings=self._least["min_row_ratings"],
                known_columns_only=self._least["min_column_ratings"] > 1,
            )
            | "WriteShards" >> transforms.WriteShards(self._output)
        )
        known = {
            "axis": self._axis,
            "user_type": str(schema.field("user").type),
            "item_type": str(schema.field("item").type),
            "folds": self._folds,
            "duplicates": self._duplicates,
            "filters": self._filters,
        }
        return (
            rows.pipeline
            | "Once" >> beam.Impulse()
            | "Complete"
            >> beam.FlatMap(
                _complete,
                self._output,
                known,
                self._max_bad_fraction,
                beam.pvalue.AsList(named["summaries"]) if "summaries" in named else None,
                beam.pvalue.AsList(kept.filtered),
                beam.pvalue.AsSingleton(vocabulary),
                beam.pvalue.AsList(shards),
            ).with_output_types(WrittenShard)
        )


def _complete(
    _: bytes,
    url: str,
    known: dict[str, Any],
    max_bad_fraction: float,
    summaries: list[ReadSummary] | None,
    filtered: list[int],
    vocabulary: dict[str, Any],
    shards: list[dict[str, Any]],
) -> Iterator[WrittenShard]:
    """Writes the manifest, last of all: a retry writes the same again. `known` is what is so before the job starts."""
    came = sum(filtered) + vocabulary["ratings"]
    read, bad = came, 0
    if summaries is not None:
        read, bad = check_bad_records([part._asdict() for part in summaries], max_bad_fraction)
        if read - bad != came:
            raise InputError(
                f"the summaries count {read - bad} ratings, and {came} came; where a transform between ReadRatings and "
                "WriteDataset leaves rows out or adds some, drop the input summaries"
            )
    manifest = assemble_manifest(
        **known, read=read, bad=bad, filtered=sum(filtered), vocabulary=vocabulary, shards=shards
    )
    OutputDirectory(url, contents=CONTENTS).complete(manifest.to_json())
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


def _read_summary(summary: dict[str, Any]) -> ReadSummary:
    return ReadSummary(**{**summary, "examples": [BadExample(*example) for example in summary["examples"]]})


def _kind(of: Any) -> str | None:
    """What the type of a row's field holds, null aside: "int64", "string" or "float"; None for anything else."""
    inner = [part for part in typing.get_args(of) if part is not type(None)]
    of = inner[0] if typing.get_origin(of) is typing.Union and len(inner) == 1 else of
    if not isinstance(of, type) or issubclass(of, bool):
        return None
    kinds = {int: "int64", np.integer: "int64", str: "string", float: "float", np.floating: "float"}
    return next((kind for base, kind in kinds.items() if issubclass(of, base)), None)


def _field_types(rows: beam.PCollection) -> dict[str, Any]:
    """The fields of rows, each with its type.

    Raises:
        InputError: the elements are no rows.
    """
    try:
        return dict(named_fields_from_element_type(rows.element_type))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the input has elements of type {rows.element_type}; give rows with the fields user, item and rating"
        ) from error


def _block_schema(rows: beam.PCollection, timestamp: bool, fold: bool) -> pa.Schema:
    """The schema of the blocks that rows become.

    Raises:
        InputError: the rows lack a field, or it is of the wrong type.
    """
    types = _field_types(rows)
    names = ["user", "item", "rating", *(["timestamp"] if timestamp else []), *(["fold"] if fold else [])]
    for name in names:
        if name not in types:
            raise InputError(f"the rows have no field {name}, only {', '.join(types)}; name it so by MapToFields")
        if _kind(types[name]) not in _KINDS[name]:
            wanted = " or ".join(_WORDS[kind] for kind in _KINDS[name])
            raise InputError(f"the field {name} of the rows is {types[name]}, not {wanted}; convert it by MapToFields")
    ids = {"int64": pa.int64(), "string": pa.string()}
    fixed = {"rating": pa.float32(), "timestamp": pa.int64(), "fold": pa.uint8()}
    return pa.schema([(name, fixed[name] if name in fixed else ids[str(_kind(types[name]))]) for name in names])


def _to_rows(schema: pa.Schema) -> beam.ParDo:
    """Blocks of a schema to rows. Beam's rows have no small unsigned integers: a fold becomes an int."""
    of = {"int64": int, "uint8": int, "string": str, "float": np.float32}
    return beam.ParDo(_ToRows(RowTypeConstraint.from_fields([(field.name, of[str(field.type)]) for field in schema])))


class _ToRows(beam.DoFn):
    def __init__(self, row_type: RowTypeConstraint) -> None:
        self._row_type = row_type

    def infer_output_type(self, input_type: Any) -> RowTypeConstraint:
        return self._row_type

    @beam.DoFn.yields_batches
    def process(self, block: pa.RecordBatch) -> Iterator[pa.Table]:
        table = pa.Table.from_batches([block])
        if "fold" in block.schema.names:
            place = block.schema.get_field_index("fold")
            table = table.set_column(place, "fold", table["fold"].cast(pa.int64()))
        yield table


def _to_blocks(rows: beam.PCollection, schema: pa.Schema) -> beam.ParDo:
    """Rows to blocks of a schema. Rows that have other fields come one by one: Beam makes no tables of every type."""
    plain = all(_kind(of) in _KINDS.get(name, ()) for name, of in _field_types(rows).items())
    do_fn = _TablesToBlocks(schema) if plain else _RowsToBlocks(schema)
    return beam.ParDo(do_fn).with_output_types(pa.RecordBatch)


class _RowsToBlocks(beam.DoFn):
    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def start_bundle(self) -> None:
        self._pending: list[tuple[Any, ...]] = []

    def process(self, row: Any) -> Iterator[pa.RecordBatch]:
        self._pending.append(tuple(getattr(row, name) for name in self._schema.names))
        if len(self._pending) >= _PENDING_ROWS:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for block in self._flush():
            yield WindowedValue(block, window.max_timestamp(), [window])

    def _flush(self) -> Iterator[pa.RecordBatch]:
        if self._pending:
            columns = zip(*self._pending, strict=True)
            yield from _blocks(pa.table([pa.array(column) for column in columns], self._schema.names), self._schema)
        self._pending = []


class _TablesToBlocks(_RowsToBlocks):
    @beam.DoFn.yields_elements
    def process_batch(self, rows: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from _blocks(rows, self._schema)


def _blocks(rows: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Blocks of a schema, of about 1 MB, of a table that has its columns.

    Raises:
        InputError: a value is missing, a rating is not finite, or a fold is none.
    """
    for name in schema.names:
        _refuse(rows, pc.is_null(rows[name]), f"a row has no {name}")
    ratings = rows["rating"].cast(pa.float64(), safe=False).to_numpy()
    _refuse(rows, pa.array(~is_storable(ratings)), "the rating of a row is not finite")
    if "fold" in schema.names:
        _refuse(rows, pc.invert(pc.is_in(rows["fold"], pa.array([0, 1, 2]))), "the fold of a row is not 0, 1 or 2")
    # Integers may be of fewer bits, and ratings of more.
    table = rows.select(schema.names).cast(schema, safe=False).combine_chunks()
    for whole in table.to_batches():
        step = max(1, BLOCK_BYTES * len(whole) // max(whole.nbytes, 1))
        for start in range(0, len(whole), step):
            yield whole.slice(start, step)


def _refuse(rows: pa.Table, unfit: pa.Array, what: str) -> None:
    if pc.any(unfit).as_py():
        (first,) = rows.filter(unfit).slice(0, 1).to_pylist()
        raise InputError(f"{what}: {first}; leave it out by Filter")
