"""A source of events by its URL."""

from __future__ import annotations

from nnsparse_stream.errors import InputError
from nnsparse_stream.streaming.directory_source import DirectorySource
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.source import EventSource

__all__ = ["EventFormat", "open_source"]


def open_source(url: str, form: EventFormat) -> EventSource:
    """Opens a source; nothing is asked of a server yet.

    Args:
        url: kafka://HOST:PORT/TOPIC, with several brokers HOST:PORT,HOST:PORT; redis://HOST:PORT/STREAM, maybe with
            USER:PASSWORD@ before the host; or a directory on any fsspec URL.
        form: how its records are read.

    Raises:
        InputError: the URL is none of these, a package is not installed, or the format does not go with the source.
    """
    kind, found, rest = url.partition("://")
    if not found or kind not in ("kafka", "redis"):
        return DirectorySource(url, form)
    server, _, name = rest.partition("/")
    if not all(one.rpartition(":")[2].isdigit() for one in server.split(",")) or not name:
        what = "TOPIC" if kind == "kafka" else "STREAM"
        raise InputError(f"{url} is no source; give {kind}://HOST:PORT/{what}")
    try:
        if kind == "kafka":
            from nnsparse_stream.streaming.kafka_source import KafkaSource

            return KafkaSource(server, name, form)
        from nnsparse_stream.streaming.redis_source import RedisSource

        return RedisSource(server, name, form)
    except ImportError as error:
        raise InputError(f"{url} needs a package: pip install 'nnsparse-stream[{kind}]'") from error
