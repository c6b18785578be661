"""A Redis server on this machine, for streams of events: Debian's.

python -m deploy.engines.redis start --directory DIR
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deploy.engines.engine import Engine, cached, main, missing_tools, run_tool

#: The server, and the libraries of it that a Debian without it lacks.
_PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1")


class Redis(Engine):
    """One server, which writes each entry to its disk before it answers: it may be killed and started again."""

    PORTS = ("redis",)

    @classmethod
    def missing(cls) -> str | None:
        """What is needed where there is no `redis-server`: Debian's tools, to fetch and unpack its package."""
        return None if shutil.which("redis-server") else missing_tools("apt-get", "dpkg")

    @classmethod
    def install(cls) -> None:
        """Fetches Debian's packages and unpacks them in the cache, where there is no `redis-server`."""
        if not shutil.which("redis-server"):
            _unpacked()

    def start(self) -> None:
        """Starts the server. What it holds stays when it is stopped, in the directory."""
        program, environment = shutil.which("redis-server"), {}
        if program is None:
            root = _unpacked()
            program = str(root / "usr/bin/redis-server")
            libraries = sorted({str(path.parent) for path in (root / "usr/lib").rglob("*.so*")})
            environment = {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}
        self.servers.directory.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": "127.0.0.1",
            "port": self.ports["redis"],
            "dir": self.servers.directory,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        command = [program, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
        with self.stopped_on_failure():
            self.servers.start("redis", command, environment)
            self.wait_for_ports("redis")

    def flags(self) -> list[str]:
        """The beginning of a source: a stream's name is to follow."""
        return [f"redis://localhost:{self.ports['redis']}/"]


def _unpacked() -> Path:
    def fetch(directory: Path) -> None:
        run_tool(["apt-get", "download", "--quiet", *_PACKAGES], directory)
        for package in sorted(directory.glob("*.deb")):
            run_tool(["dpkg", "--extract", package, directory], directory)
            package.unlink()

    return cached("redis-debian", fetch)


if __name__ == "__main__":
    sys.exit(main(Redis, __doc__))
