"""ReadEvents: the events of a source that never ends, cut by stream shard and window; what is none to files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker, WatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Duration, Timestamp

from nnsparse_stream.data.grouping import partition
from nnsparse_stream.streaming.letter_files import write_letters
from nnsparse_stream.streaming.source import EventSource, Reading
from nnsparse_stream.streaming.windows import Windows
from nnsparse_stream.transforms.event_times import beam_time

#: How long the records of a partition are read at a stretch: what is read is on its way, and may be part of a
#: checkpoint, only when the bundle ends.
_TURN_SECONDS = 1.0
#: How long a partition is left alone where nothing was there. Seldom enough: before apache/beam#39191, Beam's runner
#: for Flink forgets none of the places that it was asked to go on from, and each stays part of the checkpoints.
_POLL_SECONDS = 1.0


class ReadEvents(beam.PTransform):
    """Reads the events of all partitions: the root of a pipeline.

    A partition is one element, and what is still to be read of it is a restriction: the position. An engine keeps it in
    its checkpoints, and goes on there after a failure.

    Args:
        source: the events.
        num_shards: stream shards.
        windows: of event time.
        output: URL of the directory that receives what is no event, in `_dead_letters/`.
        until_idle: seconds after which a partition ends where nothing came; None for never. Its watermark is the end of
            time then.

    Returns:
        A PCollection of (shard, block of `events.event_schema`), each of one shard and window, its timestamp the time
        of its last event; in the global window.
    """

    def __init__(
        self, source: EventSource, num_shards: int, windows: Windows, output: str, until_idle: float | None = None
    ) -> None:
        super().__init__()
        self._source, self._read = source, _Read(source, num_shards, windows, output, until_idle)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        """Applies the transform to the pipeline."""
        partitions = begin | "Partitions" >> beam.Create(self._source.partitions(), reshuffle=False)
        read = beam.ParDo(self._read).with_output_types(tuple[int, pa.RecordBatch])
        return partitions | "Read" >> read


class Place(NamedTuple):
    """How far a partition was read.

    Attributes:
        position: of the source.
        idle_since: when nothing more was there, seconds since 1970; None where something was.
        ended: whether nothing is to be read from here on: somebody else does, or the partition has ended.
    """

    position: str
    idle_since: float | None = None
    ended: bool = False


class PlaceCoder(beam.coders.Coder):
    """A Place as JSON."""

    def encode(self, value: Place) -> bytes:
        """Writes the fields in their order."""
        return json.dumps(value).encode()

    def decode(self, encoded: bytes) -> Place:
        """The place."""
        return Place(*json.loads(encoded))

    def is_deterministic(self) -> bool:
        """Equal places give equal bytes."""
        return True

    def to_type_hint(self) -> Any:
        """The type that is coded."""
        return Place


class PlaceTracker(RestrictionTracker):
    """Claims what was read up to a place. The rest can be given away whole, and only so: a partition is an order."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def current_restriction(self) -> Place:
        """The place."""
        return self._place

    def try_claim(self, position: Place) -> bool:
        """Moves on to a place, unless the rest was given away."""
        if self._place.ended:
            return False
        self._place = position
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Place, Place] | None:
        """Gives the rest away."""
        if fraction_of_remainder != 0 or self._place.ended:
            return None
        rest, self._place = self._place, self._place._replace(ended=True)
        return self._place, rest

    def check_done(self) -> bool:
        """True: the rest was given away, or the partition has ended.

        Raises:
            ValueError: neither.
        """
        if not self._place.ended:
            raise ValueError(f"the partition is not read to its end: {self._place}")
        return True

    def is_bounded(self) -> bool:
        """False: more may come."""
        return False

    def current_progress(self) -> RestrictionProgress:
        """Something is done, and as much is left: how much nobody knows."""
        return RestrictionProgress(completed=1, remaining=0 if self._place.ended else 1)


class _Watermark(WatermarkEstimator):
    """What the source says, which never goes back here; microseconds since 1970."""

    def __init__(self, time: int) -> None:
        self._time = time

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        pass

    def current_watermark(self) -> Timestamp:
        return Timestamp(micros=self._time)

    def get_estimator_state(self) -> int:
        return self._time

    def move(self, time: int) -> None:
        """Moves the watermark on, to the end of Beam's time at most."""
        self._time = max(self._time, min(time, MAX_TIMESTAMP.micros))


class _Watermarks(WatermarkEstimatorProvider):
    def initial_estimator_state(self, element: str, restriction: Place) -> int:
        return int(MIN_TIMESTAMP.micros)

    def create_watermark_estimator(self, estimator_state: int) -> _Watermark:
        return _Watermark(estimator_state)

    def estimator_state_coder(self) -> beam.coders.Coder:
        return beam.coders.VarIntCoder()


class _Read(beam.DoFn, RestrictionProvider):
    def __init__(
        self, source: EventSource, num_shards: int, windows: Windows, output: str, until_idle: float | None
    ) -> None:
        self._source, self._num_shards, self._windows, self._output = source, num_shards, windows, output
        self._until_idle = until_idle
        self._events = Metrics.counter("stream", "events")
        self._letters = Metrics.counter("stream", "dead_letters")

    def initial_restriction(self, element: str) -> Place:
        return Place(self._source.begin(element))

    def create_tracker(self, restriction: Place) -> PlaceTracker:
        return PlaceTracker(restriction)

    def restriction_size(self, element: str, restriction: Place) -> float:
        return 0 if restriction.ended else 1

    def restriction_coder(self) -> beam.coders.Coder:
        return PlaceCoder()

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        partition_name: str,
        tracker: Any = beam.DoFn.RestrictionParam(),  # noqa: B008 (how Beam asks for it)
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(_Watermarks()),  # noqa: B008
    ) -> Iterator[TimestampedValue]:
        turn_ends = time.monotonic() + _TURN_SECONDS
        while True:
            place = tracker.current_restriction()
            reading = self._source.read(partition_name, place.position)
            after = self._after(place, reading)
            if not tracker.try_claim(after):
                return
            self._tell(partition_name, place, reading)
            for block in reading.events:
                yield from self._pieces(block)
            if after.ended:
                watermark.move(MAX_TIMESTAMP.micros)
                return
            watermark.move(reading.watermark)
            if reading.idle or time.monotonic() > turn_ends:
                tracker.defer_remainder(Duration(_POLL_SECONDS) if reading.idle else None)
                return

    def _after(self, place: Place, reading: Reading) -> Place:
        """The place behind what was read; the end of it where it is idle for long enough."""
        if not reading.idle:
            return Place(reading.after)
        now = time.time()
        since = now if place.idle_since is None or reading.after != place.position else place.idle_since
        return Place(reading.after, since, self._until_idle is not None and now - since >= self._until_idle)

    def _tell(self, partition_name: str, place: Place, reading: Reading) -> None:
        """Counts, and writes the letters: read again from the same place, their file is written again, whole."""
        self._events.inc(sum(map(len, reading.events)))
        if reading.letters:
            self._letters.inc(len(reading.letters))
            write_letters(self._output, partition_name, place.position, reading.letters)

    def _pieces(self, block: pa.RecordBatch) -> Iterator[TimestampedValue]:
        for shard, piece in partition(block, "row", self._num_shards):
            times = piece["time"].to_numpy()
            begins = self._windows.begin_of(times)
            for begin in np.unique(begins):
                within = begins == begin
                of_window = piece if within.all() else piece.filter(pa.array(within))
                yield TimestampedValue((shard, of_window), beam_time(int(times[within].max())))
