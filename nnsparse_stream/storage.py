"""Files on any fsspec URL.

Small files (a shard, a vocabulary part, a manifest) are built in memory and written whole. `write_file` makes that
atomic: object stores show an object only when its upload has ended; elsewhere the bytes go to a temporary name beside
the target, which is then renamed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec

from nnsparse_stream.errors import InputError

#: File systems on which a file appears whole or not at all, and where a rename would be a copy.
_ATOMIC_WRITES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "memory"})


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of a URL.

    Returns:
        The file system, with its listings cache emptied, and the URL's path on it.

    Raises:
        InputError: there is no such protocol, or its package is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InputError(f"{url}: {one_line(error)}") from error
    fs.invalidate_cache()
    return fs, path


def join(url: str, *names: str) -> str:
    """Appends path components to a URL."""
    return "/".join([url.rstrip("/"), *names])


def one_line(error: BaseException) -> str:
    """An exception's message as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def exists(url: str) -> bool:
    """Whether there is a file or a directory at the URL."""
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def file_size(url: str) -> int:
    """Size of a file in bytes.

    Raises:
        InputError: the file does not exist, cannot be reached, or is a directory.
    """
    fs, path = filesystem(url)
    with reading(url):
        info = fs.info(path)
    if info["type"] == "directory":
        raise InputError(f"{url} is a directory where a file is meant")
    return -1 if info["size"] is None else int(info["size"])


def can_seek(url: str) -> bool:
    """Whether a file can be read from any place: some web servers send it from the beginning only."""
    fs, path = filesystem(url)
    with reading(url):
        return bool(fs.info(path).get("partial", True))


def open_input(url: str, compression: str | None = None) -> Any:
    """Opens a file for reading as a binary stream.

    Args:
        url: the file.
        compression: None, or "gzip" to read what is inside.

    Raises:
        InputError: the file does not exist, is a directory, or may not be read.
    """
    fs, path = filesystem(url)
    with reading(url):
        return fs.open(path, "rb", compression=compression)


def read_file(url: str) -> bytes:
    """The bytes of a small file.

    Raises:
        InputError: the file does not exist, is a directory, or may not be read.
    """
    fs, path = filesystem(url)
    with reading(url):
        return bytes(fs.cat_file(path))


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turns the failure to reach a file into an InputError; every store's client has exceptions of its own."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{url} is a directory where a file is meant") from error
    except Exception as error:
        raise InputError(f"{url}: cannot be read: {one_line(error)}") from error


def write_file(url: str, data: bytes) -> None:
    """Writes a file whole: a reader sees the old file or the new one, never a part; a retry overwrites its own."""
    fs, path = filesystem(url)
    parent = fs._parent(path)
    if set(_protocols(fs)) & _ATOMIC_WRITES:
        fs.pipe_file(path, data)
        return
    fs.makedirs(parent, exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        fs.pipe_file(temporary, data)
        fs.mv(temporary, path)
    except BaseException:
        if fs.exists(temporary):
            fs.rm_file(temporary)
        raise


def check_writable(url: str) -> None:
    """Checks, before long work, that a file can be written: writes an empty one beside it and removes that.

    Raises:
        InputError: it cannot.
    """
    probe = f"{url}.{uuid.uuid4().hex}.tmp"
    try:
        write_file(probe, b"")
        fs, path = filesystem(probe)
        fs.rm_file(path)
    except InputError:
        raise
    except Exception as error:  # every store's client has exceptions of its own
        raise InputError(f"{url} cannot be written: {one_line(error)}") from error


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def sha256(data: bytes) -> str:
    """The checksum that manifests hold: SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: object) -> bytes:
    """A value as the bytes of a JSON file: sorted keys, one space of indent; equal values give equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


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


def match_files(urls: Collection[str], what: str = "input") -> list[str]:
    """The files that URLs name: each a file, a glob, or a directory (all files in it and below).

    Names that start with "." or "_" are left out of globs and directories, as Spark and Hadoop do.

    Args:
        urls: URLs.
        what: the flag or the role of these files, for the error's message.

    Returns:
        URLs of files; those of one glob or directory in the order of their names.

    Raises:
        InputError: a URL matches no file, or a file is named twice.
    """
    found: list[str] = []
    for url in urls:
        fs, path = filesystem(url)
        with reading(url):
            matches = _match(fs, path)
        if matches is None:
            raise InputError(f"{url}: no such file ({what})")
        if not matches:
            raise InputError(f"{url} matches no files ({what})")
        found += [url] if matches == [path] else [_as_url(fs, match) for match in matches]
    check_named_once(found, what)
    return found


def canonical(url: str) -> str:
    """The one spelling of a URL: two URLs of one file have the same."""
    fs, path = filesystem(url)
    return str(fs.unstrip_protocol(path))


def check_apart(output: str, inputs: Sequence[str]) -> None:
    """Raises InputError where an input lies in the output directory, which is cleaned, or the output in an input."""
    ours = canonical(output).rstrip("/")
    for url in inputs:
        theirs = canonical(url).rstrip("/")
        if (theirs + "/").startswith(ours + "/"):
            raise InputError(f"{url} is input and lies in --output {output}, which is to be written: name another")
        if ours.startswith(theirs + "/"):
            raise InputError(f"--output {output} lies in the input {url} and would be read as such: name another")


def check_named_once(urls: Sequence[str], what: str) -> None:
    """Raises InputError where two URLs name one file: its records would count twice."""
    names = [canonical(url) for url in urls]
    times = Counter(names)
    repeated = next((url for url, name in zip(urls, names, strict=True) if times[name] > 1), None)
    if repeated is not None:
        raise InputError(f"{repeated} is named more than once ({what}): its ratings would count twice; name it once")


def _match(fs: fsspec.AbstractFileSystem, path: str) -> list[str] | None:
    """Paths of the files, or None where the path names a thing that does not exist."""
    if fs.isfile(path):
        return [path]
    if fs.isdir(path):
        listing = fs.find(path, detail=True)
        return sorted(name for name in listing if _is_visible(name[len(path) :]))
    if not any(character in path for character in "*?["):
        return None
    listing = fs.glob(path, detail=True)
    return sorted(
        name for name, info in listing.items() if info["type"] == "file" and _is_visible(name.rsplit("/", 1)[-1])
    )


def _is_visible(path: str) -> bool:
    return not any(name.startswith((".", "_")) for name in path.split("/"))


def _as_url(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if "file" in _protocols(fs) else str(fs.unstrip_protocol(path))
