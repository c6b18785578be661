"""Rating files to blocks of ratings: bounded pieces, exact positions, and every record that could not be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ratings.detection import GZIP_ERRORS, HEAD_BYTES, damaged_gzip, open_text, to_utf8
from nnsparse_stream.ratings.formats import RatingFile
from nnsparse_stream.ratings.parquet_failures import parquet_failure
from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.ratings.text_records import (
    BadRecord,
    BlockSchema,
    OpenQuoteError,
    Records,
    parse_lines,
    whole_records,
)
from nnsparse_stream.ratings.typed_columns import check_columns
from nnsparse_stream.storage import files as storage

#: A block that goes between workers is at most about this large.
BLOCK_BYTES = 1 << 20
#: A text file is cut into splits of at most this many bytes, a Parquet file into splits of at least so many records.
SPLIT_BYTES = 64 << 20
#: A smaller text file is cut into so many splits, if these are not smaller than so many bytes: threads share it evenly.
_EVEN_SPLITS, _LEAST_SPLIT_BYTES = 16, 8 << 20
SPLIT_RECORDS = 1 << 20
_CHUNK_BYTES = 4 << 20
_LONGEST_LINE = 64 << 20
#: Records of a Parquet file that are decoded at once, about 5 MB: what fits in a core's cache is decoded faster.
_PARQUET_BATCH = 1 << 17
#: A position is the file's number in the upper bits; in the lower ones a record's number, of text the first byte of the
#: split plus the line's number in it: no split has more lines than bytes, so positions ascend as the lines do.
RECORD_BITS = 42
MOST_FILES = 1 << (63 - RECORD_BITS)


class Split(NamedTuple):
    """A piece of a file that one worker reads.

    Attributes:
        file: the file, without the row groups' sizes, which would travel with each of its splits.
        first, last: the row groups [first, last) of a Parquet file; the lines of a text file that begin at bytes
            [first, last). Of text, last is 0 where the end is that of the file.
        number: position among the file's splits.
        start: records before the split, of Parquet only: in text their number is not known.
    """

    file: RatingFile
    first: int = 0
    last: int = 0
    number: int = 0
    start: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole of a text file, so that its line numbers are those of the file."""
        return self.first == self.last == 0


class ReadBlock(NamedTuple):
    """What was read: a block of ratings of at most about `BLOCK_BYTES`, the bad records found on the way, and lines."""

    ratings: pa.RecordBatch
    bad: list[BadRecord]
    lines: int


def cut_block(block: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cuts a block to slices of about `BLOCK_BYTES`; none of an empty one."""
    rows = max(1, BLOCK_BYTES * len(block) // max(block.nbytes, 1))
    for start in range(0, len(block), rows):
        yield block.slice(start, rows)


def split_file(file: RatingFile) -> list[Split]:
    """Cuts a file into splits: Parquet by row groups, text that is not compressed by bytes, else not at all."""
    if file.format != "parquet":
        return _split_text(file)
    splits: list[Split] = []
    first = start = held = 0
    plain = file._replace(row_groups=())
    for group, count in enumerate(file.row_groups):
        held += count
        if held >= SPLIT_RECORDS or group == len(file.row_groups) - 1:
            splits.append(Split(plain, first, group + 1, len(splits), start))
            first, start, held = group + 1, start + held, 0
    return splits


def _split_text(file: RatingFile) -> list[Split]:
    size = min(SPLIT_BYTES, max(_LEAST_SPLIT_BYTES, file.size // _EVEN_SPLITS))
    count = -(-file.size // size)
    # What is before the first record is the first split's.
    cuts = [cut for cut in (file.size * part // count for part in range(1, count)) if cut > file.body]
    if not cuts or file.one_piece or not storage.can_seek(file.url):
        return [Split(file)]
    bounds = [0, *cuts, 0]
    return [Split(file, first, last, number) for number, (first, last) in enumerate(itertools.pairwise(bounds))]


def read_split(split: Split, schema: BlockSchema) -> Iterator[ReadBlock]:
    """Reads a split.

    Yields:
        Blocks with the columns user, item, rating (float32), and as the run needs them timestamp, position, fold; bad
        records, whose positions are the record's number in a Parquet file and the line's number in a split of text; and
        lines read. Every record of the split is a rating or a bad record, once.

    Raises:
        InputError: the file is truncated or damaged.
        StoreError: a store, the network or a disk failed.
    """
    read = _parquet_records if split.file.format == "parquet" else _text_records
    # Of a file without ratings, every record counts as a 1.
    for records, lines in read(split, schema._replace(rating=schema.rating and split.file.rated)):
        block = to_block(records, split, schema)
        bad = records.bad
        rows = max(1, BLOCK_BYTES * len(block) // max(block.nbytes, 1))
        for start in range(0, max(len(block), 1), rows):
            yield ReadBlock(block.slice(start, rows), bad, lines)
            bad, lines = [], 0


def describe_pair(
    files: Sequence[RatingFile],
    schema: BlockSchema,
    user: int | str,
    item: int | str,
    selection: Selection = Selection(),  # noqa: B008 (immutable)
) -> str:
    """Says where the first two records of a user and an item are that stay, by reading until they are found.

    It is for an error's message: so no run has to carry the position of every rating for an error that seldom comes.
    """
    found: list[str] = []
    schema = schema._replace(position=True)
    for file in files:
        # Text as one split: so its lines are counted.
        for split in split_file(file) if file.format == "parquet" else [Split(file)]:
            for block, _, _ in read_split(split, schema):
                ratings = selection.filter(block)
                same = pc.and_(pc.equal(ratings["user"], user), pc.equal(ratings["item"], item))
                numbers = [
                    position & ((1 << RECORD_BITS) - 1) for position in ratings["position"].filter(same).to_pylist()
                ]
                unit = "record" if file.format == "parquet" else "line"
                found += [f"{file.url}, {unit} {number}" for number in sorted(numbers)]
                if len(found) >= 2:
                    return " and ".join(found[:2])
    return " and ".join(found)


def first_rating(file: RatingFile, schema: BlockSchema) -> dict[str, Any] | None:
    """The first rating of a file, as a run reads it: for its report.

    Returns:
        The values of `BlockSchema.fields` by their names; None where the file's beginning holds no rating. What is
        damaged is left to the run to find.
    """
    wanted = schema._replace(rating=schema.rating and file.rated)
    try:
        if file.format == "parquet":
            with storage.open_input(file.url) as stream:
                batch = next(pq.ParquetFile(stream).iter_batches(1, columns=list(file.names)), None)
                if batch is None:
                    return None
                records = check_columns([batch[name] for name in file.names], np.arange(1), file, wanted)
        else:
            with open_text(file.url, file.compressed, file.dialect) as stream:
                stream.read(file.body)
                head = stream.read(HEAD_BYTES)
            data = to_utf8(head if len(head) < HEAD_BYTES else head[: head.rfind(b"\n") + 1], file.dialect)
            records = parse_lines(data[: whole_records(data, file)], 1, file, wanted)
    except (pa.ArrowException, OSError, *GZIP_ERRORS):
        return None
    if not len(records.positions):
        return None
    first = int(np.argmin(records.positions))
    return {name: column[first].as_py() for (name, _), column in zip(wanted.fields(), records.columns, strict=True)}


def describe(bad: BadRecord) -> str:
    """A bad record as one line."""
    return f"{bad.file}:{bad.position}: {bad.reason}: {' '.join(bad.text.split())[:100]}"


def to_block(records: Records, split: Split, schema: BlockSchema) -> pa.RecordBatch:
    """The block of ratings that records of a split are; `schema` is that of the run."""
    file = split.file
    found = schema._replace(rating=schema.rating and file.rated)
    read = dict(zip((name for name, _ in found.fields()), records.columns, strict=True))
    if schema.rating:
        count = len(records.positions)
        read["rating"] = read["rating"].cast(pa.float32()) if file.rated else pa.array(np.ones(count, np.float32))
    columns = {name: read[name] for name, _ in schema.fields()}
    if schema.position:
        before = 0 if file.format == "parquet" else split.first
        columns["position"] = pa.array(records.positions + (before + (file.number << RECORD_BITS)))
    if file.fold >= 0:
        columns["fold"] = pa.array(np.full(len(records.positions), file.fold, dtype=np.uint8))
    return pa.record_batch(columns)


def _text_records(split: Split, schema: BlockSchema) -> Iterator[tuple[Records, int]]:
    file = split.file
    line, position, before = 1, split.first, 0
    first, rest = None, b""
    try:
        with open_text(file.url, file.compressed, file.dialect) as stream:
            if split.first:
                # From the byte before: where that is a line break, a line begins at the split's first byte.
                stream.seek(split.first - 1)
                pieces = _whole_lines(stream, split.first - 1, split.last, inside=True)
            else:
                before = stream.read(file.body).count(b"\n")
                line += before
                pieces = _whole_lines(stream, file.body, split.last, inside=False)
            for position, data in pieces:
                # Only the first line of a piece can be longer than what is read at once.
                if len(data) > _LONGEST_LINE and not 0 <= data.find(b"\n") <= _LONGEST_LINE:
                    raise InputError(
                        f"{file.url}, line {_lines_before(file, position) + 1}: longer than {_LONGEST_LINE >> 20} MiB; "
                        "this is no text file of ratings"
                    )
                first = position if first is None else first
                data, rest = rest + to_utf8(data, file.dialect), b""
                if split.is_whole:
                    end = whole_records(data, file)
                    data, rest = data[:end], data[end:]
                if data:
                    count = data.count(b"\n")
                    records = parse_lines(data, line, file, schema, split.is_whole)
                    at_start = (before or line == 1) and file.dialect.header is False and file.format != "jsonl"
                    yield (_with_header_hint(records, line) if at_start else records), before + count
                    line, before = line + count, 0
            if rest or before:
                yield parse_lines(rest, line, file, schema), before + rest.count(b"\n")
    except OpenQuoteError as error:
        number = error.line + (_lines_before(file, first) if split.first and first else 0)
        raise InputError(
            f"{file.url}, line {number}: a quote is not closed in the line, and a file of this size is cut into pieces "
            "at line breaks; pass `multiline` to read it as one piece, or `quote` none where quotes are ordinary"
        ) from error
    except GZIP_ERRORS as error:
        raise damaged_gzip(file.url) from error
    except OSError as error:
        raise StoreError(
            f"{file.url}: cannot be read from byte {position} on: {storage.one_line(error)}; run it again later"
        ) from error


def _with_header_hint(records: Records, first_line: int) -> Records:
    """The first records of a file; where the first line is none for its rating, it may be a header."""
    bad = records.bad[:1]
    if not bad or (bad[0].position, bad[0].reason) != (first_line, "rating is not a number"):
        return records
    hinted = bad[0]._replace(reason=f"{bad[0].reason}; where the line is a header, pass `header` true")
    return records._replace(bad=[hinted, *records.bad[1:]])


def _whole_lines(stream: IO[bytes], position: int, last: int, inside: bool) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream that begin before a byte, in pieces.

    Args:
        stream: at byte `position` of the text.
        position: where it is.
        last: lines that begin at this byte or later are left out; 0 for none.
        inside: whether `position` is inside a line, or at its line break: then lines begin after that.

    Yields:
        Where the piece begins, and whole lines; or, as the last piece, the beginning of a line that is too long.
    """
    rest: list[bytes] = []
    begin = position
    while piece := stream.read(_CHUNK_BYTES):
        end = position + len(piece)
        if inside:
            after = piece.find(b"\n") + 1
            if last and (position + after if after else end) >= last:
                return
            inside = not after
            begin, piece = (position + after, piece[after:]) if after else (end, b"")
            position = begin
        # The line that holds the byte before `last` is the last one that begins before it.
        cut = piece.find(b"\n", max(last - 1 - position, 0)) + 1 if 0 < last <= end else 0
        ended = cut > 0
        cut = cut or piece.rfind(b"\n") + 1
        if cut:
            yield begin, b"".join([*rest, piece[:cut]])
            rest, begin, piece = [], position + cut, piece[cut:]
        if ended:
            return
        rest.append(piece)
        position = end
        if position - begin > _LONGEST_LINE:
            break
    if any(rest):
        yield begin, b"".join(rest)


def _lines_before(file: RatingFile, position: int) -> int:
    """Counts the line breaks before a byte: for the message of an error that ends the run."""
    count = 0
    with open_text(file.url, file.compressed, file.dialect) as stream:
        while piece := stream.read(min(_CHUNK_BYTES, position)):
            count += piece.count(b"\n")
            position -= len(piece)
    return count


def _parquet_records(split: Split, schema: BlockSchema) -> Iterator[tuple[Records, int]]:
    start = split.start + 1
    for batch in _parquet_batches(split):
        columns = [batch[name] for name in split.file.names]
        yield check_columns(columns, np.arange(start, start + len(batch)), split.file, schema), 0
        start += len(batch)


def _parquet_batches(split: Split) -> Iterator[pa.RecordBatch]:
    read = split.start
    try:
        with storage.open_input(split.file.url) as stream:
            groups = list(range(split.first, split.last))
            names = list(split.file.names)
            parquet = pq.ParquetFile(stream)
            # Without threads of Arrow's: splits are read side by side.
            for batch in parquet.iter_batches(_PARQUET_BATCH, row_groups=groups, columns=names, use_threads=False):
                yield batch
                read += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise parquet_failure(split.file.url, error, f": its Parquet data is damaged after record {read}") from error
