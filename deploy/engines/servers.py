"""Server processes of one directory: started detached, remembered in a file, ended by their ids."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_TAIL_LINES = 30
# Below those that Linux and macOS give away unless told otherwise, and above most that somebody has chosen.
_PORTS = range(20_000, 32_000)
_GRACE_SECONDS = 10.0


class EngineError(RuntimeError):
    """An engine cannot be installed or started; the message says why, with the end of the log."""


class Servers:
    """The processes that serve one engine, with their logs, in one directory.

    Another process may go on with them: what runs is remembered in `servers.json`. A process id that the system has
    given to somebody else in the meantime is told apart by its start time.

    Args:
        directory: receives `servers.json` and `logs/NAME.log`; made where there is none.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.logs = self.directory / "logs"
        self._file = self.directory / "servers.json"

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Starts a server, unless it runs already. Its log is begun anew."""
        if name in self.running():
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C for who started it is not for the server
                env={**os.environ, **(environment or {})},
            )
        self._write({**self._read(), name: (process.pid, _start_time(process.pid) or "")})

    def log(self, name: str) -> Path:
        """Where a server's output goes."""
        return self.logs / f"{name}.log"

    def running(self) -> dict[str, int]:
        """The process ids of the servers that run, by name."""
        return {name: pid for name, (pid, started) in self._read().items() if _start_time(pid) == started}

    def wait(self, what: str, is_ready: Callable[[], bool], seconds: float) -> None:
        """Waits until something is ready.

        Raises:
            EngineError: a server has ended, or the time is over; the message holds the ends of the logs.
        """
        end = time.monotonic() + seconds
        while not is_ready():
            ended = sorted(set(self._read()) - set(self.running()))
            if ended:
                raise EngineError(f"{ended[0]} has ended, and {what} is not there\n{self.tail(ended[0])}")
            if time.monotonic() > end:
                logs = "\n".join(self.tail(name) for name in sorted(self._read()))
                raise EngineError(f"{what} is not there after {seconds:.0f} s\n{logs}")
            time.sleep(0.1)

    def tail(self, name: str) -> str:
        """The end of a server's log, under a line that names the file."""
        lines = self.log(name).read_text(errors="replace").splitlines()
        return "\n".join([f"--- the end of {self.log(name)}", *lines[-_TAIL_LINES:]])

    def kill(self, name: str) -> None:
        """Ends one server at once, as a machine's failure would."""
        pid = self.running()[name]
        os.kill(pid, signal.SIGKILL)
        _wait_for_end([pid], _GRACE_SECONDS)

    def stop(self) -> None:
        """Ends all servers: asks first, and kills what still runs after ten seconds, with its children."""
        pids = list(self.running().values())
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, sign) if sign == signal.SIGKILL else os.kill(pid, sign)
            pids = _wait_for_end(pids, _GRACE_SECONDS)
        self._file.unlink(missing_ok=True)

    def _read(self) -> dict[str, tuple[int, str]]:
        if not self._file.exists():
            return {}
        return {name: (pid, started) for name, (pid, started) in json.loads(self._file.read_text()).items()}

    def _write(self, servers: Mapping[str, tuple[int, str]]) -> None:
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(servers, indent=1))
        temporary.replace(self._file)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, below those that systems give to who asks for any.

    So they are free yet when a server takes them, which may be seconds later.

    Raises:
        EngineError: there are not so many.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            return found
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    raise EngineError(f"fewer than {count} ports from {_PORTS[0]} to {_PORTS[-1]} are free")


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _start_time(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot, or None where it has ended."""
    try:
        # The name, in parentheses, may hold spaces; the state follows it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _wait_for_end(pids: list[int], seconds: float) -> list[int]:
    """Waits until the processes have ended, and returns those that have not."""
    end = time.monotonic() + seconds
    while True:
        for pid in pids:  # children of this process stay zombies until somebody asks
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        pids = [pid for pid in pids if _start_time(pid) is not None]
        if not pids or time.monotonic() > end:
            return pids
        time.sleep(0.05)
