"""Prism, Beam's own portable engine: built with Go, and a pool of workers beside it.

python -m deploy.engines.prism start --directory DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.engines.engine import Engine, cached, main, missing_tools, run_tool

#: The version of Beam for Python that constraints.txt pins.
VERSION = "2.77.0"


class Prism(Engine):
    """One process that keeps a job's data in memory; for tests and small jobs."""

    PORTS = ("jobs", "pool")

    @classmethod
    def missing(cls) -> str | None:
        """Go, where it is not installed."""
        return missing_tools("go")

    @classmethod
    def install(cls) -> None:
        """Builds Prism from its module; two to four minutes the first time."""
        cls.program()

    @classmethod
    def program(cls) -> Path:
        """The executable; `--runner=PrismRunner --prism_location=` takes it too, and then starts and ends it itself."""

        def build(directory: Path) -> None:
            run_tool(
                ["go", "install", f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{VERSION}"],
                directory,
                GOBIN=str(directory),
            )

        return cached(f"prism-{VERSION}", build) / "prism"

    def start(self) -> None:
        """Starts Prism and the pool."""
        with self.stopped_on_failure():
            self.servers.start("prism", [self.program(), f"-job_port={self.ports['jobs']}", "-serve_http=false"])
            self.start_pool()
            self.wait_for_ports("jobs", "pool")


if __name__ == "__main__":
    sys.exit(main(Prism, __doc__))
