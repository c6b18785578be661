"""Beam's portable job service for Python, and a pool of workers beside it.

python -m deploy.engines.portable start --directory DIR
"""

from __future__ import annotations

import sys

from deploy.engines.engine import Engine, main


class PortableJobService(Engine):
    """The reference of what a portable engine does: one process, everything in memory."""

    PORTS = ("jobs", "pool")

    @classmethod
    def missing(cls) -> str | None:
        """Nothing: it is part of Beam."""
        return None

    @classmethod
    def install(cls) -> None:
        """Does nothing."""

    def start(self) -> None:
        """Starts the job service and the pool."""
        service = "apache_beam.runners.portability.local_job_service_main"
        with self.stopped_on_failure():
            self.servers.start("jobs", [sys.executable, "-m", service, "--port", str(self.ports["jobs"])])
            self.start_pool()
            self.wait_for_ports("jobs", "pool")


if __name__ == "__main__":
    sys.exit(main(PortableJobService, __doc__))
