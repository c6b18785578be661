"""What reading a split gives beside its ratings: dead letters and a summary; and what is made of those of all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow.compute as pc

from nnsparse_stream.errors import InputError, printable
from nnsparse_stream.ratings.reading import Split, describe, read_split
from nnsparse_stream.ratings.text_records import BadRecord, BlockSchema
from nnsparse_stream.ratings.times import TimeSpan
from nnsparse_stream.storage import files as storage

#: Bad records in one dead-letter file, and in one element on the way there: about 1 MB at most.
_LETTERS = 1_000
_EXAMPLES = 3
_FILE_NAME = re.compile(r"\d{5,}-\d{5,}-\d{5,}\.jsonl")

#: Bad records of a split: its file's number, its own, the part's, and the records' fields.
Letters = tuple[int, int, int, list[BadRecord]]


def split_outputs(split: Split, schema: BlockSchema) -> Iterator[tuple[str, Any]]:
    """Reads a split.

    Yields:
        ("ratings", a block that is not empty), ("letters", `Letters`), ("lines", (file, split, lines)) of a part of a
        text file, and at the end ("summaries", a dictionary: file (number), split (in the file), lines, read, bad,
        examples: the first bad records, with their lines in the split; and first_time, last_time: of the ratings, None
        where they have none).

    Raises:
        InputError: what `read_split` raises.
    """
    good = bad = lines = letters = 0
    times: TimeSpan | None = None
    pending: list[BadRecord] = []
    examples: list[BadRecord] = []
    name = printable(split.file.url)
    for block in read_split(split, schema):
        bad_ones = [record._replace(file=name) for record in block.bad]
        pending += bad_ones
        examples += bad_ones[: _EXAMPLES - len(examples)]
        lines += block.lines
        good += len(block.ratings)
        bad += len(block.bad)
        if len(block.ratings):
            if schema.timestamp:
                span = pc.min_max(block.ratings["timestamp"]).as_py()
                times = TimeSpan(span["min"], span["max"]).joined(times)
            yield "ratings", block.ratings
        while len(pending) >= _LETTERS:
            yield "letters", _letters(split, letters, pending[:_LETTERS])
            letters, pending = letters + 1, pending[_LETTERS:]
    if pending:
        yield "letters", _letters(split, letters, pending)
    if split.file.format != "parquet" and not split.is_whole:
        yield "lines", (split.file.number, split.number, lines)
    summary: dict[str, Any] = {
        "file": split.file.number,
        "split": split.number,
        "lines": lines,
        "read": good + bad,
        "bad": bad,
        "examples": [tuple(record) for record in examples],
        "first_time": times.first if times else None,
        "last_time": times.last if times else None,
    }
    yield "summaries", summary


def span_of_times(summaries: Iterable[dict[str, Any]]) -> TimeSpan | None:
    """The first and the last time of all ratings, from the summaries of `split_outputs`; None where they have none."""
    span: TimeSpan | None = None
    for part in summaries:
        if part["first_time"] is not None:
            span = TimeSpan(part["first_time"], part["last_time"]).joined(span)
    return span


def check_bad_records(summaries: Iterable[dict[str, Any]], max_fraction: float) -> tuple[int, int]:
    """Adds up the summaries of `split_outputs`.

    Args:
        summaries: of all splits, in any order.
        max_fraction: of bad records that is let pass.

    Returns:
        Records read, and of these the bad ones.

    Raises:
        InputError: more records are bad; the message shows the first three.
    """
    parts = sorted(summaries, key=lambda part: (part["file"], part["split"]))
    read, bad = sum(part["read"] for part in parts), sum(part["bad"] for part in parts)
    if bad > max_fraction * read:
        examples: list[str] = []
        lines: Counter[int] = Counter()
        for part in parts:
            examples += [describe(_moved(example, lines[part["file"]])) for example in part["examples"]]
            lines[part["file"]] += part["lines"]
            if len(examples) >= _EXAMPLES:
                break
        raise InputError(
            f"{bad} of {read} records are malformed, more than `max_bad_fraction` {max_fraction} allows; the first are "
            f"[{'] ['.join(examples[:_EXAMPLES])}]; correct them, or pass a larger fraction"
        )
    return read, bad


def write_letters(letters: Letters, url: str, lines: list[tuple[int, int, int]]) -> None:
    """Writes bad records of one split to a dead-letter file, under a name that a retry uses again.

    Args:
        letters: from `split_outputs`.
        url: the directory of the dead letters.
        lines: (file, split, lines) of the text files that have several splits.
    """
    file, split, _, bad = letters
    before = sum(count for of_file, of_split, count in lines if of_file == file and of_split < split)
    text = [json.dumps(_moved(record, before)._asdict(), ensure_ascii=False) + "\n" for record in bad]
    path = storage.join(url, letters_file(letters))
    storage.write_file(path, "".join(text).encode("utf-8", errors="backslashreplace"))


def letters_file(letters: Letters) -> str:
    """The name of the file that `write_letters` writes."""
    return "{:05d}-{:05d}-{:05d}.jsonl".format(*letters[:3])


def remove_other_letters(url: str, names: Collection[str]) -> None:
    """Removes the dead-letter files of earlier runs: those that are not among these names."""
    if storage.is_directory(url):
        for name in sorted(storage.list_files(url).keys() - set(names)):
            if _FILE_NAME.fullmatch(name):
                storage.remove_file(storage.join(url, name))


def _letters(split: Split, part: int, bad: list[BadRecord]) -> Letters:
    return split.file.number, split.number, part, list(bad)


def _moved(bad: tuple[str, int, str, str], lines: int) -> BadRecord:
    """A bad record at its line in the file, which has so many lines before the record's split."""
    file, position, reason, text = bad
    return BadRecord(file, position + lines, reason, text)
