"""Flink with parts of it killed in the middle of a job: it recovers by itself, and the data set is the same."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from commands import KILLS, checksums, digest, kill_process, pool_workers, run_command, start_command, write_log
from deploy.engines.flink.cluster import FlinkCluster


class Job(NamedTuple):
    """What prepares a data set that keeps Flink busy for seconds, the flags of it, and its files."""

    cluster: FlinkCluster
    flags: list[str]
    expected: dict[str, str]
    seconds: float

    def start(self, output: Path) -> tuple[subprocess.Popen[bytes], str]:
        """Starts the driver, and returns it with the id of its job when that runs."""
        before = set(self.jobs())
        driver = start_command("prepare", *self.flags, "--output", output, *self.cluster.flags())
        while driver.poll() is None:
            started = [job for job, state in self.jobs().items() if job not in before and state == "RUNNING"]
            if started:
                return driver, started[0]
            time.sleep(0.05)
        raise AssertionError(driver.communicate()[1].decode())

    def jobs(self) -> dict[str, str]:
        """The state of each job that the cluster knows."""
        found: Any = self.cluster.rest("jobs")["jobs"]
        return {job["id"]: job["status"] for job in found}

    def recoveries(self, job: str) -> int:
        """How many failures a job has gone through."""
        history: Any = self.cluster.rest(f"jobs/{job}/exceptions")["exceptionHistory"]
        return len(history["entries"])


@pytest.fixture(scope="module")
def job(flink: FlinkCluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    where = tmp_path_factory.mktemp("job")
    write_log(where / "in", 4000, 1000, 600_000, files=6)
    flags = ["--input", str(where / "in"), "--axis", "user", "--num_shards", "24"]
    done = run_command("prepare", *flags, "--output", where / "data")
    assert done.returncode == 0, done.stderr
    unkilled = Job(flink, flags, checksums(where / "data"), 0.0)
    driver, _ = unkilled.start(where / "unkilled")
    started = time.monotonic()
    message = driver.communicate()[1].decode()
    assert driver.returncode == 0, message
    assert checksums(where / "unkilled") == unkilled.expected
    return unkilled._replace(seconds=time.monotonic() - started)


def kill_a_task_manager(job: Job, name: str, generator: random.Random) -> None:
    """Kills one while the job runs, and replaces it some time later."""
    if job.jobs()[name] == "RUNNING":
        job.cluster.servers.kill(generator.choice(["task-manager-0", "task-manager-1"]))
        time.sleep(generator.uniform(0, 3))
        job.cluster.start()


def kill_a_worker(job: Job, name: str, generator: random.Random) -> None:
    """Kills Python workers until a task has failed: there may be none for a moment, or one that has no more to do."""
    while job.jobs()[name] == "RUNNING" and not job.recoveries(name):
        alive = pool_workers(job.cluster.servers)
        if alive:
            kill_process(generator.choice(alive))
        time.sleep(0.5)


@pytest.mark.parametrize("kill", [kill_a_task_manager, kill_a_worker])
def test_a_job_survives(
    job: Job,
    kill: Callable[[Job, str, random.Random], None],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    generator = random.Random(kill.__name__)
    started, killed, recovered, runs = time.monotonic(), 0, 0, 0
    latest = 0.8 * job.seconds
    while killed < KILLS:
        runs += 1
        assert runs <= 3 * KILLS + 3, "kills keep missing the job"
        output = tmp_path / str(runs)
        driver, name = job.start(output)
        time.sleep(generator.uniform(0, latest))
        kill(job, name, generator)
        message = driver.communicate()[1].decode()
        assert driver.returncode == 0, message
        assert checksums(output) == job.expected
        failures = job.recoveries(name)
        killed += failures > 0  # a kill that no task noticed is none
        latest *= 1.0 if failures else 0.7  # the job may have become faster
        recovered += failures
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    record_property("checksum", f"{digest(job.expected)}, {killed} kills of {runs} hit, {recovered} failures recovered")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_was_ended_runs_again(
    job: Job, sign: signal.Signals, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Its job goes on without it. It is cancelled, first where the driver was killed, or left to itself; the next run
    minds neither.
    """
    generator = random.Random(int(sign))
    started, ended, runs = time.monotonic(), 0, 0
    latest = 0.6 * job.seconds
    while ended < (KILLS + 1) // 2:
        runs += 1
        assert runs <= 3 * KILLS + 3, "signals keep missing the job"
        output = tmp_path / str(runs)
        driver, name = job.start(output)
        time.sleep(generator.uniform(0, latest))
        is_running = job.jobs()[name] == "RUNNING"
        driver.send_signal(sign)
        message = driver.communicate()[1].decode()
        unfinished = (output / "_unfinished.json").exists()
        if not is_running or ((output / "manifest.json").exists() and not unfinished):  # it was faster
            latest *= 0.7
            continue
        ended += 1
        assert unfinished
        if sign == signal.SIGINT:
            assert message.splitlines()[-1] == "nnsparse-stream prepare: interrupted"
            assert "end it on the engine" in message
        if ended % 2 == (sign == signal.SIGKILL) and job.jobs()[name] == "RUNNING":
            job.cluster.cancel(name)
        again = run_command("prepare", *job.flags, "--output", output, *job.cluster.flags())
        assert again.returncode == 0, again.stderr
        assert checksums(output) == job.expected
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    record_property("checksum", f"{digest(job.expected)}, {ended} of {runs} signals hit")
