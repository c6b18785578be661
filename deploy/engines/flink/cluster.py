"""The servers of a Flink cluster, and their configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy.engines.engine import Engine, missing_tools
from deploy.engines.flink.artefacts import flink_jars, runner_jar
from deploy.engines.flink.rest import FlinkRest

_FRAMEWORK_MB = 128  # Flink's own share of a task manager's heap, and of its direct memory
_NETWORK_MB = 128
_METASPACE_MB = 256
_OVERHEAD_MB = 192  # not limited by a flag: stacks, the code cache
_START_SECONDS = 120.0
#: Between the checkpoints of a streaming job: what is read in the meantime is read again after a failure.
_CHECKPOINT_MS = 5_000
#: After which no further bundle is given to a worker of a batch job: a quarter of what the tries of a restart take.
_WORKER_MS = 5_000
_ENDED = ("CANCELED", "FAILED", "FINISHED")
_LOG4J = Path(__file__).with_name("log4j.properties")
# What Flink and its serialisers reach for in the JDK since version 17 closed it.
_OPENS = [
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.lang",
            "java.lang.invoke",
            "java.lang.reflect",
            "java.io",
            "java.net",
            "java.nio",
            "java.text",
            "java.time",
            "java.util",
            "java.util.concurrent",
            "java.util.concurrent.atomic",
            "java.util.concurrent.locks",
            "sun.nio.ch",
        )
    ),
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
]


class FlinkCluster(Engine):
    """Job manager, task managers with one slot each, Beam's job server, and a pool of Python workers."""

    PORTS = ("rpc", "rest", "blobs", "jobs", "artifacts", "expansion", "pool")
    SIZES = {  # noqa: RUF012 (as declared in Engine)
        "task_managers": (2, "task managers, and the parallelism of a job"),
        "memory": (2048, "MiB of each task manager: half of it managed, a quarter heap, a quarter off-heap"),
    }

    @classmethod
    def missing(cls) -> str | None:
        """Java or Maven, where it is not installed."""
        return missing_tools("java", "mvn")

    @classmethod
    def install(cls) -> None:
        """Downloads Flink and builds the runner's jar; three minutes the first time."""
        flink_jars()
        runner_jar()

    def start(self) -> None:
        """Starts what does not run, and waits until every task manager has registered."""
        wanted = self.sizes["task_managers"]
        self.write_configuration()
        with self.stopped_on_failure():
            self._java(
                "job-manager", 768, 256, "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
            )
            for number in range(wanted):
                self._task_manager(f"task-manager-{number}")
            self._job_server()
            self.start_pool()
            self.wait_for_ports("rest", "jobs", "pool")
            what = f"the registration of {wanted} task managers"
            self.servers.wait(what, lambda: self.task_managers() >= wanted, _START_SECONDS)

    def flags(self) -> list[str]:
        """The Beam options with which a pipeline that ends runs here."""
        return [
            *self._common_flags(),
            # A task that waits for a worker that died before its first bundle, three minutes, keeps the connection to
            # it: without an end to its use, all others of the task manager would be given it until no try is left.
            f"--environment_expiration_millis={_WORKER_MS}",
        ]

    def streaming_flags(self) -> list[str]:
        """The Beam options with which a pipeline without end runs here."""
        return [
            *self._common_flags(),
            "--streaming",
            f"--checkpointing_interval={_CHECKPOINT_MS}",
            # How long each step waits for more before it does what it has, and a source before it is asked again.
            "--max_bundle_time_mills=200",
            # Without it a source whose rest is deferred may never be asked again after a checkpoint.
            "--finish_bundle_before_checkpointing",
            "--externalized_checkpoints_enabled",
            "--retain_externalized_checkpoints_on_cancellation",
        ]

    def _common_flags(self) -> list[str]:
        return [
            *super().flags(),
            f"--parallelism={self.sizes['task_managers']}",
            # Long enough that one stage's workers serve the next; shorter than the delay of a restart, which would
            # otherwise be given the connection of a dead worker again.
            "--environment_cache_millis=200",
        ]

    def task_managers(self) -> int:
        """How many task managers the job manager knows to be there."""
        try:
            return int(self.rest("overview")["taskmanagers"])
        except OSError:
            return 0

    def rest(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """What Flink's monitoring interface answers, for instance to "jobs/overview".

        Args:
            path: what is asked.
            body: JSON that is posted, or None.

        Raises:
            OSError: nobody answers.
        """
        return self._flink.ask(path, body)

    def cancel(self, job: str) -> None:
        """Ends a job, and waits until its tasks have ended. A driver that is killed leaves its job running."""
        self._flink.cancel(job)
        self.servers.wait(f"the end of job {job}", lambda: self.rest(f"jobs/{job}")["state"] in _ENDED, _START_SECONDS)

    def stop_with_savepoint(self, job: str) -> str:
        """Stops a streaming job, and returns where it can be taken up: the value of `--savepoint_path`."""
        trigger = self._flink.begin_stop(job, self._kept("savepoints"))
        location: str | None = None

        def is_there() -> bool:
            nonlocal location
            location = self._flink.savepoint(job, trigger)
            return location is not None

        self.servers.wait(f"the savepoint of job {job}", is_there, _START_SECONDS)
        assert location is not None
        return location

    def _kept(self, what: str) -> str:
        return (self.servers.directory / what).as_uri()

    @property
    def _flink(self) -> FlinkRest:
        return FlinkRest(f"http://localhost:{self.ports['rest']}")

    def write_configuration(self) -> None:
        """Writes the configuration of all servers below the directory."""
        ports, directory = self.ports, self.servers.directory
        heap, off_heap, managed = self._memory()
        settings = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": ports["rpc"],
            "jobmanager.bind-host": "127.0.0.1",
            "rest.address": "localhost",
            "rest.bind-address": "127.0.0.1",
            "rest.port": ports["rest"],
            "blob.server.port": ports["blobs"],
            "io.tmp.dirs": str(directory / "tmp"),
            "taskmanager.host": "localhost",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": 1,
            "taskmanager.cpu.cores": 1.0,
            "taskmanager.memory.task.heap.size": f"{heap}m",
            "taskmanager.memory.task.off-heap.size": f"{off_heap}m",
            "taskmanager.memory.managed.size": f"{managed}m",
            "taskmanager.memory.framework.heap.size": f"{_FRAMEWORK_MB}m",
            "taskmanager.memory.framework.off-heap.size": f"{_FRAMEWORK_MB}m",
            "taskmanager.memory.jvm-metaspace.size": f"{_METASPACE_MB}m",
            "taskmanager.memory.jvm-overhead.min": f"{_OVERHEAD_MB}m",
            "taskmanager.memory.jvm-overhead.max": f"{_OVERHEAD_MB}m",
            "taskmanager.memory.network.min": f"{_NETWORK_MB}m",
            "taskmanager.memory.network.max": f"{_NETWORK_MB}m",
            # Each exchange between stages takes so many buffers of 32 KiB; the default of 512 runs out of them.
            "taskmanager.network.sort-shuffle.min-buffers": 128,
            "state.checkpoints.dir": self._kept("checkpoints"),
            "parallelism.default": self.sizes["task_managers"],
            # Beam's classes lie beside Flink's: a job does not load its own copies.
            "classloader.resolve-order": "parent-first",
            "pekko.ask.timeout": "60 s",
            # How old what the monitoring interface says of a job may be; those who kill until it failed see it then.
            "web.refresh-interval": 500,
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 20000,
            # Without it a failed task is the end of the job. Tasks fail again until the job manager has noticed that a
            # task manager is gone, some seconds; errors in the input are retried as well: not too often.
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 10,
            "restart-strategy.fixed-delay.delay": "2 s",
        }
        for name in ("conf", "tmp", "artifacts"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        (directory / "conf" / "config.yaml").write_text(json.dumps(settings, indent=1))

    def _memory(self) -> tuple[int, int, int]:
        """Heap, off-heap and managed memory of a task manager's tasks in MiB."""
        total = self.sizes["memory"]
        return total // 4, total // 4, total // 2

    def _task_manager(self, name: str) -> None:
        heap, off_heap, _ = self._memory()
        direct = off_heap + _FRAMEWORK_MB + _NETWORK_MB
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self._java(name, heap + _FRAMEWORK_MB, direct, main)

    def _job_server(self) -> None:
        arguments = [
            f"--flink-master=localhost:{self.ports['rest']}",
            "--job-host=localhost",
            f"--job-port={self.ports['jobs']}",
            f"--artifact-port={self.ports['artifacts']}",
            f"--expansion-port={self.ports['expansion']}",
            f"--artifacts-dir={self.servers.directory / 'artifacts'}",
        ]
        main = "org.apache.beam.runners.flink.FlinkJobServerDriver"
        self._java("job-server", 512, 256, main, *arguments)

    def _java(self, name: str, heap_mb: int, direct_mb: int, main: str, *arguments: str) -> None:
        """Starts a JVM, unless it runs; Flink's own mains are told where the configuration is."""
        jars = [*sorted(flink_jars().glob("*.jar")), runner_jar()]
        command = [
            "java",
            f"-Xmx{heap_mb}m",
            f"-XX:MaxDirectMemorySize={direct_mb}m",
            f"-XX:MaxMetaspaceSize={_METASPACE_MB}m",
            f"-Dlog4j.configurationFile=file:{_LOG4J}",
            *_OPENS,
            "-cp",
            ":".join(map(str, jars)),
            main,
            *(arguments or ["--configDir", str(self.servers.directory / "conf")]),
        ]
        self.servers.start(name, command)
