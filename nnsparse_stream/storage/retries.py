"""Requests to object stores are tried again while the store, and not the request, is at fault."""

from __future__ import annotations

import asyncio
import http.client
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from nnsparse_stream.errors import InputError, StoreError

_T = TypeVar("_T")
_LOGGER = logging.getLogger(__name__)

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
#: By name: the clients of the stores need not be installed.
_TRANSIENT_CLASSES = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "azure.core.exceptions.DecodeError",
        "azure.core.exceptions.IncompleteReadError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.FlexibleChecksumError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "botocore.parsers.ResponseParserError",
        "gcsfs.retry.ChecksumError",
        "google.auth.exceptions.TransportError",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
    }
)


class Backoff(NamedTuple):
    """Exponential backoff with full jitter: the wait before try n + 1 is uniform in [0, first * 2 ** (n - 1)].

    Attributes:
        tries: at most so many tries, the first included.
        first_seconds: bound of the first wait.
        longest_seconds: bound of any wait.
        total_seconds: no further try begins when so much time has passed since the first.
    """

    tries: int = 8
    first_seconds: float = 0.5
    longest_seconds: float = 16.0
    total_seconds: float = 300.0

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        return random.uniform(0, min(self.longest_seconds, self.first_seconds * 2 ** (failures - 1)))


#: Of all requests in this process.
BACKOFF = Backoff()


class ShortReadError(OSError):
    """A store sent fewer bytes than it said."""


class GaveUpError(OSError):
    """A request was tried again and again and failed to the last."""


def retrying(url: str, request: Callable[[], _T]) -> _T:
    """Makes a request, again where it fails through the store's fault; one warning tells that it has begun to.

    Args:
        url: what the request is about, for the warning.
        request: makes it from the start, and can be called again whatever became of the call before.

    Raises:
        GaveUpError: no try was answered, or all answers were the store's own failures.
        Exception: what the request raised, where another try would fail the same.
    """
    backoff, start, failures = BACKOFF, time.monotonic(), 0
    while True:
        try:
            return request()
        except Exception as error:
            if not is_transient(error):
                raise
            failures += 1
            passed = time.monotonic() - start
            if failures >= backoff.tries or passed >= backoff.total_seconds:
                raise GaveUpError(f"{describe_failure(error)} ({failures} tries in {passed:.1f} s)") from error
            if failures == 1:
                _LOGGER.warning(
                    "%s: %s; trying again, at most %d times", url, describe_failure(error), backoff.tries - 1
                )
            wait = backoff.wait(failures)
        time.sleep(wait)


def describe_failure(error: BaseException) -> str:
    """A failure as one line, with its kind where its own words tell nothing."""
    text = str(error)
    if type(error).__module__.startswith("azure."):
        # The identifiers of the request and the whole answer, as XML, follow in further lines.
        status = http_status(error)
        text = text.partition("\n")[0] + (f" (HTTP status {status})" if status else "")
    words = " ".join(text.split())
    return words if any(character.isalpha() for character in words) else f"{type(error).__name__} {words}".strip()


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: the store was busy or broken, or the connection to it was."""
    if isinstance(error, (InputError, StoreError, GaveUpError)):
        return False
    if any(_is_lost_upload(cause) for cause in _chain(error)):
        return True
    status = http_status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    return any(_is_broken_connection(cause) for cause in _chain(error))


def _is_lost_upload(error: BaseException) -> bool:
    """Whether S3 does not know an upload that was under way: as where the answer to its completion was lost.

    The client then gives up what the store has completed already, and is told so by a 404; a new upload succeeds.
    """
    response = getattr(error, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchUpload"


def http_status(error: BaseException) -> int | None:
    """The HTTP status that a store answered with, from the exception of any client; None where it did not answer."""
    for cause in _chain(error):
        if type(cause).__module__ == "aiohttp.http_exceptions":
            continue  # "400" there is aiohttp's own word for an answer that breaks off
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # botocore
            return int(response["ResponseMetadata"]["HTTPStatusCode"])
        for name in ("status", "status_code", "code"):  # aiohttp, Azure, gcsfs
            value = str(getattr(cause, name, None))
            if value.isdecimal() and 300 <= int(value) < 600:
                return int(value)
    return None


def _is_broken_connection(error: BaseException) -> bool:
    # In Python 3.10 asyncio's is another class.
    if isinstance(
        error, (ConnectionError, TimeoutError, asyncio.TimeoutError, http.client.IncompleteRead, ShortReadError)
    ):
        return True
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & _TRANSIENT_CLASSES)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from; clients translate each other's."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
