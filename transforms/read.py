"""ReadRatings: rating files to blocks of ratings, bad records to dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from nnsparse_stream.ratings.dead_letters import split_outputs, write_letters
from nnsparse_stream.ratings.input_plan import InputPlan
from nnsparse_stream.ratings.reading import Split
from nnsparse_stream.ratings.text_records import BlockSchema


class ReadRatings(beam.PTransform):
    """Reads rating files: the root of a pipeline.

    Each split is read by one worker, in pieces of bounded size. A record that cannot be read goes, with file, position,
    reason and text, to a file of JSON lines, under names that a retry uses again. A reader of a later split of a text
    file does not know how many lines are before it: the letters are written when all splits' lines are counted.

    Args:
        plan: from `nnsparse_stream.ratings.input_plan.plan_inputs`.
        dead_letters: URL of the directory for the dead letters; it is made where there is one.

    Returns:
        Two PCollections: `ratings`, blocks (RecordBatch, about 1 MB) with the columns user, item, rating and what else
        the plan's schema has; and `summaries`, one dictionary a split, see `nnsparse_stream.ratings.dead_letters`.
    """

    def __init__(self, plan: InputPlan, dead_letters: str) -> None:
        super().__init__()
        self._plan = plan
        self._dead_letters = dead_letters

    def expand(self, begin: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform to the pipeline."""
        read = (
            begin
            | "Once" >> beam.Impulse()
            # As they are cut here: a worker might cut others, and these are what the driver counts.
            | "Splits" >> beam.FlatMap(_numbered, self._plan.splits).with_output_types(tuple[int, Split])
            # A key for each, so that the runner spreads them over its workers.
            | "Spread" >> beam.GroupByKey()
            | "Read"
            >> beam.ParDo(_Read(self._plan.schema))
            .with_output_types(pa.RecordBatch)
            .with_outputs("summaries", "letters", "lines", main="ratings")
        )
        _ = read.letters | "Write dead letters" >> beam.Map(
            write_letters, self._dead_letters, beam.pvalue.AsList(read.lines)
        )
        return read


def _numbered(_: bytes, splits: list[Split]) -> Iterator[tuple[int, Split]]:
    return enumerate(splits)


class _Read(beam.DoFn):
    def __init__(self, schema: BlockSchema) -> None:
        self._schema = schema
        self._good_counter = Metrics.counter("ratings", "read")
        self._bad_counter = Metrics.counter("ratings", "bad")
        self._block_bytes = Metrics.distribution("ratings", "read_block_bytes")

    def process(self, numbered: tuple[int, Iterable[Split]]) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        (split,) = numbered[1]
        for tag, value in split_outputs(split, self._schema):
            if tag == "ratings":
                self._block_bytes.update(value.nbytes)
                yield value
                continue
            if tag == "summaries":
                self._good_counter.inc(value["read"] - value["bad"])
                self._bad_counter.inc(value["bad"])
            yield beam.pvalue.TaggedOutput(tag, value)
