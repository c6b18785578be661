"""fsspec's file systems: opened as this project needs them, told apart, and asked with retries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage.local_paths import local_path
from nnsparse_stream.storage.retries import retrying

_T = TypeVar("_T")
_HTTP = frozenset({"http", "https"})
_S3 = frozenset({"s3", "s3a"})
_AZURE = frozenset({"abfs", "abfss", "az"})
#: File systems without directories.
OBJECT_STORES = _S3 | _AZURE | {"gs", "gcs", "adl"}
#: Those on which a file appears whole or not at all, and where a rename would be a copy.
ATOMIC_WRITES = OBJECT_STORES | {"memory"}
#: Those whose requests are retried and whose files are read by ranges.
NETWORKED = OBJECT_STORES | _HTTP


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of a URL.

    Returns:
        The file system, with its listings cache emptied, and the URL's path on it.

    Raises:
        InputError: there is no such protocol, or its package is not installed.
    """
    local = local_path(url)
    if local is not None:
        fs = fsspec.filesystem("file")
        _fail_below_the_top(fs)
        return fs, local
    s3 = url.startswith(("s3://", "s3a://"))
    try:
        fs, path = fsspec.core.url_to_fs(url, **(_s3_options() if s3 else {}))
    except (ValueError, ImportError) as error:
        raise InputError(f"{url}: {' '.join(str(error).split())}") from error
    if s3:
        fs.retries = 1
    elif kinds(fs) & _AZURE:
        _leave_retries_to_us(fs)
    _fail_below_the_top(fs)
    fs.invalidate_cache()
    return fs, path


def kinds(fs: fsspec.AbstractFileSystem) -> set[str]:
    """The protocols of a file system."""
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def request(fs: fsspec.AbstractFileSystem, url: str, make: Callable[[], _T]) -> _T:
    """Makes a request, with retries (see `retrying`) where the file system is behind a network."""
    return retrying(url, make) if kinds(fs) & NETWORKED else make()


def strict_listing(fs: fsspec.AbstractFileSystem) -> dict[str, str]:
    """Flags for `find` and `glob`, so that they fail where the listing of their top fails.

    File systems that list by walking leave out a directory that could not be listed, unless told; the others don't, and
    some of them don't know the flag.
    """
    return {"on_error": "raise"} if kinds(fs) & (_HTTP | {"file"}) else {}


def _fail_below_the_top(fs: fsspec.AbstractFileSystem) -> None:
    """Lets `find` and `glob` fail where the listing of a directory below their top fails, too.

    What they are told of errors is not handed down; and S3's globs walk, and are not told.
    """
    name = "_walk" if kinds(fs) & (_HTTP | _S3) else "walk"
    if name == "walk" and type(fs).walk is not fsspec.AbstractFileSystem.walk:
        return
    walk = getattr(type(fs), name)

    def walk_strictly(
        path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = _raise_unless_gone, **flags: Any
    ) -> Any:
        return walk(fs, path, maxdepth=maxdepth, topdown=topdown, on_error=on_error, **flags)

    setattr(fs, name, walk_strictly)


def _raise_unless_gone(error: OSError) -> None:
    """A directory that was removed since its parent was listed, or is no more than a web page's link, holds nothing."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _s3_options() -> dict[str, Any]:
    """Takes the retries out of the S3 client, which would make 25 requests of each of our tries; the user's word wins.

    And uploads the parts of a large file one after the other: where one of them fails, those under way would reach the
    store after the upload was given up, and stay there.

    gcsfs retries by itself too, few enough times to be left as it is.
    """
    configured = fsspec.config.conf.get("s3", {})
    retries = {"retries": {"total_max_attempts": 1}, **configured.get("config_kwargs", {})}
    return {"max_concurrency": configured.get("max_concurrency", 1), "config_kwargs": retries}


def _leave_retries_to_us(fs: Any) -> None:
    """Takes the retries out of Azure's client, which would wait 15, 18 and 24 seconds in each of our tries.

    adlfs has no argument for it. A client that keeps its policy elsewhere is left as it is: slower, and as right.
    """
    with contextlib.suppress(AttributeError):
        fs.service_client._config.retry_policy.total_retries = 0
