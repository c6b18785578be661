"""Runs the project's commands as processes, ends some of them, and compares what they wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from deploy.engines.servers import Servers
from nnsparse_stream.ratings.synthetic import make_ratings

ROOT = Path(__file__).parents[2]
#: Kills of each kind; a longer run asks for more.
KILLS = int(os.environ.get("NNSPARSE_STREAM_KILLS", "2"))


def command(name: str, *flags: object) -> list[str]:
    """A command of the project as a process."""
    return [sys.executable, "-m", f"nnsparse_stream.pipelines.{name}", *map(str, flags)]


def run_command(name: str, *flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(name, *flags), capture_output=True, text=True, cwd=ROOT)


#: Prints the code of each command and the seconds that it took, and ends after one that fails.
_COMMANDS = """
import json, sys, time
from nnsparse_stream.pipelines import cli

for argv in json.loads(sys.argv[1]):
    started = time.monotonic()
    code = cli.main(argv)
    print("\\nended", code, time.monotonic() - started, flush=True)
    if code:
        break
"""


def run_commands(commands: Sequence[Sequence[object]]) -> list[float]:
    """Runs commands, each with its name and flags, in one process, since importing takes longest; all succeed.

    Returns:
        The seconds that each took; the first imports for the others.
    """
    argvs = json.dumps([[*map(str, argv)] for argv in commands])
    done = subprocess.run([sys.executable, "-c", _COMMANDS, argvs], cwd=ROOT, capture_output=True, text=True)
    ends = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ended ")]
    assert [code for code, _ in ends] == ["0"] * len(commands), done.stderr
    return [float(seconds) for _, seconds in ends]


def start_command(name: str, *flags: object, errors: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Starts a command in a session of its own, which its children are in too.

    A pipe of standard error ends with the last of these children; `errors` may be a file instead.
    """
    return subprocess.Popen(
        command(name, *flags),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        cwd=ROOT,
        start_new_session=True,
        # A shell lets what it runs in the background ignore SIGINT, and that is handed down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def session_of(leader: int) -> list[int]:
    """The processes of a session, but for its leader."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        try:
            if os.getsid(pid) == leader != pid:
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found


def command_line(pid: int) -> str:
    """A process's command, or "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def pool_workers(servers: Servers) -> list[int]:
    """The Python workers of an engine's pool that have connected to it.

    Beam waits for a worker that ends before it has connected, on Flink for ever; and three minutes for one that ends
    before its connection for data, which is the third there (other engines have one port for all). And none but this
    pool's: the system gives the id of a worker that has ended to others.
    """
    running = servers.running()
    ours, all_of_them = session_of(running["pool"]), 3 if "job-manager" in running else 1
    pids = [int(log.stem.partition("-")[2]) for log in servers.logs.glob("worker-*.log")]
    return [pid for pid in pids if pid in ours and _connections(pid) >= all_of_them]


def kill_process(pid: int) -> bool:
    """Kills a process; False where it has ended meanwhile."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _connections(pid: int) -> int:
    """How many established TCP connections a process has."""
    try:
        sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return 0  # it has ended
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return sum(line[3] == "01" and f"socket:[{line[9]}]" in sockets for line in lines)


def write_log(directory: Path, users: int, items: int, ratings: int, files: int) -> None:
    """Writes ratings as so many CSV files."""
    import pyarrow.csv

    log = make_ratings(users, items, ratings, 0.5, seed=3).ratings
    rows = -(-len(log) // files)
    directory.mkdir()
    for part in range(files):
        pyarrow.csv.write_csv(log.slice(part * rows, rows), directory / f"{part}.csv")


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of a directory, by its path in it; a job may still write there."""
    found = {}
    for path in sorted(directory.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a temporary one has its name by now
            if path.is_file():
                found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def digest(*sums: dict[str, str]) -> str:
    """One short checksum of all files and their names."""
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:12]
