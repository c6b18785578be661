"""The broker: its jars, its configuration, its start."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from deploy.engines.engine import Engine, cached, missing_tools, run_tool

_POM = Path(__file__).with_name("pom.xml")
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"
_CLUSTER = "bm5zcGFyc2Utc3RyZWFtMQ"
_HEAP_MB = 512


class Kafka(Engine):
    """One node that is broker and controller. A topic is made by writing to it, or by a client's command."""

    PORTS = ("kafka", "controller")
    SIZES = {"partitions": (2, "partitions of a topic that is made by writing to it")}  # noqa: RUF012 (as in Engine)

    @classmethod
    def missing(cls) -> str | None:
        """Java or Maven, where it is not installed."""
        return missing_tools("java", "mvn")

    @classmethod
    def install(cls) -> None:
        """Fetches Kafka's jars, 43 MB."""
        _jars()

    def start(self) -> None:
        """Starts the broker. What it holds stays when it is stopped, in the directory."""
        directory = self.servers.directory
        directory.mkdir(parents=True, exist_ok=True)
        ports = self.ports
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@localhost:{ports['controller']}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{ports['kafka']},CONTROLLER://127.0.0.1:{ports['controller']}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports['kafka']}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": directory / "data",
            "num.partitions": self.sizes["partitions"],
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
        }
        configuration = directory / "server.properties"
        configuration.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        java = ["java", f"-Xmx{_HEAP_MB}m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{_jars()}/*"]
        with self.stopped_on_failure():
            if not (directory / "data").exists():
                command = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER, "--config"]
                run_tool([*command, str(configuration)], directory)
            self.servers.start("kafka", [*java, "kafka.Kafka", configuration])
            self.wait_for_ports("kafka")

    def flags(self) -> list[str]:
        """The beginning of a source: a topic's name is to follow."""
        return [f"kafka://localhost:{self.ports['kafka']}/"]


def _jars() -> Path:
    def fetch(directory: Path) -> None:
        shutil.copy(_POM, directory)
        run_tool(["mvn", "--quiet", "--batch-mode", _PLUGIN, f"-DoutputDirectory={directory}"], directory)

    return cached(f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}", fetch)
