"""The programs that start engines: servers are started once, remembered, watched and ended; artefacts are made once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from deploy.engines.engine import Engine, cached, main, missing_tools, run_tool
from deploy.engines.flink.cluster import FlinkCluster
from deploy.engines.servers import EngineError, Servers, free_ports, listens

SLEEP = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]
LISTEN = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"


class OneServer(Engine):
    """Listens on its two ports by two processes."""

    PORTS = ("jobs", "pool")
    SIZES = {"size": (3, "of nothing")}  # noqa: RUF012

    @classmethod
    def missing(cls) -> str | None:
        return None

    @classmethod
    def install(cls) -> None: ...

    def start(self) -> None:
        with self.stopped_on_failure():
            for purpose, port in self.ports.items():
                self.servers.start(purpose, [sys.executable, "-c", LISTEN, str(port)])
            self.wait_for_ports(*self.PORTS)


def test_a_server_is_started_once_remembered_and_ended(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    servers.start("one", SLEEP)
    running = servers.running()
    try:
        servers.start("one", SLEEP)
        assert Servers(tmp_path).running() == running
        servers.kill("one")
        assert servers.running() == {}
        servers.start("one", SLEEP)
        assert servers.running() != running
    finally:
        Servers(tmp_path).stop()
    assert servers.running() == {}
    Servers(tmp_path).stop()


def test_a_process_id_that_was_given_to_somebody_else_is_not_ours(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    (tmp_path / "servers.json").write_text(json.dumps({"one": [os.getpid(), "1"]}))
    assert servers.running() == {}
    servers.stop()  # and we are still there


def test_a_server_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    servers.start("one", [sys.executable, "-c", "print('out of memory')"])
    with pytest.raises(EngineError, match=r"(?s)^one has ended, and its port is not there.*one\.log\nout of memory"):
        servers.wait("its port", lambda: False, 250)
    servers.stop()


def test_a_server_that_takes_too_long_is_named(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    servers.start("one", SLEEP)
    try:
        servers.wait("its first line", lambda: "begun" in servers.tail("one"), 250)
        with pytest.raises(EngineError, match=r"(?s)^its port is not there after 0 s.*begun"):
            servers.wait("its port", lambda: False, 0)
    finally:
        servers.stop()


def test_free_ports_are_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert not any(listens(port) for port in ports)
    assert max(ports) < 32_768


def test_the_commands_of_an_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--directory", str(tmp_path / "engine")]
    assert main(OneServer, None, ["status", *where]) == 1
    assert main(OneServer, None, ["flags", *where]) == 1
    assert "start it first" in capsys.readouterr().err
    try:
        assert main(OneServer, None, ["start", *where, "--size", "5"]) == 0
        flags = capsys.readouterr().out
        served = OneServer(tmp_path / "engine")
        assert served.sizes == {"size": 5}
        assert f"--job_endpoint=localhost:{served.ports['jobs']} " in flags
        assert f"--environment_config=localhost:{served.ports['pool']}\n" in flags
        assert main(OneServer, None, ["start", *where]) == 0
        assert capsys.readouterr().out == flags
        assert main(OneServer, None, ["status", *where]) == 0
        served.servers.kill("pool")
        assert main(OneServer, None, ["status", *where]) == 1
        served.start()
        assert main(OneServer, None, ["status", *where]) == 0
    finally:
        assert main(OneServer, None, ["stop", *where]) == 0
    assert main(OneServer, None, ["status", *where]) == 1
    assert not any(listens(port) for port in served.ports.values())


def test_ports_in_succession(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.engines.engine.listens", lambda port: False)
    assert FlinkCluster(tmp_path, first_port=9000).ports["pool"] == 9006


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    first = OneServer(tmp_path / "first")
    first.start()
    port = first.ports["jobs"]
    try:
        with pytest.raises(EngineError, match=f"somebody listens on port {port} already"):
            OneServer(tmp_path / "second", first_port=port).start()
    finally:
        first.stop()


def test_an_engine_that_fails_to_start_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneServer, "PORTS", ("jobs", "pool", "no-such-port"))
    monkeypatch.setattr(OneServer, "wait_for_ports", lambda self, *purposes: run_tool(["no-such-tool"], tmp_path))
    served = OneServer(tmp_path / "engine")
    with pytest.raises(EngineError):
        served.start()
    assert served.servers.running() == {}


def test_an_artefact_is_made_once_and_never_by_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNSPARSE_STREAM_ENGINES", str(tmp_path / "cache"))

    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise EngineError("no network")

    with pytest.raises(EngineError, match="no network"):
        cached("thing-1", fail)
    assert not (tmp_path / "cache" / "thing-1").exists()
    made = cached("thing-1", lambda directory: (directory / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]
    assert cached("thing-1", fail) == made


def test_a_tool_that_fails_or_is_missing_is_explained(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"(?s)failed with code 3:\nno such module"):
        run_tool([sys.executable, "-c", "print('no such module'); raise SystemExit(3)"], tmp_path)
    with pytest.raises(EngineError, match="no-such-tool is not installed"):
        run_tool(["no-such-tool", "build"], tmp_path)
    assert missing_tools("no-such-tool", "no-other-tool") == "no no-such-tool and no no-other-tool on this machine"
    assert missing_tools() is None


def test_memory_of_a_task_manager(tmp_path: Path) -> None:
    cluster = FlinkCluster(tmp_path, task_managers=3, memory=4096)
    cluster.write_configuration()
    settings = json.loads((tmp_path / "conf" / "config.yaml").read_text())
    assert settings["taskmanager.memory.managed.size"] == "2048m"
    assert settings["taskmanager.memory.task.heap.size"] == "1024m"
    assert settings["taskmanager.memory.task.off-heap.size"] == "1024m"
    assert settings["parallelism.default"] == 3
    assert "--parallelism=3" in cluster.flags()
    loopback = {value for name, value in settings.items() if name.endswith(("bind-host", "bind-address"))}
    assert loopback == {"127.0.0.1"}
