from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnsparse_stream.errors import InputError
from nnsparse_stream.nn import devices
from nnsparse_stream.nn.devices import holders, pick_device, take

HOLD = """
import sys
from pathlib import Path
from nnsparse_stream.nn.devices import take
print(take(sys.argv[2:], Path(sys.argv[1]))[0], flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that takes one of some devices and keeps it."""

    def __init__(self, directory: Path, *devices: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory), *devices], **pipes)  # type: ignore[call-overload]
        assert self.process.stdout is not None
        self.place = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_each_process_takes_a_device_of_its_own_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    first, second = Holder(tmp_path, "a", "b"), Holder(tmp_path, "a", "b")
    try:
        assert (first.place, second.place) == (0, 1)
        # Where all are taken, one of those that the fewest have.
        place, lock = take(["a", "b"], tmp_path)
        assert place == 0
        other, other_lock = take(["a", "b"], tmp_path)
        assert other == 1
        assert [holders(device, tmp_path) for device in "abc"] == [2, 2, 0]
        os.close(lock)
        os.close(other_lock)
        second.kill()
        place, lock = take(["a", "b"], tmp_path)
        os.close(lock)
        assert place == 1
    finally:
        first.kill()
        second.kill()


def test_where_no_lock_can_be_made_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"no GPU can be taken by a lock in .*/file: File exists; name one by"):
        take(["a"], tmp_path / "file")


def test_every_user_may_take_a_device_and_another_ones_file_counts_as_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, opened = tmp_path / "devices", os.open

    def refuse(path: Path, *how: int) -> int:
        if path.name in ("a.0", "c.0"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *how)

    before = os.umask(0o077)
    try:
        os.close(take(["a"], directory)[1])
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1777
    monkeypatch.setattr(os, "open", refuse)
    place, lock = take(["a", "b"], directory)
    os.close(lock)
    assert place == 1
    os.close(take(["a"], directory)[1])
    assert sorted(path.name for path in directory.iterdir()) == ["a.0", "a.1", "b.0"]
    assert holders("a", directory) == 1
    with pytest.raises(InputError, match="Permission denied"):
        take(["c"], directory)  # no file is there: the directory is another user's


def test_a_gpu_that_is_named_is_used_also_where_no_lock_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(devices, "_held", {})
    monkeypatch.setattr(devices, "_directory", lambda: tmp_path / "file")
    monkeypatch.setattr(devices, "_identity", str)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="name one by `device`"):
        pick_device("auto")
    assert pick_device("cuda:1") == pick_device("auto") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1", "auto:1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"pass auto, cpu, cuda or cuda:N"):
        pick_device(name)


def test_the_cpu_is_there_always() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_without_a_gpu_it_is_said(name: str) -> None:
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=rf"`device` {name}: torch sees no usable GPU here"):
        pick_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_process_keeps_its_gpu() -> None:
    device = pick_device("auto")
    assert pick_device("cuda") == device
    assert pick_device(str(device)) == device
    with pytest.raises(InputError, match=r"there are \d+ GPUs here"):
        pick_device("cuda:99")
