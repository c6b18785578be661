"""Drivers and workers killed at random moments: what is left is no data set, and the same command makes it whole."""

from __future__ import annotations

import contextlib
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

from commands import (
    KILLS,
    checksums,
    command_line,
    digest,
    kill_process,
    pool_workers,
    run_command,
    session_of,
    start_command,
    write_log,
)
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError

#: Seconds after which a command that waits for a killed worker is taken to wait in vain.
PATIENCE = 20.0


class Case(NamedTuple):
    """The flags of a command, and the files that it writes when it is left alone."""

    flags: list[str]
    expected: dict[str, str]


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    where = tmp_path_factory.mktemp("kills")
    write_log(where / "in", 4000, 1000, 600_000, files=6)
    flags = ["--input", str(where / "in"), "--axis", "user", "--num_shards", "12"]
    done = run_command("prepare", *flags, "--output", where / "data")
    assert done.returncode == 0, done.stderr
    return Case(flags, checksums(where / "data"))


def workers_of(engine: str, request: pytest.FixtureRequest, driver: int) -> list[int]:
    """The worker processes that work for a driver."""
    if engine == "in process, multi_processing":  # started by a shell
        children = session_of(driver)
        return [pid for pid in children if command_line(pid).partition("\0")[2].startswith("-m\0apache_beam")]
    fixture = {"job service, EXTERNAL": "job_service", "Prism, EXTERNAL": "prism"}[engine]
    return pool_workers(request.getfixturevalue(fixture).servers)


def kill(
    engine: str, victim: str, request: pytest.FixtureRequest, driver: subprocess.Popen[bytes], draw: random.Random
) -> bool:
    """Kills the driver, or one of its workers as soon as there is one; False: the driver had ended before."""
    while driver.poll() is None:
        pids = [driver.pid] if victim == "driver" else workers_of(engine, request, driver.pid)
        if pids and kill_process(draw.choice(pids)):
            return True
        time.sleep(0.01)
    return False


def end_of(driver: subprocess.Popen[bytes]) -> str:
    """How a command ends of which something was killed; one that waits in vain is ended by Ctrl-C."""
    try:
        code = driver.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGINT)
        driver.wait()
        return "waited in vain"
    return {0: "went on", -signal.SIGKILL: "killed"}.get(code, "failed")


def what_is_left(case: Case, output: Path) -> str:
    """What lies at the output; whatever is not whole is refused."""
    found = checksums(output)
    if found == case.expected:
        return "whole"
    if {name: sum for name, sum in found.items() if name != "_unfinished.json"} == case.expected:
        return "whole but for the marker"
    with pytest.raises(InputError, match=r"is not a data set|no such file"):
        Dataset(str(output))
    return "unfinished" if "_unfinished.json" in found else "nothing"


@pytest.mark.parametrize(
    ("engine_flags", "victim"),
    [
        ("in process", "driver"),
        ("in process, multi_processing", "driver"),
        ("in process, multi_processing", "worker"),
        ("job service, EXTERNAL", "driver"),
        ("job service, EXTERNAL", "worker"),
        ("Prism, EXTERNAL", "driver"),
        ("Prism, EXTERNAL", "worker"),
    ],
    indirect=["engine_flags"],
)
def test_a_killed_run_is_refused_and_runs_again(
    case: Case,
    engine_flags: list[str],
    victim: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    engine = request.node.callspec.params["engine_flags"]
    draw = random.Random(request.node.name)
    flags = [*case.flags, *engine_flags, "--output"]
    started = time.monotonic()
    done = run_command("prepare", *flags, tmp_path / "undisturbed")
    latest = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert checksums(tmp_path / "undisturbed") == case.expected
    outcomes: Counter[str] = Counter()
    runs = 0
    while outcomes.total() < KILLS:
        runs += 1
        assert runs <= 3 * KILLS + 3, f"kills keep missing the run: {outcomes}"
        output, errors = tmp_path / str(runs), tmp_path / f"{runs}.txt"
        with errors.open("wb") as stream:
            driver = start_command("prepare", *flags, output, errors=stream)
        try:
            time.sleep(draw.uniform(0, latest))
            hit = kill(engine, victim, request, driver, draw)
            end, left = end_of(driver), what_is_left(case, output)
            assert (left == "whole") == (end == "went on") or end == "killed", errors.read_text()
            if not hit or (end == "killed" and left == "whole"):
                continue  # too late
            outcomes[f"{end}, {left}"] += 1
            if left != "whole":
                again = run_command("prepare", *flags, output)
                assert again.returncode == 0, again.stderr
                assert checksums(output) == case.expected
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)  # workers outlive their driver, by minutes
    counts = "; ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    record_property("checksum", f"{digest(case.expected)}, {runs} runs: {counts}")
