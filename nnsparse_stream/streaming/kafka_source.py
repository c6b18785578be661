"""Events from a topic of Kafka: a partition of it is one of the source, and a position holds an offset.

No consumer group: the offsets are those that the job keeps, so that they are exact. An event without a time of its own
has that of its message: the broker's where the topic's `message.timestamp.type` is LogAppendTime, else the producer's.
Partitions that are added to the topic later are read by a job that is started anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
import numpy as np

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ratings.reading import BLOCK_BYTES
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.events import Letter
from nnsparse_stream.streaming.log_records import LogRecords
from nnsparse_stream.streaming.records import joined, latest, watermark
from nnsparse_stream.streaming.source import EventSource, Reading

_ANSWER_SECONDS = 20.0
#: How long messages may be on their way that the broker says it has.
_ARRIVAL_SECONDS = 5.0
_AT_ONCE = 1_000
#: What a broker says. The client's own "unknown partition" also means that the broker which had it has just gone.
_OURS = {"UNKNOWN_TOPIC_OR_PART", "TOPIC_AUTHORIZATION_FAILED", "TOPIC_EXCEPTION"}


class KafkaSource(EventSource):
    """A topic.

    Args:
        servers: HOST:PORT of a broker, or several with commas between.
        topic: its name.
        form: how the values of messages are written.
    """

    def __init__(self, servers: str, topic: str, form: EventFormat) -> None:
        self._servers, self._topic, self._form = servers, topic, form
        self._url = f"kafka://{servers}/{topic}"
        self._records = LogRecords(self._url, form)
        #: Of each partition, a consumer and the offset that it will give next.
        self._consumers: dict[str, tuple[confluent_kafka.Consumer, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_consumers": {}}

    def partitions(self) -> list[str]:
        """The numbers of the topic's partitions.

        Raises:
            InputError: there is no such topic.
            StoreError: no broker answers.
        """
        consumer = self._consumer()
        with self._asking():
            topic = consumer.list_topics(self._topic, timeout=_ANSWER_SECONDS).topics[self._topic]
            if topic.error is not None:
                raise confluent_kafka.KafkaException(topic.error)
        consumer.close()
        return [str(number) for number in sorted(topic.partitions)]

    def begin(self, partition: str) -> str:
        """The first message that the topic still has, whichever that is when it is read."""
        return json.dumps({"offset": None, "latest": None})

    def read(self, partition: str, position: str) -> Reading:
        """Reads what the broker has; see `EventSource.read`. A letter tells of messages that it no longer has."""
        place = json.loads(position)
        consumer, at = self._consumers.pop(partition, (None, None))
        if consumer is None:
            consumer = self._consumer()
        letters: list[Letter] = []
        offset = place["offset"]
        where = f"{self._url}, partition {partition}"
        with self._asking():
            of = confluent_kafka.TopicPartition(self._topic, int(partition))
            low, high = consumer.get_watermark_offsets(of, timeout=_ANSWER_SECONDS)
            if offset is not None and offset < low:
                reason = f"the messages up to offset {low - 1} were removed before they were read: keep them for longer"
                letters.append(Letter(f"{where}, offset {offset}", reason, ""))
            offset = low if offset is None else max(offset, low)
            if offset > high:
                raise InputError(f"{where} ends at offset {high} and is to be read from {offset}: it was made anew")
            if at != offset:
                of.offset = offset
                consumer.assign([of])
            messages, after = self._fetch(consumer, offset, high)
        self._consumers[partition] = (consumer, after)
        stored = np.array([message.timestamp()[1] for message in messages], dtype=np.int64) * 1_000
        offsets = [message.offset() for message in messages]
        values = [message.value() for message in messages]
        events, bad = self._records.events(values, stored, lambda number: f"{where}, offset {offsets[number]}")
        idle = after >= high
        largest = latest(place["latest"], events)
        reached = json.dumps({"offset": after, "latest": largest})
        return Reading(joined([events]), letters + bad, reached, watermark(largest, idle, self._form), idle)

    def _fetch(self, consumer: Any, offset: int, high: int) -> tuple[list[Any], int]:
        """Messages from an offset on, at most up to `high`, and the offset behind them."""
        messages: list[Any] = []
        size = 0
        end = time.monotonic() + _ARRIVAL_SECONDS
        while offset < high and size < BLOCK_BYTES and time.monotonic() < end:
            for message in consumer.consume(min(_AT_ONCE, high - offset), timeout=0.1):
                error = message.error()
                if error is None:
                    messages.append(message)
                    offset = message.offset() + 1
                    size += len(message.value() or b"")
                    end = time.monotonic() + _ARRIVAL_SECONDS
                elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    offset = max(offset, message.offset())  # behind records that are the broker's own
                else:
                    raise confluent_kafka.KafkaException(error)
        return messages, offset

    def _consumer(self) -> confluent_kafka.Consumer:
        return confluent_kafka.Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "nnsparse-stream",  # has to have a value, and is told to nobody
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 16 << 10,
                # A broker that holds back a fetch, for there is nothing new, holds back the question for offsets, too.
                "fetch.wait.max.ms": 50,
                # What it would print is what it raises.
                "log_level": 0,
                "error_cb": lambda error: None,
            }
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except confluent_kafka.KafkaException as error:
            reason = error.args[0]
            if reason.name() in _OURS:
                raise InputError(f"{self._url}: {reason.str()}; make the topic, or name another") from error
            raise StoreError(
                f"{self._url}: {reason.str()}; see that the brokers run and have the topic, and run it again"
            ) from error
