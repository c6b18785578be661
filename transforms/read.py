"""ReadRatings: rating files to blocks of ratings, bad records to dead letters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from nnsparse_stream import storage
from nnsparse_stream.errors import InputError
from nnsparse_stream.inputs import InputPlan
from nnsparse_stream.reading import Split, describe, read_split
from nnsparse_stream.text_records import BadRecord, BlockSchema

#: Bad records in one dead-letter file, and in one element on the way there: about 1 MB at most.
_LETTERS = 1_000
_EXAMPLES = 3


class ReadRatings(beam.PTransform):
    """Reads rating files: the root of a pipeline.

    Each split is read by one worker, in pieces of bounded size. A record that cannot be read goes, with file, position,
    reason and text, to a file of JSON lines, under names that a retry uses again. A reader of a later split of a text
    file does not know how many lines are before it: the letters are written when all splits' lines are counted.

    Args:
        plan: from `nnsparse_stream.inputs.plan_inputs`.
        dead_letters: URL of the directory for the dead letters; it is made where there is one.

    Returns:
        Two PCollections: `ratings`, blocks (RecordBatch, about 1 MB) with the columns user, item, rating and what else
        the plan's schema has; and `summaries`, one dictionary a split: file (number), split (in the file), lines, read,
        bad, and examples (the first bad records, with their lines in the split).
    """

    def __init__(self, plan: InputPlan, dead_letters: str) -> None:
        super().__init__()
        self._plan = plan
        self._dead_letters = dead_letters

    def expand(self, begin: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform to the pipeline."""
        read = (
            begin
            | "Splits" >> beam.Create(self._plan.splits).with_output_types(Split)
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.ParDo(_Read(self._plan.schema))
            .with_output_types(pa.RecordBatch)
            .with_outputs("summaries", "letters", "lines", main="ratings")
        )
        _ = read.letters | "Write dead letters" >> beam.Map(
            _write_letters, self._dead_letters, beam.pvalue.AsList(read.lines)
        )
        return read


def check_bad_records(summaries: Iterable[dict[str, Any]], max_fraction: float) -> tuple[int, int]:
    """Adds up the summaries of `ReadRatings`.

    Args:
        summaries: all of them, in any order.
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
            f"{bad} of {read} records are malformed, more than --max_bad_fraction {max_fraction} allows; the first are "
            f"[{'] ['.join(examples[:_EXAMPLES])}]; correct them, or pass a larger fraction"
        )
    return read, bad


class _Read(beam.DoFn):
    def __init__(self, schema: BlockSchema) -> None:
        self._schema = schema
        self._good_counter = Metrics.counter("ratings", "read")
        self._bad_counter = Metrics.counter("ratings", "bad")
        self._block_bytes = Metrics.distribution("ratings", "read_block_bytes")

    def process(self, split: Split) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        good = bad = lines = letters = 0
        pending: list[BadRecord] = []
        examples: list[BadRecord] = []
        for block in read_split(split, self._schema):
            pending += block.bad
            examples += block.bad[: _EXAMPLES - len(examples)]
            lines += block.lines
            good += len(block.ratings)
            bad += len(block.bad)
            if len(block.ratings):
                self._block_bytes.update(block.ratings.nbytes)
                yield block.ratings
            while len(pending) >= _LETTERS:
                yield _letters(split, letters, pending[:_LETTERS])
                letters, pending = letters + 1, pending[_LETTERS:]
        if pending:
            yield _letters(split, letters, pending)
        self._good_counter.inc(good)
        self._bad_counter.inc(bad)
        if split.file.format != "parquet" and not split.is_whole:
            yield beam.pvalue.TaggedOutput("lines", (split.file.number, split.number, lines))
        summary: dict[str, Any] = {
            "file": split.file.number,
            "split": split.number,
            "lines": lines,
            "read": good + bad,
            "bad": bad,
            "examples": [tuple(record) for record in examples],
        }
        yield beam.pvalue.TaggedOutput("summaries", summary)


def _letters(split: Split, part: int, bad: list[BadRecord]) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(
        "letters", (split.file.number, split.number, part, [tuple(record) for record in bad])
    )


def _write_letters(
    letters: tuple[int, int, int, list[tuple[str, int, str, str]]], url: str, lines: list[tuple[int, int, int]]
) -> None:
    """Writes bad records of one split; `lines` has (file, split, lines) of the text files that have several splits."""
    file, split, part, bad = letters
    before = sum(count for of_file, of_split, count in lines if of_file == file and of_split < split)
    text = [json.dumps(_moved(record, before)._asdict(), ensure_ascii=False) + "\n" for record in bad]
    path = storage.join(url, f"{file:05d}-{split:05d}-{part:05d}.jsonl")
    storage.write_file(path, "".join(text).encode("utf-8", errors="backslashreplace"))


def _moved(bad: tuple[str, int, str, str], lines: int) -> BadRecord:
    """A bad record at its line in the file, which has so many lines before the record's split."""
    file, position, reason, text = bad
    return BadRecord(file, position + lines, reason, text)
