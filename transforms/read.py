"""ReadRatings: rating files to blocks of ratings, bad records to dead letters."""

from __future__ import annotations

import json
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

#: Bad records in one dead-letter file; bounds the memory that they take.
_LETTERS = 10_000
_EXAMPLES = 3


class ReadRatings(beam.PTransform):
    """Reads rating files: the root of a pipeline.

    Each split is read by one worker, in pieces of bounded size. A record that cannot be read goes, with file, position,
    reason and text, to a file of JSON lines, under names that a retry uses again.

    Args:
        plan: from `nnsparse_stream.inputs.plan_inputs`.
        dead_letters: URL of the directory for the dead letters; it is made where there is one.

    Returns:
        Two PCollections: `ratings`, blocks (RecordBatch, about 1 MB) with the columns user, item, rating and what else
        the plan's schema has; and `summaries`, one dictionary a split: file (number), first, read, bad, and examples
        (the first bad records, one line each).
    """

    def __init__(self, plan: InputPlan, dead_letters: str) -> None:
        super().__init__()
        self._plan = plan
        self._dead_letters = dead_letters

    def expand(self, begin: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform to the pipeline."""
        return (
            begin
            | "Splits" >> beam.Create(self._plan.splits).with_output_types(Split)
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.ParDo(_Read(self._plan.schema, self._dead_letters))
            .with_output_types(pa.RecordBatch)
            .with_outputs("summaries", main="ratings")
        )


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
    parts = sorted(summaries, key=lambda part: (part["file"], part["first"]))
    read, bad = sum(part["read"] for part in parts), sum(part["bad"] for part in parts)
    if bad > max_fraction * read:
        examples = [example for part in parts for example in part["examples"]][:_EXAMPLES]
        raise InputError(
            f"{bad} of {read} records are malformed, more than --max_bad_fraction {max_fraction} allows; the first are "
            f"[{'] ['.join(examples)}]; correct them, or pass a larger fraction"
        )
    return read, bad


class _Read(beam.DoFn):
    def __init__(self, schema: BlockSchema, dead_letters: str) -> None:
        self._schema = schema
        self._dead_letters = dead_letters
        self._good_counter = Metrics.counter("ratings", "read")
        self._bad_counter = Metrics.counter("ratings", "bad")
        self._block_bytes = Metrics.distribution("ratings", "read_block_bytes")

    def process(self, split: Split) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        letters = _DeadLetters(self._dead_letters, f"{split.file.number:05d}-{split.first:05d}")
        good = 0
        for block in read_split(split, self._schema):
            letters.add(block.bad)
            good += len(block.ratings)
            if len(block.ratings):
                self._block_bytes.update(block.ratings.nbytes)
                yield block.ratings
        letters.flush()
        self._good_counter.inc(good)
        self._bad_counter.inc(letters.count)
        summary: dict[str, Any] = {
            "file": split.file.number,
            "first": split.first,
            "read": good + letters.count,
            "bad": letters.count,
            "examples": letters.examples,
        }
        yield beam.pvalue.TaggedOutput("summaries", summary)


class _DeadLetters:
    """The bad records of one split, written in parts of bounded size."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._pending: list[BadRecord] = []
        self._parts = 0
        self.count = 0
        self.examples: list[str] = []

    def add(self, bad: list[BadRecord]) -> None:
        self.count += len(bad)
        self.examples += [describe(record) for record in bad[: _EXAMPLES - len(self.examples)]]
        self._pending += bad
        if len(self._pending) >= _LETTERS:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        lines = [json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in self._pending]
        path = storage.join(self._url, f"{self._name}-{self._parts:05d}.jsonl")
        storage.write_file(path, "".join(lines).encode("utf-8", errors="backslashreplace"))
        self._pending = []
        self._parts += 1
