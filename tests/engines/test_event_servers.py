"""Real servers of Kafka and Redis: every message once, from any position, over kills; and what was removed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import pytest
import redis
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from reading_events import events_of, letters_of, read_all

from deploy.engines.engine import Engine
from deploy.engines.kafka.broker import Kafka
from deploy.engines.redis import Redis
from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.streaming import kafka_source, redis_source
from nnsparse_stream.streaming.events import SECOND
from nnsparse_stream.streaming.open_source import EventFormat, open_source
from nnsparse_stream.streaming.source import EventSource

FORM = EventFormat("user", "string", "int64")
BASE = 1_700_000_000
COUNT = 3_000


def record(number: int) -> bytes:
    rating = None if number % 10 == 9 else number % 9 / 2
    text = json.dumps({"user": f"u{number}", "item": number, "rating": rating})
    return b"malformed" if number % 100 == 50 else text.encode()


def write_kafka(server: Kafka, topic: str, numbers: range) -> None:
    servers = server.flags()[0].split("/")[2]
    client = AdminClient({"bootstrap.servers": servers})
    client.create_topics([NewTopic(topic, 1)])[topic].exception()  # that it is there already
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    for number in numbers:
        producer.produce(topic, record(number), partition=0, timestamp=(BASE + number) * 1000)
    producer.flush()


def write_redis(server: Redis, stream: str, numbers: range) -> None:
    client = redis.Redis(port=server.ports["redis"])
    with client.pipeline() as pipe:
        for number in numbers:
            pipe.xadd(stream, {"json": record(number)}, id=f"{(BASE + number) * 1000}-0")
        pipe.execute()
    client.close()


Write = Callable[[str, range], None]


@pytest.fixture(params=["kafka", "redis"])
def log(request: pytest.FixtureRequest) -> tuple[Engine, Write]:
    """A server, and what writes records to a topic of it, or a stream."""
    if request.param == "kafka":
        server = request.getfixturevalue("kafka")
        return server, lambda name, numbers: write_kafka(server, name, numbers)
    server = request.getfixturevalue("redis_server")
    return server, lambda name, numbers: write_redis(server, name, numbers)


def opened(server: Engine, name: str, form: EventFormat = FORM) -> EventSource:
    return pickle.loads(pickle.dumps(open_source(f"{server.flags()[0]}{name}", form)))


def check(events: list[dict], numbers: range) -> None:
    expected = [number for number in numbers if number % 100 != 50]
    assert [event["column"] for event in events] == expected
    assert [event["time"] for event in events] == [(BASE + number) * SECOND for number in expected]
    assert [event["value"] is None for event in events] == [number % 10 == 9 for number in expected]


def test_every_message_once_from_any_position(log: tuple[Engine, Write], monkeypatch: pytest.MonkeyPatch) -> None:
    server, write = log
    for module in (kafka_source, redis_source):
        monkeypatch.setattr(module, "BLOCK_BYTES", 10_000)
    write("once", range(COUNT))
    source = opened(server, "once")
    readings, events = read_all(source)
    check(events, range(COUNT))
    letters = letters_of(readings)
    assert len(letters) == COUNT // 100
    assert all("malformed" in letter.text for letter in letters)
    assert letters[0].place.startswith(f"{server.flags()[0]}once, ")
    assert len(readings) > 2
    assert readings[0].watermark < readings[-1].watermark
    again, _ = read_all(opened(server, "once"), readings[0].after)
    assert events_of(readings[:1] + again) == events
    # A source goes back as it goes on, and to what has come since.
    assert events_of(read_all(source, readings[0].after)[0]) == events_of(again)
    assert read_all(source, readings[-1].after)[1] == []
    write("once", range(COUNT, COUNT + 10))
    check(read_all(source, readings[-1].after)[1], range(COUNT, COUNT + 10))


def test_a_killed_server_is_waited_for_and_nothing_is_lost(
    log: tuple[Engine, Write], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, write = log
    write("killed", range(100))
    source = opened(server, "killed")
    readings, events = read_all(source)
    (name,), (partition,) = server.servers.running(), source.partitions()
    server.servers.kill(name)
    for module in (kafka_source, redis_source):
        monkeypatch.setattr(module, "_ANSWER_SECONDS", 1.0)
    try:
        for _ in range(2):  # as the client notices, and once it knows
            with pytest.raises(StoreError, match="run it again"):
                source.read(partition, readings[-1].after)
    finally:
        server.start()  # which the tests that follow read from
    for module in (kafka_source, redis_source):
        monkeypatch.setattr(module, "_ANSWER_SECONDS", 60.0)
    write("killed", range(100, 200))
    for reader in (source, opened(server, "killed")):
        check(events + read_all(reader, readings[-1].after)[1], range(200))


def test_what_was_removed_unread_is_told(log: tuple[Engine, Write]) -> None:
    server, write = log
    write("removed", range(10))
    source = opened(server, "removed")
    readings, events = read_all(source)
    write("removed", range(10, 30))
    if isinstance(server, Kafka):
        client = AdminClient({"bootstrap.servers": f"localhost:{server.ports['kafka']}"})
        for future in client.delete_records([TopicPartition("removed", 0, 20)]).values():
            future.result()
    else:
        redis.Redis(port=server.ports["redis"]).xtrim("removed", maxlen=10, approximate=False)
    later, more = read_all(source, readings[-1].after)
    check(events, range(10))
    check(more, range(20, 30))
    (letter,) = letters_of(later)
    assert "removed before they were read" in letter.reason
    assert letters_of(read_all(source, later[-1].after)[0]) == []
    assert letters_of(read_all(opened(server, "removed"))[0]) == []  # who begins there has lost nothing


def test_partitions_and_names_that_are_not_there(kafka: Kafka, redis_server: Redis) -> None:
    client = AdminClient({"bootstrap.servers": f"localhost:{kafka.ports['kafka']}"})
    client.create_topics([NewTopic("three", 3)])["three"].result()
    source = opened(kafka, "three")
    assert source.partitions() == ["0", "1", "2"]
    assert [source.read(partition, source.begin(partition)).idle for partition in source.partitions()] == [True] * 3
    with pytest.raises(InputError, match="make the topic, or name another"):
        opened(kafka, "nothing").partitions()
    assert read_all(opened(redis_server, "nothing"))[1] == []
    redis.Redis(port=redis_server.ports["redis"]).set("text", "x")
    with pytest.raises(InputError, match="WRONGTYPE"):
        read_all(opened(redis_server, "text"))


def test_transactions_leave_no_waiting(kafka: Kafka) -> None:
    """Their marks are records, which no reader is given."""
    write_kafka(kafka, "transactions", range(0))
    producer = Producer({"bootstrap.servers": f"localhost:{kafka.ports['kafka']}", "transactional.id": "x"})
    producer.init_transactions()
    for numbers, end in ((range(5), producer.commit_transaction), (range(5, 9), producer.abort_transaction)):
        producer.begin_transaction()
        for number in numbers:
            producer.produce("transactions", record(number), partition=0, timestamp=(BASE + number) * 1000)
        producer.flush()
        end()
    readings, events = read_all(opened(kafka, "transactions"))
    check(events, range(5))
    assert len(readings) <= 2


def test_entries_of_redis_with_fields(redis_server: Redis) -> None:
    client = redis.Redis(port=redis_server.ports["redis"])
    client.xadd("fields", {"user": "ü", "item": 1, "rating": "4.5", "more": b"\xff"}, id=f"{BASE * 1000}-7")
    client.xadd("fields", {"user": "x", "item": 2, "rating": ""}, id=f"{BASE * 1000 + 1}-0")
    client.xadd("fields", {"user": "x", "item": 2}, id=f"{BASE * 1000 + 2}-0")
    client.xadd("fields", {"user": b"\xff", "item": 2, "rating": 1}, id=f"{BASE * 1000 + 3}-0")
    readings, events = read_all(opened(redis_server, "fields"))
    assert [tuple(event.values()) for event in events] == [
        ("ü", 1, 4.5, BASE * SECOND),
        ("x", 2, None, BASE * SECOND + 1000),
    ]
    letters = letters_of(readings)
    assert [letter.reason for letter in letters] == ["the field rating is missing", "user is not valid UTF-8"]
    assert letters[0].place.endswith(f"fields, entry {BASE * 1000 + 2}-0")
