"""Files on any fsspec URL.

Small files (a shard, a vocabulary part, a manifest) are built in memory and written whole. `write_file` makes that
atomic: object stores show an object only when its upload has ended; elsewhere the bytes go to a temporary name beside
the target, which is then renamed. Requests to object stores are retried (`retries`), and the length of what they send
is checked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fsspec

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.storage.byte_ranges import open_ranges
from nnsparse_stream.storage.local_paths import check_no_pipe
from nnsparse_stream.storage.retries import GaveUpError, describe_failure, http_status, is_transient
from nnsparse_stream.storage.stores import (
    ATOMIC_WRITES,
    NETWORKED,
    OBJECT_STORES,
    filesystem,
    kinds,
    request,
    strict_listing,
)

#: Errors of a disk, a network drive or the system, which no other input or flag would have spared.
_BROKEN = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT}
#: Of these kinds are mistakes in a program.
_OURS = (AttributeError, NameError, TypeError, AssertionError, LookupError, ArithmeticError, MemoryError)
_PUT_BACK = "put the file back from a copy, or prepare again"


def join(url: str, *names: str) -> str:
    """Appends path components to a URL."""
    return "/".join([url.rstrip("/"), *names])


def parent(url: str) -> str:
    """The URL of the directory that something lies in."""
    fs, path = filesystem(url)
    return as_url(fs, fs._parent(path))


def one_line(error: BaseException) -> str:
    """An exception's message as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def info(url: str) -> dict[str, Any] | None:
    """What a store says of a URL: "type" ("file", "directory", or "other": a device, a pipe), "size" in bytes or None.

    None: nothing is there.

    Raises:
        InputError: it may not be asked.
        StoreError: it does not answer.
    """
    fs, path = filesystem(url)
    with reading(url):
        try:
            return dict(request(fs, url, lambda: fs.info(path)))
        except (FileNotFoundError, NotADirectoryError) as error:
            if _is_refusal(error):
                raise
            return None


def exists(url: str) -> bool:
    """Whether there is a file or a directory at the URL; a StoreError where the store does not answer."""
    return info(url) is not None


def is_directory(url: str) -> bool:
    """Whether there is a directory at the URL; a StoreError where the store does not answer."""
    found = info(url)
    return found is not None and found["type"] == "directory"


def file_size(url: str) -> int:
    """Size of a file in bytes, or -1 where its store does not tell.

    Raises:
        InputError: the file does not exist, may not be read, or is a directory.
        StoreError: the store does not answer.
    """
    found = info(url)
    if found is None:
        raise InputError(f"{url}: no such file")
    if found["type"] == "directory":
        raise InputError(f"{url} is a directory where a file is meant")
    if found["type"] == "other":
        check_no_pipe(url)
    return -1 if found["size"] is None else int(found["size"])


def list_files(url: str) -> dict[str, int]:
    """All files in a directory and below: their sizes in bytes, by their names relative to it.

    Raises:
        InputError: something in it may not be listed.
        StoreError: the store does not answer.
    """
    fs, path = filesystem(url)
    with reading(url):
        found = find(fs, url, path)
    prefix = path.rstrip("/") + "/"
    return {name[len(prefix) :]: entry["size"] for name, entry in found.items() if name.startswith(prefix)}


def can_seek(url: str) -> bool:
    """Whether a file can be read from any place: some web servers send it from the beginning only."""
    fs, path = filesystem(url)
    with reading(url):
        return bool(request(fs, url, lambda: fs.info(path)).get("partial", True))


def open_input(url: str, compression: str | None = None) -> Any:
    """Opens a file for reading as a binary stream; of an object store by ranges, each of which is retried.

    Args:
        url: the file.
        compression: None, or "gzip" to read what is inside.

    Raises:
        InputError: the file does not exist, is a directory or a pipe, or may not be read; so does reading from the
            stream.
        StoreError: the store or the network failed.
    """
    fs, path = filesystem(url)
    with reading(url):
        if "file" in kinds(fs):
            check_no_pipe(path)
        if not kinds(fs) & NETWORKED:
            return fs.open(path, "rb", compression=compression)
        stream = open_ranges(fs, path, url, reading)
        return fsspec.compression.compr[compression](stream, mode="rb") if compression else stream


def read_file(url: str) -> bytes:
    """The bytes of a small file.

    Raises:
        InputError: the file does not exist, is a directory, or may not be read.
    """
    with open_input(url) as stream, reading(url):
        return bytes(stream.read())


def read_checked(url: str, size: int | None, checksum: str) -> bytes:
    """The bytes of a small file whose size in bytes, or None, and `sha256` are known.

    Raises:
        InputError: what `read_file` raises; or the file is another one, and the message says so.
    """
    data = read_file(url)
    if size is not None:
        check_size(url, len(data), size)
    if sha256(data) != checksum:
        raise InputError(
            f"{url} was altered: its SHA-256 is not the one that was noted when it was written; {_PUT_BACK}"
        )
    return data


def check_size(url: str, found: int, expected: int) -> None:
    """Raises InputError where a file has another size, in bytes, than when it was written."""
    if found != expected:
        raise InputError(
            f"{url} has {found} bytes and the manifest says {expected}: truncated or replaced; {_PUT_BACK}"
        )


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turns the failure to reach a file into an InputError or a StoreError; every client has its own exceptions."""
    try:
        yield
    except (InputError, StoreError):
        raise
    except FileNotFoundError as error:
        if _is_refusal(error):
            status = http_status(error) or 0
            answered = f"{url}: cannot be read: the store answers HTTP status {status}"
            raise (
                StoreError(f"{answered}: run the command again later") if status >= 500 else InputError(answered)
            ) from error
        raise InputError(f"{url}: no such file") from error
    except NotADirectoryError as error:
        raise InputError(f"{url}: no such file: a part of its path is a file") from error
    except IsADirectoryError as error:
        raise InputError(f"{url} is a directory where a file is meant") from error
    except Exception as error:
        raise _failure(url, "read", error) from error


def _failure(url: str, what: str, error: Exception) -> Exception:
    """What the failure of a request means: the user's fault, the store's, or, as it came, the program's."""
    message = f"{url}: cannot be {what}: {describe_failure(error)}"
    status = http_status(error)
    broken = isinstance(error, OSError) and error.errno in _BROKEN
    if isinstance(error, GaveUpError) or is_transient(error) or broken or (status is not None and status >= 500):
        return StoreError(f"{message}; the store, the network or the disk failed: run the command again later")
    if isinstance(error, _OURS) and status is None:
        return error
    return InputError(message)


def _is_refusal(error: BaseException) -> bool:
    """Whether a client says "not found" of what the store will not give; fsspec's for HTTP does."""
    return isinstance(error, GaveUpError) or http_status(error) not in (None, 404, 410)


def write_file(url: str, data: bytes) -> None:
    """Writes a file whole: a reader sees the old file or the new one, never a part; a retry overwrites its own.

    Raises:
        InputError: it cannot be written.
    """
    with _writing(url):
        _write(url, data)


def write_chunks(url: str, chunks: Iterable[bytes | memoryview]) -> None:
    """Writes a file whole, as `write_file` does, without holding it: on its way to an object store it lies on the disk.

    Args:
        url: the file.
        chunks: its bytes.

    Raises:
        InputError: it cannot be written.
    """
    with _writing(url):
        fs, path = filesystem(url)
        if not kinds(fs) & ATOMIC_WRITES:
            _replace(fs, path, lambda temporary: _write_to(fs.open(temporary, "wb"), chunks))
            return
        # On the disk, so that a request that failed can be made again.
        with tempfile.NamedTemporaryFile() as local:
            for chunk in chunks:
                local.write(chunk)
            local.flush()
            request(fs, url, lambda: fs.put_file(local.name, path))


def _write_to(stream: Any, chunks: Iterable[bytes | memoryview]) -> None:
    with stream:
        for chunk in chunks:
            stream.write(chunk)


@contextmanager
def _writing(url: str) -> Iterator[None]:
    try:
        yield
    except (InputError, StoreError):
        raise
    except Exception as error:  # every store's client has exceptions of its own
        raise _failure(url, "written", error) from error


def _write(url: str, data: bytes) -> None:
    fs, path = filesystem(url)
    if kinds(fs) & ATOMIC_WRITES:
        request(fs, url, lambda: fs.pipe_file(path, data))
    else:
        _replace(fs, path, lambda temporary: fs.pipe_file(temporary, data))


def _replace(fs: fsspec.AbstractFileSystem, path: str, write: Callable[[str], None]) -> None:
    """Writes a file under a temporary name beside it, and renames that."""
    parent = fs._parent(path)
    made: list[str] = []
    while not fs.exists(parent) and parent != fs._parent(parent):
        made.append(parent)
        parent = fs._parent(parent)
    fs.makedirs(fs._parent(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        write(temporary)
        fs.mv(temporary, path)
    except BaseException:
        if fs.exists(temporary):
            fs.rm_file(temporary)
        for directory in made:
            with suppress(Exception):  # another worker wrote to it meanwhile
                fs.rmdir(directory)
        raise


def remove_file(url: str) -> None:
    """Removes a file; one that is not there is no error, since a try before this one may have removed it."""
    fs, path = filesystem(url)

    def remove() -> None:
        try:
            fs.rm_file(path)
        except FileNotFoundError as error:
            if _is_refusal(error):
                raise

    try:
        request(fs, url, remove)
    except Exception as error:  # every store's client has exceptions of its own
        raise _failure(url, "removed", error) from error


def remove_empty_directory(url: str) -> None:
    """Removes a directory that holds nothing; object stores have none."""
    fs, path = filesystem(url)
    # An "empty directory" of an object store would be the bucket.
    if kinds(fs) & OBJECT_STORES:
        return
    try:
        if fs.isdir(path) and not fs.ls(path):
            fs.rmdir(path)
    except FileNotFoundError:  # somebody else has removed it
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # something has come into it
            raise


def check_regular(url: str) -> None:
    """Raises InputError where there is something at the URL that is no regular file: a directory, a device, a pipe."""
    found = info(url)
    if found is not None and found["type"] != "file":
        what = "a directory" if found["type"] == "directory" else "no regular file"
        raise InputError(f"{url} is {what}; name a file")


def check_writable(url: str) -> None:
    """Checks, before long work, that a file can be written: writes an empty one beside it and removes that.

    Raises:
        InputError: it cannot, or what is there is no regular file.
    """
    check_regular(url)
    probe = f"{url}.{uuid.uuid4().hex}.tmp"
    try:
        _write(probe, b"")
        remove_file(probe)
    except (InputError, StoreError):
        raise
    except Exception as error:  # every store's client has exceptions of its own
        raise InputError(f"{url} cannot be written: {one_line(error)}") from error


def find(fs: fsspec.AbstractFileSystem, url: str, path: str) -> dict[str, dict[str, Any]]:
    """The files below a directory of a store, at any depth: what fsspec tells of each, by its path."""
    return dict(request(fs, url, lambda: fs.find(path, detail=True, **strict_listing(fs))))


def sha256(data: bytes) -> str:
    """The checksum that manifests hold: SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: object) -> bytes:
    """A value as the bytes of a JSON file: sorted keys, one space of indent; equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Bytes of a file's name that are no UTF-8 are lone surrogates; a backslash and "u" is how JSON spells these.
    return text.encode(errors="backslashreplace")


def read_json(url: str, what: str) -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Args:
        url: the file.
        what: what the file is, for the error's message; for instance "a manifest".

    Raises:
        InputError: there is no such file, or it is not a JSON object.
    """
    data = read_file(url)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InputError(f"{url} is not {what}: no valid JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{url} is not {what}: it holds no JSON object")
    return value


def as_url(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """The URL of a path of a store; a local path is one."""
    return path if "file" in kinds(fs) else str(fs.unstrip_protocol(path))
