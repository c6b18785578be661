"""Flink's monitoring interface: what it is asked, and how a streaming job is stopped with a savepoint."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from deploy.engines.servers import EngineError


class FlinkRest:
    """The interface of one cluster.

    Args:
        url: where it is served, for instance "http://localhost:8081".
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """What it answers, for instance to "jobs/overview".

        Args:
            path: what is asked.
            body: JSON that is posted, or None.

        Raises:
            OSError: nobody answers.
        """
        request = urllib.request.Request(f"{self._url}/{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.load(answer))

    def cancel(self, job: str) -> None:
        """Asks for the end of a job; it takes a while."""
        request = urllib.request.Request(f"{self._url}/jobs/{job}?mode=cancel", method="PATCH")
        urllib.request.urlopen(request, timeout=10).close()

    def begin_stop(self, job: str, directory: str | None) -> str:
        """Asks for a savepoint of a streaming job, and its end then.

        Args:
            job: its id.
            directory: URL below which the savepoint is to lie; None for the cluster's `state.savepoints.dir`.

        Returns:
            What `savepoint` is asked with.
        """
        # With `drain` the sources would have to end, and ours do not.
        body = {"drain": False, **({} if directory is None else {"targetDirectory": directory})}
        return str(self.ask(f"jobs/{job}/stop", json.dumps(body).encode())["request-id"])

    def savepoint(self, job: str, trigger: str) -> str | None:
        """Where a savepoint lies, the value of `--savepoint_path`; None as long as it is made.

        Raises:
            EngineError: there is none, since the job could not make it.
        """
        answer = self.ask(f"jobs/{job}/savepoints/{trigger}")
        if answer["status"]["id"] != "COMPLETED":
            return None
        operation = answer["operation"]
        if "location" not in operation:
            reason = str(operation.get("failure-cause", {}).get("stack-trace", operation)).splitlines()[0]
            raise EngineError(f"job {job} has no savepoint: {reason}")
        return str(operation["location"])
