"""Which device a process computes on, and how the processes of one machine share its GPUs."""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from nnsparse_stream.errors import InputError

# By device, the open file whose lock says that this process uses it; the system frees it when it ends, however. -1 for
# none.
_held: dict[torch.device, int] = {}
_choosing = threading.Lock()


def pick_device(name: str) -> torch.device:
    """The torch device of "auto", "cpu", "cuda" or "cuda:N".

    Of several GPUs a process that does not name one takes one that no other process of this machine has taken by this
    function, or of those that are all taken the one with the fewest; it keeps it.

    Raises:
        InputError: there is no such name, or the GPU that is asked for is not there.
    """
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise InputError(f"`device` {name}: there is none of this name; pass auto, cpu, cuda or cuda:N")
    usable = torch.cuda.is_available()
    if kind == "cpu" or (kind == "auto" and not usable):
        return torch.device("cpu")
    if not usable:
        raise InputError(f"`device` {name}: torch sees no usable GPU here; `nnsparse-stream doctor` shows what it sees")
    count = torch.cuda.device_count()
    if colon and int(number) >= count:
        raise InputError(f"`device` {name}: there are {count} GPUs here, from cuda:0 on")
    with _choosing:
        wanted = [int(number)] if colon else range(count)
        mine = [device for device in _held if device.index in wanted]
        if mine:
            return mine[0]
        try:
            index, lock = take([_identity(index) for index in wanted])
        except InputError:
            if not colon:
                raise
            index, lock = 0, -1  # that other processes cannot see it is no reason not to use the one that is named
        device = torch.device("cuda", wanted[index])
        _held[device] = lock
        return device


def _identity(index: int) -> str:
    """A name of a GPU that all processes of the machine have for it, whatever CUDA_VISIBLE_DEVICES shows them."""
    return str(torch.cuda.get_device_properties(index).uuid)


def take(devices: Sequence[str], directory: Path | None = None) -> tuple[int, int]:
    """Takes one of some devices, the first of those that the fewest processes have taken.

    Each process that has a device holds the lock of a file of its own, `DEVICE.N`, as long as it lives; N is the least
    number that was free. A file that another user made counts as taken.

    Args:
        devices: names that are the same for all processes of the machine.
        directory: where the files are; one in the directory for temporary files where None.

    Returns:
        The device's place, and the file descriptor that holds the lock; to close it frees the device.

    Raises:
        InputError: the files cannot be made.
    """
    directory = directory or _directory()
    try:
        _make(directory)
        for number in itertools.count():
            for place, device in enumerate(devices):
                lock = _lock(directory / f"{device}.{number}")
                if lock is not None:
                    return place, lock
    except OSError as error:
        raise InputError(
            f"no GPU can be taken by a lock in {directory}: {error.strerror}; name one by `device`, or set TMPDIR to a "
            "directory that this user can write to"
        ) from error
    raise AssertionError("numbers do not end")


def users(index: int) -> int:
    """How many processes of this machine have taken a GPU by `pick_device`."""
    return holders(_identity(index))


def holders(device: str, directory: Path | None = None) -> int:
    """How many processes have taken a device; arguments as those of `take`."""
    count = 0
    for path in (directory or _directory()).glob(f"{device}.*"):
        lock = _lock(path)
        if lock is None:
            count += 1
        else:
            os.close(lock)
    return count


def _directory() -> Path:
    return Path(tempfile.gettempdir()) / "nnsparse-stream-devices"


def _make(directory: Path) -> None:
    """Makes a directory in which every user can make files, and remove none but their own."""
    try:
        directory.mkdir()
    except FileExistsError:
        if not directory.is_dir():
            raise
    else:
        directory.chmod(0o1777)  # `mkdir` takes away what the umask says


def _lock(path: Path) -> int | None:
    """Locks a file, which is made where it is not there; None where another process has it, or another user made it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        if not path.exists():
            raise
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
