"""A file of this machine that one process at a time holds."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nnsparse_stream.errors import InputError


@contextmanager
def locked(url: str, path: str, taken: Callable[[str], InputError]) -> Iterator[None]:
    """Holds a lock while the context goes on; it goes with the process, however that ends.

    Args:
        url: what the lock is for, for the error.
        path: of the lock's file, which stays.
        taken: the error where another process holds it, from what that one is called.

    Raises:
        InputError: that, or the file cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{url}: the output cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken(os.pread(lock, 200, 0).decode(errors="replace")) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(lock)
