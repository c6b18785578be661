"""Files that processes share: made once, held by who uses them, gone with the last, and never read when left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage.shared_files import Hold, open_shared, private_directory

#: Makes "file" once told to, says which file it has, and ends when told to.
PROCESS = """
import os, sys, time
from nnsparse_stream.storage.shared_files import open_shared

def make(path):
    with open(path, "w") as file:
        file.write("half")
        file.flush()
        print("making", flush=True)
        time.sleep(float(sys.argv[1]))
        file.write(f", whole, by {os.getpid()}")

def read(path):
    with open(path) as file:
        return f"{os.fstat(file.fileno()).st_ino} {file.read()}"

sys.stdin.readline()
text, hold = open_shared("file", make, read)
print(text, flush=True)
sys.stdin.readline()
hold.release()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory, for this test and the processes that it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def start(making: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(making)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def write(text: str) -> str:
    """What `open_shared` gives for a file that holds a text, made now or found."""
    found, hold = open_shared("file", lambda path: Path(path).write_text(text) and None, lambda path: path)
    try:
        return Path(found).read_text()
    finally:
        hold.release()


def names() -> list[str]:
    return sorted(os.listdir(private_directory()))


def test_one_process_makes_it_and_all_have_the_same(temporary: Path, processes: list) -> None:
    processes += [start(0.2) for _ in range(4)]
    for process in processes:
        tell(process)
    said = [heard(process) for process in processes]
    (maker,) = (process for process, text in zip(processes, said, strict=True) if text == "making")
    said = [heard(maker) if text == "making" else text for text in said]
    assert len(set(said)) == 1
    assert said[0].endswith(f"half, whole, by {maker.pid}")
    # The maker may go first: the others hold the file.
    for process in sorted(processes, key=lambda process: process is not maker):
        assert names() == ["file", "lock"]
        tell(process)
        assert process.wait() == 0
    assert names() == ["lock"]


def test_what_killed_processes_leave_is_removed_and_not_read(temporary: Path, processes: list) -> None:
    processes += [start(60), start(0)]
    tell(processes[0])
    assert heard(processes[0]) == "making"
    tell(processes[1])  # waits for the first
    processes[0].send_signal(signal.SIGKILL)
    assert heard(processes[1]) == "making"
    assert "whole" in heard(processes[1])
    processes[1].send_signal(signal.SIGKILL)
    processes[1].wait()
    Path(private_directory(), "other.unfinished").touch()
    assert names() == ["file", "lock", "other.unfinished"]
    assert write("mine") == "mine"
    assert names() == ["lock"]


def test_a_damaged_file_is_replaced_though_it_is_held(temporary: Path) -> None:
    def read(path: str) -> str:
        text = Path(path).read_text()
        if text != "whole":
            raise OSError("damaged")
        return text

    path = Path(private_directory(), "file")
    path.write_text("hal")
    held = Hold(str(path))
    text, hold = open_shared("file", lambda path: Path(path).write_text("whole") and None, read)
    assert text == "whole"
    held.release()
    assert names() == ["file", "lock"]
    hold.release()
    assert names() == ["lock"]


def test_a_failure_to_make_leaves_nothing(temporary: Path) -> None:
    def make(path: str) -> None:
        Path(path).touch()
        raise InputError("bad input")

    with pytest.raises(InputError, match="bad input"):
        open_shared("file", make, str)
    assert names() == ["lock"]


def test_a_directory_that_others_may_write_to_is_not_trusted(temporary: Path) -> None:
    directory = Path(private_directory())
    directory.chmod(0o755)
    with pytest.raises(InputError, match=rf"^{directory} is not a directory of this user alone.*TMPDIR"):
        write("mine")
    directory.rmdir()
    (temporary / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(temporary / "elsewhere")
    with pytest.raises(InputError, match="is not a directory of this user alone"):
        write("mine")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_not_trusted(temporary: Path) -> None:
    directory = Path(private_directory())
    os.chown(directory, 12345, 12345)
    with pytest.raises(InputError, match=rf"^{directory} is not a directory of this user alone.*TMPDIR"):
        write("mine")


def test_a_disk_without_room_is_named(temporary: Path) -> None:
    """A limit on a file's size stands for the disk: writing ends with an OSError as well."""
    code = (
        "import resource; from pathlib import Path; from nnsparse_stream.storage.shared_files import open_shared; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "open_shared('file', lambda path: Path(path).write_bytes(bytes(5000)), str, 'the lookup')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        f"{private_directory()} cannot hold the lookup: File too large; make room there, or set TMPDIR" in done.stderr
    )
    assert names() == ["lock"]
