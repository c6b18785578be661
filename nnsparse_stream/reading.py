"""Rating files to blocks of ratings: bounded pieces, exact positions, and every record that could not be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nnsparse_stream import storage
from nnsparse_stream.errors import InputError
from nnsparse_stream.formats import BOM, GZIP_ERRORS, RatingFile, damaged_gzip
from nnsparse_stream.text_records import BadRecord, BlockSchema, Records, is_storable, parse_lines
from nnsparse_stream.times import TimeRange

#: A block that goes between workers is at most about this large.
BLOCK_BYTES = 1 << 20
_CHUNK_BYTES = 4 << 20
_LONGEST_LINE = 64 << 20
_PARQUET_BATCH = 1 << 17
#: A position is the file's number in the upper bits and the line or record number in the lower ones.
_RECORD_BITS = 40


class Split(NamedTuple):
    """A piece of a file that one worker reads.

    Attributes:
        file: the file.
        first, last: the row groups [first, last) of a Parquet file; of a text file, 0 and 0 for the whole of it.
    """

    file: RatingFile
    first: int = 0
    last: int = 0


class ReadBlock(NamedTuple):
    """What was read: a block of ratings of at most about `BLOCK_BYTES`, and the bad records found on the way."""

    ratings: pa.RecordBatch
    bad: list[BadRecord]


def split_file(file: RatingFile, records: int = 1 << 20) -> list[Split]:
    """Cuts a file into splits: Parquet by row groups, at least `records` records each where there are as many."""
    if file.format != "parquet":
        return [Split(file)]
    splits, first, held = [], 0, 0
    for group, count in enumerate(file.row_groups):
        held += count
        if held >= records or group == len(file.row_groups) - 1:
            splits.append(Split(file, first, group + 1))
            first, held = group + 1, 0
    return splits


def read_split(split: Split, schema: BlockSchema) -> Iterator[ReadBlock]:
    """Reads a split.

    Yields:
        Blocks with the columns user, item, rating (float32), and as the run needs them timestamp, position, fold; and
        bad records. Every record of the split is in one of the two, once.

    Raises:
        InputError: the file is truncated or damaged, or cannot be read.
    """
    pieces = _parquet_records(split, schema) if split.file.format == "parquet" else _text_records(split.file, schema)
    for records in pieces:
        block = _block(records, split.file, schema)
        bad = records.bad
        rows = max(1, BLOCK_BYTES * len(block) // max(block.nbytes, 1))
        for start in range(0, max(len(block), 1), rows):
            yield ReadBlock(block.slice(start, rows), bad)
            bad = []


def describe_pair(
    files: Sequence[RatingFile],
    schema: BlockSchema,
    user: int | str,
    item: int | str,
    times: TimeRange = TimeRange(),  # noqa: B008 (immutable)
) -> str:
    """Says where the first two records of a user and an item are in a range of time, by reading until they are found.

    It is for an error's message: so no run has to carry the position of every rating for an error that seldom comes.
    """
    found: list[str] = []
    schema = schema._replace(position=True)
    for split in (split for file in files for split in split_file(file)):
        for block, _ in read_split(split, schema):
            ratings = times.filter(block)
            same = pc.and_(pc.equal(ratings["user"], user), pc.equal(ratings["item"], item))
            numbers = [
                position & ((1 << _RECORD_BITS) - 1) for position in ratings["position"].filter(same).to_pylist()
            ]
            unit = "record" if split.file.format == "parquet" else "line"
            found += [f"{split.file.url}, {unit} {number}" for number in sorted(numbers)]
            if len(found) >= 2:
                return " and ".join(found[:2])
    return " and ".join(found)


def describe(bad: BadRecord) -> str:
    """A bad record as one line."""
    return f"{bad.file}:{bad.position}: {bad.reason}: {' '.join(bad.text.split())[:100]}"


def _block(records: Records, file: RatingFile, schema: BlockSchema) -> pa.RecordBatch:
    columns = dict(zip((name for name, _ in schema.fields()), records.columns, strict=True))
    if schema.rating:
        columns["rating"] = columns["rating"].cast(pa.float32())
    if schema.position:
        columns["position"] = pa.array(records.positions + (file.number << _RECORD_BITS))
    if file.fold >= 0:
        columns["fold"] = pa.array(np.full(len(records.positions), file.fold, dtype=np.uint8))
    return pa.record_batch(columns)


def _text_records(file: RatingFile, schema: BlockSchema) -> Iterator[Records]:
    line = 1
    has_header = file.header
    try:
        with storage.open_input(file.url, "gzip" if file.compressed else None) as stream:
            rest = stream.read(len(BOM)).removeprefix(BOM)
            while True:
                piece = stream.read(_CHUNK_BYTES)
                cut = piece.rfind(b"\n") + 1 if piece else 0
                if piece and not cut:
                    rest += piece
                    if len(rest) > _LONGEST_LINE:
                        raise InputError(
                            f"{file.url}, line {line}: longer than {_LONGEST_LINE >> 20} MiB; this is no text file of "
                            "ratings"
                        )
                    continue
                data, rest = rest + piece[:cut], piece[cut:]
                if has_header:
                    data, header_lines = _without_header(data)
                    line += header_lines
                    has_header = False
                yield parse_lines(data, line, file, schema)
                line += data.count(b"\n")
                if not piece:
                    return
    except GZIP_ERRORS as error:
        raise damaged_gzip(file.url) from error
    except OSError as error:
        raise InputError(f"{file.url}: cannot be read after line {line - 1}: {storage.one_line(error)}") from error


def _without_header(data: bytes) -> tuple[bytes, int]:
    """Takes away the header, which is the first line that is not blank, and says how many lines are gone."""
    start, lines = 0, 0
    while True:
        end = data.find(b"\n", start)
        lines += 1
        if end < 0:
            return b"", lines
        if data[start:end].strip():
            return data[end + 1 :], lines
        start = end + 1


def _parquet_records(split: Split, schema: BlockSchema) -> Iterator[Records]:
    file = split.file
    names = list(file.names)
    start = sum(file.row_groups[: split.first]) + 1
    try:
        with storage.open_input(file.url) as stream:
            parquet = pq.ParquetFile(stream)
            groups = list(range(split.first, split.last))
            for batch in parquet.iter_batches(_PARQUET_BATCH, row_groups=groups, columns=names):
                columns = [batch[name] for name in names]
                yield _checked(columns, np.arange(start, start + len(batch)), file, schema)
                start += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.url}: its Parquet data is damaged after record {start - 1} ({storage.one_line(error)}); "
            "fetch the file again"
        ) from error


def _checked(columns: list[pa.Array], positions: np.ndarray, file: RatingFile, schema: BlockSchema) -> Records:
    """Converts typed columns, and sorts out the records with a null, an unfit id or a rating that is not finite."""
    converted: list[pa.Array] = []
    problems: list[tuple[str, np.ndarray]] = []
    for (name, kind), column in zip(schema.fields(), columns, strict=True):
        if column.null_count:
            problems.append((f"{name} is null", _mask(column.is_null())))
        if name == "rating":
            column = column.cast(kind)
            problems.append(("rating is not finite", ~is_storable(column.fill_null(0.0).to_numpy())))
        elif pa.types.is_string(kind):
            column, broken = _as_string(column)
            problems += [(f"{name} is not valid UTF-8", mask) for mask in broken]
            problems.append((f"{name} is empty", _mask(pc.equal(pc.binary_length(column), 0).fill_null(False))))
        else:
            if pa.types.is_uint64(column.type):
                problems.append(
                    (
                        f"{name} does not fit in 64 bits",
                        _mask(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())).fill_null(False)),
                    )
                )
            if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
                column = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)))
            column = column.cast(kind, safe=False)
        converted.append(column)
    problems = [(reason, mask) for reason, mask in problems if mask.any()]
    if not problems:
        return Records(converted, positions, [])
    unfit = np.logical_or.reduce([mask for _, mask in problems])
    bad = []
    for row in np.flatnonzero(unfit).tolist():
        reason = next(reason for reason, mask in problems if mask[row])
        values = {name: _shown(column[row]) for name, column in zip(file.names, columns, strict=True)}
        bad.append(BadRecord(file.url, int(positions[row]), reason, json.dumps(values, default=str)))
    keep = pa.array(~unfit)
    return Records([column.filter(keep) for column in converted], positions[~unfit], bad)


def _as_string(column: pa.Array) -> tuple[pa.Array, list[np.ndarray]]:
    """A column as strings, with what is not valid UTF-8 emptied and a mask of it where there is any."""
    column = column.cast(pa.string())
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.binary()).to_pylist()
        broken = np.array([value is not None and not _is_utf8(value) for value in values])
        column = pa.array(["" if bad else value for value, bad in zip(values, broken, strict=True)], type=pa.string())
        return column, [broken]
    return column, []


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return str(value.cast(pa.binary()).as_py())


def _mask(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
