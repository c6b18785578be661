"""A stream is stopped with a savepoint, and the manifest of the next one says where it goes on."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from flink_builds import HERE, cluster, container

from deploy.flink import savepoint


class _Flink(BaseHTTPRequestHandler):
    """Answers as Flink does while it stops a job; tests/engines holds the same code to Flink itself."""

    asked: list[tuple[str, Any]] = []  # noqa: RUF012
    jobs: list[dict[str, str]] = []  # noqa: RUF012
    made: list[dict[str, Any]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self._answer({"jobs": self.jobs} if self.path == "/jobs/overview" else self.made.pop(0))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        self._answer({"request-id": "7"})

    def _answer(self, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def flink() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Flink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Flink.asked, _Flink.jobs, _Flink.made = [], [], []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_stream_is_stopped_and_the_patch_says_where_it_goes_on(flink, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(savepoint, "_LOOK_SECONDS", 0.0)
    _Flink.jobs = [
        {"jid": "old", "name": "stream", "state": "CANCELED"},
        {"jid": "a1", "name": "s", "state": "RUNNING"},
    ]
    location = "s3://my-bucket/flink/savepoints/savepoint-a1-77"
    _Flink.made = [
        {"status": {"id": "IN_PROGRESS"}},
        {"status": {"id": "COMPLETED"}, "operation": {"location": location}},
    ]
    shutil.copytree(HERE, tmp_path / "flink")
    assert savepoint.main(["--flink", flink, "--patch", str(tmp_path / "flink" / "resume" / "savepoint.json")]) == 0
    assert capsys.readouterr().out.split() == [location]
    assert _Flink.asked == [("/jobs/a1/stop", {"drain": False})]
    assert cluster()["flinkConfiguration"]["state.savepoints.dir"]  # where it goes when nothing else is said
    assert (tmp_path / "flink" / "resume" / "savepoint.json").read_text() == savepoint.patch(location)
    assert f"--savepoint_path={location}" in container(str(tmp_path / "flink" / "resume"), "stream")["args"]


def test_what_cannot_be_stopped_is_told(flink, tmp_path, capsys):
    flags = ["--flink", flink, "--patch", str(tmp_path / "p.json")]
    assert savepoint.main(flags) == 1
    assert "there is not one job that runs: none" in capsys.readouterr().err
    _Flink.made = [{"status": {"id": "COMPLETED"}, "operation": {"failure-cause": {"stack-trace": "restarts\nat"}}}]
    assert savepoint.main([*flags, "--job", "b2"]) == 1
    assert "job b2 has no savepoint: restarts" in capsys.readouterr().err
    assert savepoint.main(["--flink", "http://127.0.0.1:9", "--patch", str(tmp_path / "p.json")]) == 1
    assert not (tmp_path / "p.json").exists()
