"""Training in rounds on each engine: equal bytes, also where workers, task managers and drivers are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from runs import assert_same_run

from commands import KILLS, checksums, digest, kill_process, pool_workers, run_command, start_command, write_log
from deploy.engines.engine import Engine
from deploy.engines.flink.cluster import FlinkCluster
from deploy.engines.prism import Prism
from nnsparse_stream.checkpoints.state import checkpoints_of


class Case(NamedTuple):
    """The flags of a run of four rounds, and where it lies when it is left alone, in one process."""

    flags: list[str]
    expected: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    where = tmp_path_factory.mktemp("rounds")
    write_log(where / "in", 400, 60, 12_000, files=1)
    data, expected = str(where / "data"), where / "run"
    flags = ["--data", data, "--preset", "best-user", "--hidden", "8", "--epochs", "2", "--threads", "1", "--workers",
             "3", "--rounds", "2"]  # fmt: skip
    for done in (
        run_command("prepare", "--input", where / "in", "--output", data, "--axis", "user", "--folds", "80,10,10"),
        run_command("train", *flags, "--output", expected, "--runner=DirectRunner"),
    ):
        assert done.returncode == 0, done.stderr
    return Case(flags, expected)


def tensors(run: Path) -> dict[str, str]:
    """Checksums of the files of weights and of optimisers' states."""
    return {name: held for name, held in checksums(run / "checkpoints").items() if name.endswith(".safetensors")}


def assert_equal(run: Path, case: Case, record_property: Callable[[str, Any], None]) -> None:
    assert tensors(run) == tensors(case.expected)
    assert_same_run(run, case.expected)
    assert not (run / "_rounds").exists()
    record_property("checksum", digest(tensors(run)))


@pytest.mark.parametrize("engine_flags", ["Prism, EXTERNAL"], indirect=True)
def test_same_bytes(
    case: Case, engine_flags: list[str], tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    run = tmp_path / "run"
    started = time.monotonic()
    done = run_command("train", *case.flags, "--output", run, *engine_flags)
    assert done.returncode == 0, done.stderr
    record_property("seconds", round(time.monotonic() - started, 1))
    assert_equal(run, case, record_property)


def wait_for(run: Path, rounds: int, driver: subprocess.Popen[bytes]) -> bool:
    """Waits until so many rounds are whole; False where the run has ended before."""
    while not (checkpoints_of(str(run)) and int(checkpoints_of(str(run))[-1][-9:]) >= rounds):
        if driver.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def test_flink_goes_on_by_itself(
    case: Case, flink: FlinkCluster, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Workers and task managers are killed, each some time after a round; the bytes are those of one process."""
    generator = random.Random(1)
    killed: Counter[str] = Counter()
    runs, started = 0, time.monotonic()
    while killed.total() < KILLS:
        runs += 1
        assert runs <= 3 * KILLS + 3, f"kills keep missing the run: {killed}"
        run = tmp_path / f"run-{runs}"
        driver = start_command("train", *case.flags, "--output", run, *flink.flags())
        for number in (0, 1, 2):
            if killed.total() >= KILLS or not wait_for(run, number, driver):
                break
            time.sleep(generator.uniform(0, 1))
            if generator.random() < 0.5:
                for pid in pool_workers(flink.servers)[:1]:
                    killed["worker"] += kill_process(pid) and not (run / "run.json").exists()
            else:
                flink.servers.kill(generator.choice(["task-manager-0", "task-manager-1"]))
                killed["task manager"] += not (run / "run.json").exists()
                flink.start()
        message = driver.communicate()[1].decode()
        assert driver.returncode == 0, message
        assert_equal(run, case, record_property)
    record_kills(record_property, case, runs, killed, started)


@pytest.mark.skipif(KILLS <= 2, reason="longer runs make it; tests/rounds/test_round_kills.py has it by functions")
def test_a_job_that_goes_on_on_flink_leaves_its_run_to_another_driver(
    case: Case, flink: FlinkCluster, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """A driver is killed, or stopped, and its run is taken up elsewhere while its job still trains."""
    generator = random.Random(3)
    killed: Counter[str] = Counter()
    started = time.monotonic()
    for attempt in range(KILLS):
        run = tmp_path / f"run-{attempt}"
        driver = start_command("train", *case.flags, "--output", run, *flink.flags())
        assert wait_for(run, generator.randrange(4), driver)
        time.sleep(generator.uniform(0, 0.5))
        sign = generator.choice([signal.SIGKILL, signal.SIGTERM])
        driver.send_signal(sign)
        driver.communicate()
        killed[sign.name] += not (run / "run.json").exists()
        resumed = run_command("train", *case.flags, "--output", run, "--resume", "--runner=DirectRunner")
        # The job may end the run while the command that takes it up begins.
        assert resumed.returncode == 0 or "has ended; there is nothing to resume" in resumed.stderr, resumed.stderr
        assert_equal(run, case, record_property)
    record_kills(record_property, case, KILLS, killed, started)


def test_a_run_whose_driver_or_worker_dies_goes_on_elsewhere(
    case: Case, prism: Prism, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Begun on Prism, which makes nothing again, and by processes of this machine; ended in one process."""
    generator = random.Random(2)
    killed: Counter[str] = Counter()
    places: list[Engine | None] = [prism, None]
    runs, started = max(KILLS, 2), time.monotonic()
    for attempt in range(runs):
        run, place = tmp_path / f"run-{attempt}", places[attempt % 2]
        driver = start_command("train", *case.flags, "--output", run, *(place.flags() if place else ()))
        assert wait_for(run, generator.randrange(4), driver)
        time.sleep(generator.uniform(0, 0.5))
        victims = pool_workers(place.servers)[:1] if place else []
        for pid in victims:
            killed["worker"] += kill_process(pid) and not (run / "run.json").exists()
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        killed["driver"] += not (run / "run.json").exists()
        resumed = run_command("train", *case.flags, "--output", run, "--resume", "--runner=DirectRunner")
        assert resumed.returncode == 0, resumed.stderr
        assert_equal(run, case, record_property)
    record_kills(record_property, case, runs, killed, started)


def record_kills(
    record_property: Callable[[str, Any], None], case: Case, runs: int, killed: Counter[str], started: float
) -> None:
    told = ", ".join(f"{count} of a {victim}" for victim, count in sorted(killed.items()))
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    record_property("checksum", f"{digest(tensors(case.expected))}, {runs} runs, kills: {told}")
