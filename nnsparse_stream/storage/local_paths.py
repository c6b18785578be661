"""Paths of local files: what a URL or a glob names on this machine. Symbolic links are followed."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator

from nnsparse_stream.errors import InputError

_LOCAL_SCHEME = re.compile(r"(file|local)://")
_MAGIC = re.compile(r"[*?\[]")
#: Directories by device and inode.
_Seen = frozenset[tuple[int, int]]


def local_path(url: str) -> str | None:
    """The absolute path of a URL of this machine; None of another one.

    A name is taken as it is, whatever it holds: fsspec would take "a::b" for two URLs and "file:a" for "a". ".." stays,
    since what it means depends on the links before it.
    """
    path = _LOCAL_SCHEME.sub("", url, count=1) if _LOCAL_SCHEME.match(url) else url
    if path == url and "://" in url:
        return None
    if path.startswith("~") and not os.path.lexists(path):
        path = os.path.expanduser(path)
    if not path.startswith("/"):
        try:
            path = os.path.join(os.getcwd(), path)
        except FileNotFoundError:
            raise InputError(f"{url} is a relative path, and the working directory is no more; go to another") from None
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def check_no_pipe(path: str) -> None:
    """Raises InputError where something is there that is neither a file nor a directory: a pipe, for instance.

    Files are read more than once, and a pipe that nobody writes to would be waited for without end.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # opening it says why
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(
            f"{path} is no regular file (it is {_kind(mode)}), and input is read more than once; write it to a file "
            "and name that"
        )


def local_files(path: str) -> list[str] | None:
    """The files that a path names: a file, a directory with all below it, or a glob.

    Args:
        path: absolute; what exists under exactly this name is meant, whatever characters it holds.

    Returns:
        Paths in the order of their names; None where nothing of that name exists and it is no glob.

    Raises:
        InputError: a symbolic link leads nowhere, or something is neither a file nor a directory.
        OSError: a directory cannot be listed.
    """
    if os.path.lexists(path):
        if path.startswith(("/dev/", "/proc/")) and os.path.exists(os.path.realpath(path)):
            path = os.path.realpath(path)  # /dev/stdin is another file in another process
        return sorted(_files(path, frozenset()))
    if not _MAGIC.search(path):
        return None
    parts = path.split("/")
    first = next(place for place, part in enumerate(parts) if _MAGIC.search(part))
    return sorted(_expand("/".join(parts[:first]) or "/", parts[first:], frozenset()))


def _files(path: str, above: _Seen) -> Iterator[str]:
    """A file, or those in a directory and below; of a link to a directory above nothing, for there it is read."""
    found = _stat(path)
    if not stat.S_ISDIR(found.st_mode):
        check_no_pipe(path)
        yield path
    elif (found.st_dev, found.st_ino) not in above:
        for name in _visible(path):
            yield from _files(os.path.join(path, name), above | {(found.st_dev, found.st_ino)})


def _expand(directory: str, parts: list[str], above: _Seen) -> Iterator[str]:
    """The files below a directory that match the parts of a glob; "**" stands for any number of directories."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        if not rest:
            yield from _files(directory, above)
            return
        found = _stat(directory)
        if (found.st_dev, found.st_ino) in above:
            return
        yield from _expand(directory, rest, above)
        above |= {(found.st_dev, found.st_ino)}
        names = _visible(directory)
    elif _MAGIC.search(part):
        names = fnmatch.filter(_visible(directory), part)
    else:
        names = [part] if os.path.lexists(os.path.join(directory, part)) else []
    for name in names:
        path = os.path.join(directory, name)
        if part != "**" and not rest:
            yield from _files(path, above)
        elif stat.S_ISDIR(_stat(path).st_mode):
            yield from _expand(path, parts if part == "**" else rest, above)


def _visible(directory: str) -> list[str]:
    return [name for name in sorted(os.listdir(directory)) if not name.startswith((".", "_"))]


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        if not os.path.islink(path):
            raise
        raise InputError(
            f"{path} is a symbolic link to {os.readlink(path)}, which cannot be followed ({error.strerror}); mend the "
            "link or remove it"
        ) from error


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a block device")
