"""The output of a stream: what it holds, whose it is, and that one stream at a time writes to it."""

from __future__ import annotations

import functools
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.local_lock import locked
from nnsparse_stream.storage.local_paths import local_path
from nnsparse_stream.storage.output_directory import OutputDirectory
from nnsparse_stream.streaming.letter_files import DEAD_LETTERS

#: Says what stream the output is of; there from the stream's begin on.
NAME = "_stream.json"
KIND = "nnsparse-stream stream"
#: Of the state of the loop in one process.
STATE = "_state"
#: Patterns of the files of a stream beside `NAME`; see `OutputDirectory`.
CONTENTS = (
    "windows/*/part-#-of-#-pane-#.parquet",
    "windows/*/_complete.json",
    f"{DEAD_LETTERS}/*.jsonl",
    f"{STATE}/commit.json",
    f"{STATE}/writing.json",
    f"{STATE}/blocks-#.arrow",
    f"{STATE}/ended.json",
)
_LOCK, _OWNER = f"{STATE}/lock", f"{STATE}/owner.json"
#: Of what says who writes.
BESIDE = (_LOCK, _OWNER)
#: Seconds for which an owner that has not ended is believed to go on, where there are no locks.
_LEASE = 60.0


def open_output(url: str, settings: Mapping[str, Any], overwrite: bool, go_on: bool = True) -> bool:
    """Begins the output of a stream, or takes that of an earlier run up again.

    Args:
        url: the directory.
        settings: what must not change between the runs of a stream, JSON values by the names of fields.
        overwrite: whether what is there goes, if it is ours.
        go_on: whether an earlier run's output with the same settings is taken up.

    Returns:
        Whether there was one.

    Raises:
        InputError: what lies there is not of a stream, or of one with other settings, or must not be taken up.
    """
    output, settings = _directory(url, overwrite=True), dict(settings)
    # An engine's job may not have written anything yet.
    if output.state() == "complete" and not overwrite and (_is_begun(url) or not go_on):
        found = read_settings(url)
        if not go_on:
            raise InputError(f"{url} exists already; pass `overwrite` to replace it, or name another `output`")
        for field, value in settings.items():
            if found.get(field) != value:
                raise InputError(
                    f"{url} is of a stream whose `{field}` is {found.get(field)!r}, and not {value!r}: go on with the "
                    "same, pass `overwrite` to begin anew, or name another `output`"
                )
        return True
    output.begin()
    output.complete(storage.to_json({"kind": KIND, "settings": settings}))
    return False


def _directory(url: str, overwrite: bool) -> OutputDirectory:
    return OutputDirectory(url, contents=CONTENTS, completing=NAME, overwrite=overwrite, beside=BESIDE)


def _is_begun(url: str) -> bool:
    """Whether a stream has written anything, and not only said whose the output is."""
    return bool(storage.list_files(url).keys() - {NAME, *BESIDE})


def read_settings(url: str) -> dict[str, Any]:
    """The settings of the stream that an output is of.

    Raises:
        InputError: it is of none.
    """
    found = storage.read_json(storage.join(url, NAME), "what a stream writes")
    settings = found.get("settings")
    if found.get("kind") != KIND or not isinstance(settings, dict):
        raise InputError(f"{url} is not the output of a stream")
    return settings


@contextmanager
def sole_writer(url: str) -> Iterator[Callable[[], None]]:
    """Keeps other streams from an output while the context goes on.

    On this machine's disks a lock does it, which goes with the process however it ends. Elsewhere a file says who
    writes, and until when: what a stream that was killed leaves of it counts for a minute.

    Yields:
        What is to be called before each change, and every few seconds at least.

    Raises:
        InputError: what lies there is not ours, or another stream writes to it; so does what is yielded, where another
            one has taken it over.
    """
    _directory(url, overwrite=False).state()  # nothing is written to a directory that is not ours
    path = local_path(url)
    if path is None:
        with _lease(url) as renew:
            yield renew
    else:
        with locked(url, os.path.join(path, _LOCK), functools.partial(_taken, url)):
            yield lambda: None


@contextmanager
def _lease(url: str) -> Iterator[Callable[[], None]]:
    place, me = storage.join(url, _OWNER), uuid.uuid4().hex
    who = f"process {os.getpid()} on {socket.gethostname()}"
    written = looked = 0.0

    def owner() -> dict[str, Any]:
        return storage.read_json(place, "who writes") if storage.exists(place) else {}

    def write() -> None:
        nonlocal written
        written = time.time()
        storage.write_file(place, storage.to_json({"id": me, "who": who, "until": written + _LEASE}))

    def renew() -> None:
        nonlocal looked
        if time.time() - looked < _LEASE / 12:
            return  # nobody takes over within the lease
        looked = time.time()
        if owner().get("id") != me:
            raise InputError(f"{url} was taken over by another stream, {owner().get('who')}; this one ends")
        if time.time() - written > _LEASE / 4:
            write()

    found = owner()
    if found.get("until", 0.0) > time.time():
        raise _taken(url, found["who"])
    write()
    try:
        yield renew
    finally:
        if owner().get("id") == me:
            storage.remove_file(place)


def _taken(url: str, who: str) -> InputError:
    return InputError(f"{url} is written by another stream, {who}; one at a time can: end that one, or let it end")
