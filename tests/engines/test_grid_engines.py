"""A grid on every engine: its runs are those that one process makes; and with workers that are killed."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from runs import assert_same_run

from commands import digest, kill_process, pool_workers, run_command, start_command, write_log
from deploy.engines.flink.cluster import FlinkCluster
from nnsparse_stream.checkpoints.state import checkpoints_of

#: The second of them diverges.
NAMES = ("learning_rate_0.06-seed_0", "learning_rate_1e38-seed_0", "learning_rate_0.06-seed_1")


class Case(NamedTuple):
    """The flags of a grid, and where it lies when it is trained in one process."""

    flags: list[str]
    expected: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    where = tmp_path_factory.mktemp("grid")
    write_log(where / "in", 400, 60, 12_000, files=1)
    entries = [{"learning_rate": [0.06, 1e38], "seed": 0}, {"learning_rate": 0.06, "seed": 1}]
    (where / "grid.json").write_text(json.dumps(entries))
    data, expected = str(where / "data"), where / "expected"
    flags = ["--data", data, "--grid", str(where / "grid.json"), "--hidden", "8", "--epochs", "30", "--threads", "1"]
    flags += ["--checkpoint_steps", "3", "--keep_checkpoints", "100000"]
    for done in (
        run_command("prepare", "--input", where / "in", "--output", data, "--axis", "user", "--folds", "80,10,10"),
        run_command("train", *flags, "--output", expected),
    ):
        assert done.returncode == 0, done.stderr
    return Case(flags, expected)


def table(grid: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((grid / "table.csv").read_text().splitlines()))
    return [{name: held for name, held in row.items() if name != "seconds"} for row in rows]


def assert_same_grid(grid: Path, case: Case) -> None:
    assert table(grid) == table(case.expected)
    for name in NAMES[::2]:
        assert_same_run(grid / "runs" / name, case.expected / "runs" / name)


@pytest.mark.parametrize("engine_flags", ["in process, multi_processing", "Prism, EXTERNAL"], indirect=True)
def test_a_grid(
    case: Case, engine_flags: list[str], tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    started = time.monotonic()
    done = run_command("train", *case.flags, "--output", tmp_path / "grid", *engine_flags)
    assert done.returncode == 0, done.stderr
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    assert f"\n{NAMES[1]} failed: training diverged in epoch 1" in done.stdout
    assert_same_grid(tmp_path / "grid", case)
    record_property("checksum", digest({row["run"]: row["value"] for row in table(tmp_path / "grid")}))


def test_flink_goes_on_with_each_run(case: Case, flink: FlinkCluster, tmp_path: Path) -> None:
    grid = tmp_path / "grid"
    driver = start_command("train", *case.flags, "--output", grid, *flink.flags())
    runs = [str(grid / "runs" / name) for name in NAMES[::2]]
    while max(len(checkpoints_of(run)) for run in runs) < 5:
        assert driver.poll() is None, driver.communicate()[1].decode()
        time.sleep(0.05)
    for pid in pool_workers(flink.servers):
        kill_process(pid)
    before = {url: Path(url, "state.json").stat().st_mtime_ns for run in runs for url in checkpoints_of(run)[:-1]}
    assert not (grid / "grid.json").exists()
    message = driver.communicate()[1].decode()
    assert driver.returncode == 0, message
    assert {url: Path(url, "state.json").stat().st_mtime_ns for url in before} == before
    assert_same_grid(grid, case)
