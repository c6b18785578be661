"""Which files the names that a user gives stand for: globs, directories, links; and which of them are the same."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import fsspec

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage.files import as_url, file_size, find, info, reading
from nnsparse_stream.storage.local_paths import local_files
from nnsparse_stream.storage.stores import filesystem, kinds, request, strict_listing


def match_files(urls: Collection[str], what: str = "input") -> list[str]:
    """The files that URLs name: each a file, a glob, or a directory (all files in it and below).

    Names that start with "." or "_" are left out of globs and directories, as Spark and Hadoop do. A directory that a
    glob matches is read whole. Symbolic links are followed.

    Args:
        urls: URLs.
        what: the flag or the role of these files, for the error's message.

    Returns:
        URLs of files; those of one glob or directory in the order of their names.

    Raises:
        InputError: a URL matches no file, or a pipe; a file is named twice; a symbolic link leads nowhere.
    """
    found: list[str] = []
    for url in urls:
        fs, path = filesystem(url)
        with reading(url):
            matches = local_files(path) if "file" in kinds(fs) else _match(fs, url, path)
        if matches is None:
            raise InputError(f"{url}: no such file ({what})")
        if not matches:
            raise InputError(f"{url} matches no files ({what})")
        found += [url] if matches == [path] else [as_url(fs, match) for match in matches]
    check_named_once(found, what)
    return found


def canonical(url: str) -> str:
    """The one spelling of a URL: two URLs of one file have the same. Local symbolic links and ".." are resolved."""
    fs, path = filesystem(url)
    return f"file://{os.path.realpath(path)}" if "file" in kinds(fs) else str(fs.unstrip_protocol(path))


def check_apart(output: str, inputs: Sequence[str]) -> None:
    """Raises InputError where an input lies in the output directory, which is cleaned, or the output in an input."""
    ours = canonical(output).rstrip("/")
    for url in inputs:
        theirs = canonical(url).rstrip("/")
        if (theirs + "/").startswith(ours + "/"):
            raise InputError(f"{url} is input and lies in `output` {output}, which is to be written: name another")
        if ours.startswith(theirs + "/"):
            raise InputError(f"`output` {output} lies in the input {url} and would be read as such: name another")


def check_named_once(urls: Sequence[str], what: str) -> None:
    """Raises InputError where two URLs name one file, if it holds anything: its records would count twice."""
    seen: dict[str, str] = {}
    for url in urls:
        name = canonical(url)
        if name in seen and file_size(url):
            other = "" if seen[name] == url else f", also as {seen[name]}"
            raise InputError(f"{url} is named more than once ({what}{other}): it would count twice; name it once")
        seen[name] = url


def _match(fs: fsspec.AbstractFileSystem, url: str, path: str) -> list[str] | None:
    """Paths of the files, or None where the path names a thing that does not exist."""
    found = info(url)
    if found is not None and found["type"] == "file":
        return [path]
    if found is not None:
        return sorted(_visible_below(fs, url, path))
    if not any(character in path for character in "*?["):
        return None
    listing = request(fs, url, lambda: fs.glob(path, detail=True, **strict_listing(fs)))
    names: set[str] = set()
    for name, entry in listing.items():
        if is_visible(name.rsplit("/", 1)[-1]):
            names.update([name] if entry["type"] == "file" else _visible_below(fs, url, name))
    return sorted(names)


def _visible_below(fs: fsspec.AbstractFileSystem, url: str, path: str) -> list[str]:
    return [name for name in find(fs, url, path) if is_visible(name[len(path) :])]


def is_visible(path: str) -> bool:
    """Whether no part of a path begins with "." or "_"."""
    return not any(name.startswith((".", "_")) for name in path.split("/"))
