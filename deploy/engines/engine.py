"""What the programs of this folder share: where artefacts are cached, and the commands install, start, status, stop."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from deploy.engines.servers import EngineError, Servers, free_ports, listens

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 180.0


class Engine(ABC):
    """An engine that serves pipelines from one directory.

    Args:
        directory: of the logs and of what is remembered between commands; one engine each.
        first_port: the engine listens on this port and those that follow; by default it takes free ones.
        sizes: values for some of SIZES. Ports and sizes are those of the first start, until the engine is stopped.
    """

    #: What the engine's ports are for, in their order.
    PORTS: ClassVar[tuple[str, ...]]
    #: Name -> default and explanation of what else can be chosen.
    SIZES: ClassVar[Mapping[str, tuple[int, str]]] = {}

    def __init__(self, directory: Path, first_port: int | None = None, **sizes: int) -> None:
        self.servers = Servers(directory)
        self._first_port = first_port
        self._sizes = {name: default for name, (default, _) in self.SIZES.items()} | sizes
        self._file = self.servers.directory / "engine.json"

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """What this machine lacks to install the engine, or None."""

    @classmethod
    @abstractmethod
    def install(cls) -> None:
        """Puts the engine's artefacts into the cache, unless they are there.

        Raises:
            EngineError: a tool is missing or has failed.
        """

    @abstractmethod
    def start(self) -> None:
        """Starts every server that does not run, and returns when all of them listen.

        Raises:
            EngineError: one of them does not; all are stopped.
        """

    def flags(self) -> list[str]:
        """The Beam options with which a pipeline runs here, its workers started by the pool."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self.ports['jobs']}",
            # Or Beam runs `pip freeze` before each job, to compare it with the workers' installation, the same one.
            "--experiments=disable_logging_submission_environment",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{self.ports['pool']}",
        ]

    @property
    def ports(self) -> dict[str, int]:
        """The engine's ports by their purpose."""
        return self._chosen()["ports"]

    @property
    def sizes(self) -> dict[str, int]:
        """The values of SIZES."""
        return self._chosen()["sizes"]

    def _chosen(self) -> dict[str, dict[str, int]]:
        if not self._file.exists():
            count = len(self.PORTS)
            first = self._first_port
            ports = free_ports(count) if first is None else list(range(first, first + count))
            taken = [port for port in ports if listens(port)]
            if taken:
                raise EngineError(f"somebody listens on port {taken[0]} already; name another --first_port, or none")
            self._file.parent.mkdir(parents=True, exist_ok=True)
            chosen = {"ports": dict(zip(self.PORTS, ports, strict=True)), "sizes": self._sizes}
            self._file.write_text(json.dumps(chosen, indent=1))
        return dict(json.loads(self._file.read_text()))

    def stop(self) -> None:
        """Ends all servers."""
        self.servers.stop()
        self._file.unlink(missing_ok=True)

    def start_pool(self) -> None:
        """Starts the pool of Python workers; they import the project as this process does."""
        path = os.pathsep.join(entry for entry in (str(_ROOT), os.environ.get("PYTHONPATH")) if entry)
        command = [sys.executable, "-m", "deploy.engines.worker_pool", str(self.ports["pool"]), str(self.servers.logs)]
        self.servers.start("pool", command, {"PYTHONPATH": path})

    def wait_for_ports(self, *purposes: str) -> None:
        """Waits until somebody listens on each of these ports."""
        for purpose in purposes:
            port = self.ports[purpose]
            self.servers.wait(f"the port {port} ({purpose})", lambda port=port: listens(port), _START_SECONDS)  # type: ignore[misc]

    @contextmanager
    def stopped_on_failure(self) -> Iterator[None]:
        """Stops all servers where the block raises."""
        try:
            yield
        except BaseException:
            self.stop()
            raise


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The directory of an artefact in the cache.

    Args:
        name: of the directory: what it holds, and the version.
        make: fills a new directory where there is none of this name.

    Returns:
        The directory, below `$NNSPARSE_STREAM_ENGINES` or else `~/.cache/nnsparse-stream/engines`.
    """
    cache = Path(os.environ.get("NNSPARSE_STREAM_ENGINES") or "~/.cache/nnsparse-stream/engines").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / name
    with (cache / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making the same
        if not made.exists():
            half = cache / f".{name}.half"
            shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
            half.mkdir()
            make(half)
            half.rename(made)
    return made


def run_tool(command: Sequence[str | Path], directory: Path, **environment: str) -> None:
    """Runs a tool that installs something.

    Raises:
        EngineError: it is not there, or it fails; the message holds the end of what it printed.
    """
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words,
            cwd=directory,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise EngineError(f"{words[0]} is not installed; it is needed for `{' '.join(words)}`") from error
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-20:])
        raise EngineError(f"`{' '.join(words)}` failed with code {done.returncode}:\n{end}")


def missing_tools(*names: str) -> str | None:
    """Which of these programs is not installed, in words, or None."""
    missing = [name for name in names if shutil.which(name) is None]
    return f"no {' and no '.join(missing)} on this machine" if missing else None


def main(engine: type[Engine], description: str | None, argv: Sequence[str] | None = None) -> int:
    """The program of an engine: parses the command, runs it, and returns the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="put the artefacts into the cache")
    for name, text in (
        ("start", "install, start every server that does not run, wait until all listen, print the Beam options"),
        ("status", "what runs, and on which port; code 1 where something is missing"),
        ("flags", "the Beam options alone"),
        ("stop", "end all servers"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--directory", required=True, type=Path, help="of the logs and of what is remembered")
        if name == "start":
            command.add_argument("--first_port", type=int, metavar="N", help="(default: free ones)")
            for size, (default, explained) in engine.SIZES.items():
                command.add_argument(
                    f"--{size}", type=int, default=default, metavar="N", help=f"{explained} (default: {default})"
                )
    args = parser.parse_args(argv)
    try:
        return _run(engine, args)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1


def _run(engine: type[Engine], args: argparse.Namespace) -> int:
    if args.command == "install":
        engine.install()
        return 0
    sizes = {name: getattr(args, name) for name in engine.SIZES if args.command == "start"}
    served = engine(args.directory, getattr(args, "first_port", None), **sizes)
    if args.command == "stop":
        served.stop()
        return 0
    if args.command == "start":
        served.start()
    elif args.command == "status":
        running = served.servers.running()
        print("\n".join(f"{name:<16} process {pid}" for name, pid in running.items()) or "nothing runs")
        if not running:
            return 1
        print("\n".join(f"{purpose:<16} port {port}" for purpose, port in served.ports.items()))
        return 0 if all(listens(port) for port in served.ports.values()) else 1
    elif not served.servers.running():
        raise EngineError(f"nothing runs in {args.directory}; start it first")
    print(" ".join(served.flags()))
    return 0
