"""Streams of files on object stores: read by ranges, each of which is checked for its length and retried."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nnsparse_stream.storage.retries import ShortReadError, retrying

#: What one request asks for where little is read at a time: a row group of a shard has about as much.
_BUFFER_BYTES = 1 << 20

_Failures = Callable[[str], AbstractContextManager[None]]


def open_ranges(fs: Any, path: str, url: str, failures: _Failures) -> Any:
    """Opens a file of a store that answers requests for ranges; a server that does not is read once, to a local file.

    Args:
        fs: the file system.
        path: the file's path on it.
        url: the file's URL, for messages.
        failures: the context that translates what the store's client raises.

    Returns:
        A seekable binary stream.
    """
    # No cache of the client's: what is asked for is what is requested, and a range is checked as one.
    remote = retrying(url, lambda: fs.open(path, "rb", cache_type="none"))
    if remote.size is None or not _answers_ranges(remote, url):
        # A size of None is that of an answer without a length, or of one that may not be read in parts.
        size = remote.size or retrying(url, lambda: fs.info(path)).get("size")
        remote.close()
        return retrying(url, lambda: _download(fs, path, size))
    return io.BufferedReader(_RangeReader(remote, url, failures), _BUFFER_BYTES)


class _RangeReader(io.RawIOBase):
    """A remote file, unbuffered. S3's client asks for the version that was opened: no read mixes two."""

    def __init__(self, remote: Any, url: str, failures: _Failures) -> None:
        self._remote, self._url, self._failures = remote, url, failures
        self._size = int(remote.size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        # In one request; the base class would make one for every 8 KiB.
        return self._take(self._size)

    def close(self) -> None:
        if not self.closed:
            self._remote.close()
        super().close()

    def _take(self, limit: int) -> bytes:
        wanted = min(limit, self._size - self._position)
        if wanted <= 0:
            return b""
        with self._failures(self._url):
            data = retrying(self._url, lambda: self._range(wanted))
        self._position += wanted
        return data

    def _range(self, wanted: int) -> bytes:
        self._remote.seek(self._position)
        data = bytes(self._remote.read(wanted))
        if len(data) != wanted:
            raise ShortReadError(f"{len(data)} of {wanted} bytes came at byte {self._position}")
        return data


def _answers_ranges(remote: Any, url: str) -> bool:
    """Whether the server gives a part of a file: asks for the last byte. Only HTTP leaves it to the server."""
    if not remote.size or "http" not in remote.fs.protocol:
        return True

    def ask() -> bool:
        remote.seek(remote.size - 1)
        try:
            return len(remote.read(1)) == 1
        except ValueError:
            return False

    return retrying(url, ask)


def _download(fs: Any, path: str, size: int | None) -> Any:
    """Reads a whole file, of a size in bytes where the server told, to a temporary one that goes when it is closed."""
    local = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the caller)
    try:
        with fs.open(path, "rb", block_size=0) as remote:
            shutil.copyfileobj(remote, local, _BUFFER_BYTES)
        if size is not None and local.tell() != size:
            raise ShortReadError(f"{local.tell()} of {size} bytes came")
    except BaseException:
        local.close()
        raise
    local.seek(0)
    return local
