"""Files on any fsspec URL, and output directories of which a reader never sees a half.

Small files (a shard, a vocabulary part, a manifest) are built in memory and written whole. `write_file` makes that
atomic: object stores show an object only when its upload has ended; elsewhere the bytes go to a temporary name beside
the target, which is then renamed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec

from nnsparse_stream.errors import InputError

#: File systems on which a file appears whole or not at all, and where a rename would be a copy.
_ATOMIC_WRITES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "memory"})
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")
_MARKER = "_unfinished.json"
#: Every file that completes an output of ours is a JSON object whose "kind" starts with this.
_OUR_KIND = "nnsparse-stream "


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
    with _reading(url):
        info = fs.info(path)
    if info["type"] == "directory":
        raise InputError(f"{url} is a directory where a file is meant")
    return -1 if info["size"] is None else int(info["size"])


def open_input(url: str, compression: str | None = None) -> Any:
    """Opens a file for reading as a binary stream.

    Args:
        url: the file.
        compression: None, or "gzip" to read what is inside.

    Raises:
        InputError: the file does not exist, is a directory, or may not be read.
    """
    fs, path = filesystem(url)
    with _reading(url):
        return fs.open(path, "rb", compression=compression)


def read_file(url: str) -> bytes:
    """The bytes of a small file.

    Raises:
        InputError: the file does not exist, is a directory, or may not be read.
    """
    fs, path = filesystem(url)
    with _reading(url):
        return bytes(fs.cat_file(path))


@contextmanager
def _reading(url: str) -> Iterator[None]:
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
        with _reading(url):
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


class OutputDirectory:
    """One run's output as a transaction: `check`, `begin`, write files, then `complete` or `abort`.

    While the work goes on, the directory holds the marker `_unfinished.json`. The completing file is written last, so a
    directory that holds it is whole. A leftover of a killed run has the marker and is cleaned by the next `begin`.
    Two runs must not write to the same directory at the same time.

    Args:
        url: the directory.
        contents: the names (files and directories, or patterns like "part-*.parquet") directly under the directory that
            the run writes, beside the completing file. Anything else found there is not ours and is never deleted.
        completing: name of the file that makes the output whole: a JSON object whose "kind" starts with
            "nnsparse-stream ".
        overwrite: whether a whole output may be replaced.
    """

    def __init__(
        self, url: str, *, contents: Collection[str], completing: str = "manifest.json", overwrite: bool = False
    ) -> None:
        self.url = url
        self._completing = completing
        self._ours = (*contents, completing, _MARKER)
        self._overwrite = overwrite
        self._made_by_us = False

    def state(self) -> str:
        """What lies there: "empty", "unfinished" (a run that was killed, or that goes on) or "complete".

        Raises:
            InputError: a file, or a directory that holds something that is not ours, or it cannot be read.
        """
        fs, path = filesystem(self.url)
        with _reading(self.url):
            if not fs.exists(path):
                return "empty"
            if fs.isfile(path):
                raise InputError(f"{self.url} is a file where an output directory is meant; name another --output")
            found = {entry["name"].rstrip("/") for entry in fs.ls(path, detail=True)} - {path.rstrip("/")}
        names = {_final_name(name.rsplit("/", 1)[-1]) for name in found}
        if not names:
            return "empty"
        foreign = sorted(name for name in names if not self._is_ours(name))
        if foreign or not names & {self._completing, _MARKER}:
            example = (foreign or sorted(names))[0]
            raise InputError(
                f"{self.url} holds files that are not of an earlier output ({example}); name an empty or new directory"
            )
        if _MARKER in names:
            return "unfinished"  # also where the completing file is there: the run was killed before its last step
        kind = read_json(join(self.url, self._completing), "the last file of an output").get("kind")
        if not str(kind).startswith(_OUR_KIND):
            raise InputError(
                f"{self.url} holds a {self._completing} that is not of nnsparse-stream; name an empty or new directory"
            )
        return "complete"

    def check(self) -> None:
        """Checks, before any work and without a change, that `begin` may go on.

        Raises:
            InputError: what `state` raises; or a whole output lies there and `overwrite` is False.
        """
        if self.state() == "complete" and not self._overwrite:
            raise InputError(f"{self.url} exists already; pass --overwrite to replace it, or name another --output")

    def begin(self, resume: bool = False) -> None:
        """Makes the directory, cleans it, and marks it as unfinished. Call it when the inputs have been checked.

        Args:
            resume: keep what lies there, but for the completing file.

        Raises:
            InputError: what `check` raises, or the directory cannot be written.
        """
        self.check()
        fs, path = filesystem(self.url)
        state = self.state()
        self._made_by_us = state != "empty" or not fs.exists(path)
        try:
            write_file(join(self.url, _MARKER), to_json({"kind": _OUR_KIND + "unfinished output"}))
            if not resume:
                self._remove_contents()
            elif exists(join(self.url, self._completing)):
                self.remove(self._completing)
        except Exception as error:  # every store's client has exceptions of its own
            raise InputError(f"{self.url}: the output cannot be written: {one_line(error)}") from error

    def write(self, name: str, data: bytes) -> None:
        """Writes one file, whole; `name` is relative to the directory."""
        write_file(join(self.url, name), data)

    def remove(self, name: str) -> None:
        """Removes one file that was written on the way; `name` is relative to the directory."""
        fs, path = filesystem(join(self.url, name))
        fs.rm_file(path)

    def complete(self, data: bytes) -> None:
        """Writes the completing file and takes the marker away: from here on the output is whole."""
        self.write(self._completing, data)
        fs, path = filesystem(self.url)
        fs.rm_file(join(path, _MARKER))

    def abort(self) -> None:
        """Removes all that was written, and the directory itself where a run of ours made it."""
        self._remove_contents()
        fs, path = filesystem(self.url)
        if fs.exists(join(path, _MARKER)):
            fs.rm_file(join(path, _MARKER))
        if self._made_by_us and fs.isdir(path) and not fs.ls(path):
            fs.rmdir(path)

    def _remove_contents(self) -> None:
        """Removes the completing file first: what remains of a removal that is cut off is not taken for whole."""
        fs, path = filesystem(self.url)
        if not fs.isdir(path):
            return
        names = [name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(path, detail=False)]
        ours = [name for name in names if name != _MARKER and self._is_ours(_final_name(name))]
        for name in sorted(ours, key=lambda name: (name != self._completing, name)):
            fs.rm(join(path, name), recursive=True)

    def _is_ours(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._ours)


def _final_name(name: str) -> str:
    """The name that a file is to have: a killed run can leave a temporary name behind."""
    return _TEMPORARY.sub("", name)
