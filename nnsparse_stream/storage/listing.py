"""The files of a directory to which files are added, with the times at which their store says they were written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage.files import find, reading
from nnsparse_stream.storage.matching import is_visible
from nnsparse_stream.storage.stores import filesystem

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: How stores call the time of writing: S3; Azure; GCS; local disks, SFTP and HDFS; WebHDFS (in ms); memory.
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modificationTime", "created")
#: What is still being written beside its name, by `files.write_file` as by others.
_UNFINISHED = ".tmp"


def written_files(url: str) -> dict[str, int]:
    """The files below a directory, at any depth.

    Left out are names that begin with "." or "_", as in `match_files`, and those that end with ".tmp".

    Args:
        url: the directory. On an object store, one that holds nothing is none, and no error.

    Returns:
        The time at which each was written, microseconds since 1970, by the name relative to the directory.

    Raises:
        InputError: there is no such directory, it is a file, or its store tells no times.
        StoreError: the store does not answer.
    """
    fs, path = filesystem(url)
    with reading(url):
        listing = find(fs, url, path)
    prefix = path.rstrip("/") + "/"
    if path in listing:
        raise InputError(f"{url} is a file where a directory is meant, to which files are added; name that")
    names = {name[len(prefix) :]: entry for name, entry in listing.items() if name.startswith(prefix)}
    return {
        name: _time(url, entry) for name, entry in names.items() if is_visible(name) and not name.endswith(_UNFINISHED)
    }


def _time(url: str, entry: Mapping[str, Any]) -> int:
    name = next((name for name in _TIMES if entry.get(name) is not None), None)
    if name is None:
        raise InputError(f"{url}: its store does not tell when files were written; copy them to one that does")
    value = entry[name]
    if isinstance(value, str):
        value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    if isinstance(value, datetime):
        value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return (value - _EPOCH) // timedelta(microseconds=1)
    return int(value) * 1_000 if name == "modificationTime" else round(value * 1_000_000)
