"""The plan of a run's input: which files, what is in them, and what columns the blocks will have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.folds import FOLDS
from nnsparse_stream.ratings.formats import EmptyFileError, RatingFile, inspect_file
from nnsparse_stream.ratings.id_types import IdKind, choose_id_type
from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.ratings.reading import MOST_FILES, RECORD_BITS, Split, first_rating, split_file
from nnsparse_stream.ratings.text_records import BlockSchema
from nnsparse_stream.ratings.time_columns import OWN, UNITS
from nnsparse_stream.storage.matching import check_named_once, match_files

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")
_LOOKS_AT_ONCE = 16
#: Of a line of text, about.
_BYTES_A_LINE = 20


class InputPlan(NamedTuple):
    """What is to be read.

    Attributes:
        files: the input, in its order.
        schema: the columns of the blocks of ratings that reading the files gives.
        splits: the pieces of the files that workers read.
        empty: URLs of files that were left out, for they hold no record.
    """

    files: tuple[RatingFile, ...]
    schema: BlockSchema
    splits: tuple[Split, ...]
    empty: tuple[str, ...] = ()

    @property
    def calendar(self) -> bool:
        """Whether times are microseconds since 1970; else they are the column's own integers."""
        return any(file.time_form != OWN for file in self.files)

    @property
    def time_unit(self) -> str | None:
        """What the numbers of the time column count, as "s"; None where files have others, or integers as they are."""
        forms = {file.time_form for file in self.files}
        return forms.pop() if len(forms) == 1 and forms <= {*UNITS} else None

    @property
    def expected_records(self) -> int:
        """About how many records there are: of Parquet exactly, of text by its bytes, none of compressed text."""
        return sum(sum(file.row_groups) or file.size // _BYTES_A_LINE for file in self.files)

    def described(self) -> tuple[dict[str, Any], ...]:
        """How files are read, each way once in the order of the input, with the first record of a file: for reports.

        Returns:
            Of each way "files", how many are read so; "format"; of text what `Dialect` says, "gzip" among it;
            "columns", name or position of each field that is read; and "example", the first record, or None where that
            is a bad one.
        """
        ways: dict[str, dict[str, Any]] = {}
        for file in self.files:
            way = _way(file, self.schema)
            key = json.dumps(way)
            if key not in ways:
                ways[key] = {"files": 0, **way, "example": first_rating(file, self.schema)}
            ways[key]["files"] += 1
        return tuple(ways.values())

    def empty_block(self) -> pa.RecordBatch:
        """A block of ratings with no rows."""
        fields = [(name, pa.float32() if name == "rating" else kind) for name, kind in self.schema.fields()]
        if self.schema.position:
            fields.append(("position", pa.int64()))
        if any(file.fold >= 0 for file in self.files):
            fields.append(("fold", pa.uint8()))
        return pa.RecordBatch.from_pylist([], schema=pa.schema(fields))


def plan_inputs(
    urls: Sequence[str] | Mapping[int, Sequence[str]],
    names: FieldNames = FieldNames(),  # noqa: B008 (immutable)
    *,
    file_format: str = "auto",
    dialect: Dialect = Dialect(),  # noqa: B008 (immutable)
    id_type: str = "auto",
    duplicates: str = "error",
    timed_for: str | None = None,
    timestamp_unit: str = "auto",
) -> InputPlan:
    """Looks at every file's first bytes or footer, and checks that the files fit together.

    Args:
        urls: files, globs or directories; or those of each fold (0 train, 1 validation, 2 test).
        names: how the user names the fields.
        file_format: of all files; "auto" tells it from each file's content.
        dialect: what the user says of the dialect of text files.
        id_type: "auto", "int" or "string".
        duplicates: the policy; "first" and "last" need the time, or else the position, of each rating.
        timed_for: names what else needs the time of each rating, for the error's message; None where nothing does.
        timestamp_unit: what times that are numbers count: "s", "ms", "us" or "ns" since 1970; "auto" keeps integers as
            they are, and takes decimals for seconds.

    Raises:
        InputError: a file is missing, damaged, or lacks a column; all files of ratings, or of a fold, are empty; the
            types of ids, or of times, disagree; or there is no time, and it is needed.
    """
    roles = [f"`{field}_column`" for field, name in names.columns.items() if [*names].count(name) > 1]
    if roles:
        raise InputError(f"{' and '.join(roles)} name the same column; give each its own")
    by_fold = urls if isinstance(urls, Mapping) else {-1: urls}
    found = [(url, fold) for fold, some in by_fold.items() for url in match_files(some)]
    check_named_once([url for url, _ in found], "the input of two folds")
    inspect = partial(_inspect, names=names, file_format=file_format, dialect=dialect.checked(), unit=timestamp_unit)
    looked_at = _side_by_side(inspect, found)
    empty = tuple(url for (url, _), file in zip(found, looked_at, strict=True) if file is None)
    inspected = [
        (file._replace(number=number), users, items)
        for number, (file, users, items) in enumerate(some for some in looked_at if some is not None)
    ]
    for fold in by_fold:
        # Pairs to be scored have no rating, and there may be none of them.
        if names.rating is not None and not any(file.fold == fold for file, *_ in inspected):
            role = "" if fold < 0 else f" of the fold {FOLDS[fold]}"
            first = next(url for url, of_fold in found if of_fold == fold)
            raise InputError(f"the input{role} holds no record: all its files are empty, the first is {first}")
    user_type = choose_id_type("user", [(file.url, kind) for file, kind, _ in inspected], id_type)
    item_type = choose_id_type("item", [(file.url, kind) for file, _, kind in inspected], id_type)
    files = [_with_ids(file, kinds, id_type) for file, *kinds in inspected]
    _check_rated(files, names)
    _check_order(files)
    ordered = duplicates in ("first", "last")
    wanted = ordered or timed_for is not None
    timed = wanted and names.timestamp is not None
    if wanted and not timed and names.by_default and all(_is_movielens_with_time(file) for file in files):
        form = OWN if timestamp_unit == "auto" else timestamp_unit
        files = [file._replace(positions=(*file.positions, 3), time_form=form) for file in files]
        timed = True
    if timed_for and not timed:
        raise InputError(f"`{timed_for}` needs the time of each rating; name its column by `timestamp_column`")
    calendar = [file.url for file in files if file.time_form != OWN]
    if timed and 0 < len(calendar) < len(files):
        other = next(file.url for file in files if file.time_form == OWN)
        raise InputError(
            f"times are dates, or decimals, in {calendar[0]} and integers in {other}; say what the integers count by "
            "`timestamp_unit` s, ms, us or ns"
        )
    if not timed:
        files = [_without_time(file, names) for file in files]
    if ordered and not timed and (len(files) > MOST_FILES or any(file.size >> RECORD_BITS for file in files)):
        raise InputError(
            f"the order of the input is kept for {MOST_FILES} files of {1 << RECORD_BITS >> 40} TiB at most; "
            "pass a `timestamp_column`, or `duplicates` mean"
        )
    schema = BlockSchema(
        user_type, item_type, timestamp=timed, position=ordered and not timed, rating=names.rating is not None
    )
    # On an object store, whether a large file can be cut is a question to the store.
    splits = tuple(chain.from_iterable(_side_by_side(split_file, files)))
    return InputPlan(tuple(files), schema, splits, empty)


def _inspect(
    found: tuple[str, int], names: FieldNames, file_format: str, dialect: Dialect, unit: str
) -> tuple[RatingFile, IdKind, IdKind] | None:
    """What a file is; None where it holds no record."""
    url, fold = found
    try:
        return inspect_file(url, 0, fold, names, file_format, dialect, unit)
    except EmptyFileError:
        return None


def _side_by_side(ask: Callable[[_Asked], _Answer], of: Sequence[_Asked]) -> list[_Answer]:
    """Asks about files, several at a time: on an object store each answer is a wait."""
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        return list(pool.map(ask, of))


def _way(file: RatingFile, schema: BlockSchema) -> dict[str, Any]:
    """How a file is read."""
    text: dict[str, Any] = {}
    if file.format != "parquet":
        held = file.dialect
        text = {
            "gzip": file.compressed,
            "encoding": held.encoding,
            "skip_lines": held.skip_lines,
            "comment": held.comment,
        }
        if file.format != "jsonl":
            text |= {"delimiter": held.delimiter, "quote": held.quote, "decimal": held.decimal, "header": held.header}
    columns = file.names or file.positions
    fields = [name for name, _ in schema._replace(rating=schema.rating and file.rated).fields()]
    return {"format": file.format, **text, "columns": dict(zip(fields, columns, strict=True))}


def _with_ids(file: RatingFile, kinds: Sequence[IdKind], id_type: str) -> RatingFile:
    """A file whose JSON ids may be of any type where the user has said which they are to be."""
    mixed = id_type != "auto" and any(kind.type == "mixed" for kind in kinds)
    return file._replace(json_ids=("", "")) if mixed else file


def _check_rated(files: Sequence[RatingFile], names: FieldNames) -> None:
    """Refuses files of which some have ratings and others not."""
    rated, bare = ([file.url for file in files if file.rated is has] for has in (True, False))
    if names.rating is not None and rated and bare:
        raise InputError(
            f"{rated[0]} has ratings, and {bare[0]} has no column {names.rating!r}; read them apart, or pass "
            "`rating_column` none to count every record as a 1"
        )


def _check_order(files: Sequence[RatingFile]) -> None:
    """Refuses a file without a header, read by the default positions, beside one whose header tells of others."""
    text = [file for file in files if file.positions]
    bare = next((file for file in text if not file.header), None)
    named = next((file for file in text if file.header and bare and file.positions[:3] != bare.positions[:3]), None)
    if bare and named:
        raise InputError(
            f"{named.url} has a header, which names the columns {', '.join(map(str, named.positions))} (from 0), and "
            f"{bare.url} has none, so that its columns would be {', '.join(map(str, bare.positions))}; write the same "
            "header into each, or read them apart"
        )


def _without_time(file: RatingFile, names: FieldNames) -> RatingFile:
    read = 2 + (file.rated and names.rating is not None)
    return file._replace(names=file.names[:read], positions=file.positions[:read], time_form=OWN)


def _is_movielens_with_time(file: RatingFile) -> bool:
    return file.format == "movielens" and file.num_fields > 3
