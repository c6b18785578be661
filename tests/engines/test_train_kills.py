"""Training whose worker is killed: what was trained stays, and the run ends with the model of an undisturbed one."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from runs import assert_same_run

from commands import kill_process, pool_workers, run_command, run_commands, start_command, write_log
from deploy.engines.engine import Engine
from deploy.engines.flink.cluster import FlinkCluster
from deploy.engines.prism import Prism
from nnsparse_stream.checkpoints.state import checkpoints_of

#: Seconds after which a command that waits for a killed worker is taken to wait in vain.
PATIENCE = 20.0


class Case(NamedTuple):
    """The flags of a run, and where it lies when it is left alone."""

    flags: list[str]
    expected: Path


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    where = tmp_path_factory.mktemp("train")
    write_log(where / "in", 400, 60, 12_000, files=1)
    data, expected = str(where / "data"), where / "run"
    flags = ["--data", data, "--hidden", "8", "--epochs", "60", "--threads", "1", "--checkpoint_steps", "3",
             "--keep_checkpoints", "100000"]  # fmt: skip
    prepare = ["prepare", "--input", where / "in", "--output", data, "--axis", "user", "--folds", "80,10,10"]
    run_commands([prepare, ["train", *flags, "--output", expected]])
    return Case(flags, expected)


def start_and_kill(case: Case, engine: Engine, run: Path) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """Trains over an earlier run, and kills the workers when there are checkpoints; returns the times of these."""
    done = run_command("train", *case.flags, "--output", run, "--steps", "1")
    assert done.returncode == 0, done.stderr
    driver = start_command("train", *case.flags, "--output", run, "--overwrite", *engine.flags())
    while not (run / "_unfinished.json").exists() or len(checkpoints_of(str(run))) < 5:
        assert driver.poll() is None, driver.communicate()[1].decode()
        time.sleep(0.05)
    for pid in pool_workers(engine.servers):
        kill_process(pid)
    assert not (run / "run.json").exists(), "the run ended before its worker was killed"
    return driver, times_of(run)


def times_of(run: Path) -> dict[str, int]:
    """When each checkpoint was written."""
    return {url: Path(url, "state.json").stat().st_mtime_ns for url in checkpoints_of(str(run))}


def assert_went_on(case: Case, run: Path, before: dict[str, int]) -> None:
    after = times_of(run)
    # The latest may be written once more, by the end of an epoch that it is the last step of.
    kept = sorted(before)[:-1]
    assert [after[url] for url in kept] == [before[url] for url in kept], (
        "what was trained before the kill was trained again"
    )
    assert_same_run(run, case.expected)


def test_flink_goes_on_by_itself(
    case: Case, flink: FlinkCluster, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    run = tmp_path / "run"
    driver, before = start_and_kill(case, flink, run)
    message = driver.communicate()[1].decode()
    assert driver.returncode == 0, message
    assert_went_on(case, run, before)
    record_property("checksum", f"{len(before)} of {len(times_of(run))} checkpoints before the kill")


def test_prism_fails_and_the_run_is_resumed_there(
    case: Case, prism: Prism, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Prism makes nothing again; the command fails, or waits in vain and is interrupted."""
    run = tmp_path / "run"
    driver, before = start_and_kill(case, prism, run)
    try:
        assert driver.wait(PATIENCE) == 1
        end = "failed"
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGINT)
        assert driver.wait() == 1
        end = "waited in vain"
    refused = run_command("train", *case.flags, "--output", run, *prism.flags())
    assert refused.returncode == 2
    assert "holds a run that did not finish; pass --resume to go on, or --overwrite" in refused.stderr
    again = run_command("train", *case.flags, "--output", run, "--resume", *prism.flags())
    assert again.returncode == 0, again.stderr
    assert_went_on(case, run, before)
    record_property("checksum", f"{end}; {len(before)} of {len(times_of(run))} checkpoints before the kill")
