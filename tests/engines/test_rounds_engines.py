"""Training in rounds on each engine: equal bytes, also where workers, task managers and drivers are killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from runs import assert_same_run

from commands import KILLS, checksums, digest, pool_workers, run_command, start_command, write_log
from deploy.engines.engine import Engine
from deploy.engines.flink.cluster import FlinkCluster
from deploy.engines.prism import Prism
from nnsparse_stream.training.state import checkpoints_of


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
    generator, kills = random.Random(1), itertools.count()
    for attempt in range(KILLS):
        run = tmp_path / f"run-{attempt}"
        driver = start_command("train", *case.flags, "--output", run, *flink.flags())
        for number in (0, 1, 2):
            if next(kills) >= KILLS or not wait_for(run, number, driver):
                break
            time.sleep(generator.uniform(0, 1))
            if generator.random() < 0.5:
                for pid in pool_workers(flink.servers)[:1]:
                    os.kill(pid, signal.SIGKILL)
            else:
                flink.servers.kill(generator.choice(["task-manager-0", "task-manager-1"]))
                flink.start()
        message = driver.communicate()[1].decode()
        assert driver.returncode == 0, message
        assert_equal(run, case, record_property)
        if next(kills) >= KILLS:
            break


def test_a_run_whose_driver_or_worker_dies_goes_on_elsewhere(
    case: Case, prism: Prism, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Begun on Prism, which makes nothing again, and by processes of this machine; ended in one process."""
    generator = random.Random(2)
    places: list[Engine | None] = [prism, None]
    for attempt in range(max(KILLS, 2)):
        run, place = tmp_path / f"run-{attempt}", places[attempt % 2]
        driver = start_command("train", *case.flags, "--output", run, *(place.flags() if place else ()))
        assert wait_for(run, generator.randrange(3), driver)
        time.sleep(generator.uniform(0, 0.5))
        victims = pool_workers(place.servers)[:1] if place else []
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        resumed = run_command("train", *case.flags, "--output", run, "--resume", "--runner=DirectRunner")
        assert resumed.returncode == 0, resumed.stderr
        assert_equal(run, case, record_property)
