"""Files that one process of a machine makes and the others read: each is there while a process holds it, no longer.

They lie in a directory of the user's own below the system's temporary one. The kernel's locks (flock) say who uses
what, and go with a process however it ends:

- a process that looks for a file, or makes it, has the directory's lock alone: the others wait, and then find it;
- a process that uses a file has a shared lock on it. A file that nobody has locked was left by a process that was
  killed; whether it is whole cannot be known, so it is not read: the next process that looks for a file removes it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import pyarrow as pa

from nnsparse_stream.errors import InputError

_Read = TypeVar("_Read")
_LOCK = "lock"


class Hold:
    """A lock that keeps a file in its place; released, the file is removed unless others hold it.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: it is not there, or was removed while its lock was waited for.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = _open(path)
        fcntl.flock(self._file, fcntl.LOCK_SH)
        if not _is_at(self._file, path):
            os.close(self._file)
            raise FileNotFoundError(path)

    def rename(self, path: str) -> None:
        """Gives the file another name."""
        os.rename(self._path, path)
        self._path = path

    def release(self) -> None:
        """Ends the hold; what is mapped of the file stays mapped."""
        os.close(self._file)
        # At the end of a process, where nobody can be told: the next file that is made sweeps what stays.
        with suppress(OSError):
            _remove_unused(self._path)


def open_shared(
    name: str, make: Callable[[str], None], read: Callable[[str], _Read], hint: str = ""
) -> tuple[_Read, Hold]:
    """Opens a file that the processes of this user on this machine share; the first makes it, the others wait.

    Args:
        name: the file's; it is to say all that its content depends on.
        make: writes the file at a path.
        read: opens the file at a path, and raises an ArrowException or an OSError where it is damaged.
        hint: what the file is, for an error's message.

    Returns:
        What `read` returned, and the hold, to be released when it is not used any more.

    Raises:
        InputError: the directory is not this user's alone, or cannot take the file; or what `make` raises.
    """
    directory = private_directory()
    try:
        with _alone(directory):
            for entry in os.scandir(directory):
                if entry.name != _LOCK:
                    _remove_unused(entry.path)
            path = os.path.join(directory, name)
            return _in_use(path, read) or _made(path, make, read)
    except OSError as error:
        raise InputError(
            f"{directory} cannot hold {hint or name}: {error.strerror or error}; make room there, or set TMPDIR to a "
            "directory with more"
        ) from error


def _in_use(path: str, read: Callable[[str], _Read]) -> tuple[_Read, Hold] | None:
    """The file that others hold, if it is there and whole."""
    try:
        hold = Hold(path)
    except FileNotFoundError:
        return None
    try:
        return read(path), hold
    except (pa.ArrowException, OSError):
        os.unlink(path)
        hold.release()
        return None


def _made(path: str, make: Callable[[str], None], read: Callable[[str], _Read]) -> tuple[_Read, Hold]:
    unfinished = f"{path}.unfinished"
    try:
        make(unfinished)
        hold = Hold(unfinished)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
    hold.rename(path)
    return read(path), hold


def private_directory() -> str:
    """The directory of these files, made where it is not there; `TMPDIR` moves it.

    Raises:
        InputError: it cannot be made, or is not this user's alone: what others can write is not to be trusted.
    """
    path = os.path.join(tempfile.gettempdir(), f"nnsparse-stream-{os.getuid()}")
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}; set TMPDIR to another directory") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(
            f"{path} is not a directory of this user alone (mode 0700), so what is in it is not to be trusted: "
            "remove it, or set TMPDIR to another directory"
        )
    return path


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    with open(os.path.join(directory, _LOCK), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_unused(path: str) -> None:
    """Removes a file unless a process holds it."""
    try:
        file = _open(path)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who opens it from now on waits for this lock, and then sees that it is gone.
        if _is_at(file, path):
            os.unlink(path)
    except BlockingIOError:
        pass
    finally:
        os.close(file)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False
