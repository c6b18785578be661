"""A source of events by its URL."""

from __future__ import annotations

from nnsparse_stream.streaming.directory_source import DirectorySource
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.source import EventSource

__all__ = ["EventFormat", "open_source"]


def open_source(url: str, form: EventFormat) -> EventSource:
    """Opens a source.

    Args:
        url: a directory on any fsspec URL.
        form: how its records are read.

    Raises:
        InputError: the URL is not one of these, or a package is not installed.
        StoreError: a server does not answer.
    """
    return DirectorySource(url, form)
