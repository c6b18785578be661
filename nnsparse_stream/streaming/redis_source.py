"""Events from a stream of Redis, in one partition; a position holds the id of an entry.

An entry's fields are those of a record, or its one field holds a JSON object. An event without a time of its own has
that of its entry: the first part of the id, which the server gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import redis

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ratings.reading import BLOCK_BYTES
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.events import Letter
from nnsparse_stream.streaming.log_records import LogRecords
from nnsparse_stream.streaming.records import joined, latest, watermark
from nnsparse_stream.streaming.source import EventSource, Reading

_PARTITION = "stream"
_ANSWER_SECONDS = 20.0
_AT_ONCE = 1_000


class RedisSource(EventSource):
    """A stream. One that is not there yet is waited for.

    Args:
        server: HOST:PORT, maybe with USER:PASSWORD@ before it.
        stream: its key.
        form: how entries are written: only the format "auto", or "jsonl", is one of entries.
    """

    def __init__(self, server: str, stream: str, form: EventFormat) -> None:
        self._server, self._stream, self._form = server, stream, form
        self._url = f"redis://{server.rpartition('@')[2]}/{stream}"
        if form.file_format not in ("auto", "jsonl"):
            raise InputError(f"{self._url}: `format` {form.file_format} is none of entries of Redis; drop it")
        # Entries are made JSON before they are parsed.
        self._records = LogRecords(
            self._url, form._replace(file_format="jsonl", dialect=form.dialect._replace(encoding="utf-8"))
        )
        self._client: redis.Redis | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def partitions(self) -> list[str]:
        """The one partition."""
        return [_PARTITION]

    def begin(self, partition: str) -> str:
        """The first entry that the stream still has, whichever that is when it is read."""
        return json.dumps({"id": "0-0", "count": None, "latest": None})

    def read(self, partition: str, position: str) -> Reading:
        """Reads what the server has; see `EventSource.read`. From Redis 7.0 on, a letter counts what went unread."""
        place = json.loads(position)
        at, count = place["id"], place["count"]
        entries: list[tuple[bytes, Mapping[bytes, bytes]]] = []
        letters: list[Letter] = []
        size, idle = 0, False
        while size < BLOCK_BYTES and not idle:
            added, held, found = self._behind(at)
            if count is None and added is not None:
                count = added - held  # what was removed before the first reading
            idle = len(found) < _AT_ONCE
            entries += found
            at = found[-1][0].decode() if found else at
            size += sum(len(value) for _, fields in found for value in fields.values())
            if count is not None and added is not None:
                count += len(found)
                if idle and added > count:
                    reason = f"{added - count} entries before it were removed before they were read: keep them longer"
                    letters.append(Letter(f"{self._url}, entry {at}", reason, ""))
                count = added if idle else count
        ids = [name.decode() for name, _ in entries]
        stored = np.array([int(name.partition("-")[0]) for name in ids], dtype=np.int64) * 1_000
        messages = [self._message(fields) for _, fields in entries]
        events, bad = self._records.events(messages, stored, lambda number: f"{self._url}, entry {ids[number]}")
        largest = latest(place["latest"], events)
        reached = json.dumps({"id": at, "count": count, "latest": largest})
        return Reading(joined([events]), letters + bad, reached, watermark(largest, idle, self._form), idle)

    def _message(self, fields: Mapping[bytes, bytes]) -> bytes:
        """An entry as a JSON object."""
        encoding = self._form.dialect.encoding
        record = {
            name.decode(encoding, "surrogateescape"): value.decode(encoding, "surrogateescape")
            for name, value in fields.items()
        }
        if len(record) == 1:
            (only,) = record.values()
            if only.lstrip().startswith("{"):
                return only.encode(errors="surrogateescape")
        return json.dumps(record).encode()

    def _behind(self, at: str) -> tuple[int | None, int, list[tuple[bytes, Mapping[bytes, bytes]]]]:
        """Entries behind an id; and how many the stream ever had, None where the server does not say, and has now."""
        with self._asking():
            if self._client is None:
                self._client = redis.Redis.from_url(f"redis://{self._server}", socket_timeout=_ANSWER_SECONDS)
            # At once, so that the counts are those of what is read.
            with self._client.pipeline() as both:
                both.xinfo_stream(self._stream)
                both.xread({self._stream: at}, count=_AT_ONCE)
                described, answer = both.execute(raise_on_error=False)
            if isinstance(described, redis.ResponseError) and "no such key" in str(described):
                return None, 0, []
            for failure in (described, answer):
                if isinstance(failure, Exception):
                    raise failure
        return described.get("entries-added"), described["length"], _entries(answer)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (redis.AuthenticationError, redis.ResponseError) as error:
            raise InputError(f"{self._url}: {error}; name another stream, or correct user and password") from error
        except (redis.RedisError, OSError) as error:
            raise StoreError(f"{self._url}: {error}; see that the server runs, and run it again") from error


def _entries(answer: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """The entries of one stream in what XREAD answers, by either protocol."""
    if not answer:
        return []
    if isinstance(answer, dict):
        (streams,) = answer.values()
        return [entry for part in streams for entry in part]
    ((_, found),) = answer
    return list(found)
