"""The command `train --grid`: what it says and leaves, going on, ensembles for a blend, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run
from samples import Trained, contents

from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.train_grid import _threads_of_each
from nnsparse_stream.training.steps import Trainer

SMALL = ("--hidden", "4", "--epochs", "2", "--threads", "1")
SEARCH = {"preset": ["cfn", "best-small-user"], "seed": [0, 1]}
FIRST, SECOND, THIRD, LAST = "cfn-seed_0", "cfn-seed_1", "best-small-user-seed_0", "best-small-user-seed_1"


def train(directory: Path, grid: Any, *flags: str) -> int:
    """Trains a grid to `directory/out`."""
    (directory / "grid.json").write_text(json.dumps(grid))
    return cli.main(["train", "--grid", str(directory / "grid.json"), "--output", str(directory / "out"), *flags])


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed search. Read it, don't change it."""
    directory = tmp_path_factory.mktemp("search")
    assert train(directory, SEARCH, "--data", trained.data, *SMALL) == 0
    return directory / "out"


def test_a_search_names_the_best_and_each_run_is_as_train_makes_it(
    trained: Trained, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # the import fails
    assert train(tmp_path, SEARCH, "--data", trained.data, *SMALL) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("run ")] == [
        f"run {number} of 4: {name}" for number, name in enumerate((FIRST, SECOND, THIRD, LAST), start=1)
    ]
    summary = json.loads((whole / "grid.json").read_text())
    values = {run["name"]: run["value"] for run in summary["runs"]}
    (best,) = summary["best"]
    assert best["value"] == values[best["run"]] == min(values[name] for name in values if best["group"] in name)
    assert f"The best by rmse on {trained.data}: {best['run']}, {best['value']:.4f} (mean of {best['group']}: " in said
    assert said.endswith(f"the models are in {tmp_path / 'out'}/runs\n")
    rows = list(csv.DictReader((whole / "table.csv").read_text().splitlines()))
    assert {row["run"]: float(row["value"]) for row in rows} == values
    for flags in (["--preset", "best-small-user", "--seed", "1"],):
        run = tmp_path / "alone"
        assert cli.main(["train", "--data", trained.data, "--output", str(run), *SMALL, *flags]) == 0
        assert_same_run(whole / "runs" / LAST, run)
    assert values[LAST] == json.loads((run / "run.json").read_text())["metrics"]["validation"]["rmse"]


def test_a_signal_stops_a_search_that_is_resumed_to_the_same_end(
    trained: Trained, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", trained.data, *SMALL]
    steps = json.loads((whole / "runs" / FIRST / "run.json").read_text())["steps"]
    train_batch, calls = Trainer.train_batch, []

    def signalling(self: Trainer, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == steps + 4:  # in the second run
            os.kill(os.getpid(), signal.SIGTERM)
        return train_batch(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_batch", signalling)
        assert train(tmp_path, SEARCH, *flags) == 143
    out = tmp_path / "out"
    said = capsys.readouterr().out
    assert said.endswith(f"stopped; what is trained is in {out}; --resume goes on from there\n")
    assert f"run 3 of 4: {THIRD}" not in said
    assert not (out / "grid.json").exists()
    assert train(tmp_path, SEARCH, *flags) == 2
    assert "holds a grid that did not finish; pass --resume to go on, or --overwrite" in capsys.readouterr().err
    before = contents(str(out / "runs" / FIRST))
    # A longer grid is a search that goes on, too.
    assert train(tmp_path, {**SEARCH, "seed": [0, 1, 2]}, *flags, "--resume") == 0
    assert f"{out / 'runs' / FIRST} has ended; there is nothing to resume" in capsys.readouterr().out
    assert contents(str(out / "runs" / FIRST)) == before
    for name in (FIRST, SECOND, THIRD, LAST):
        assert_same_run(out / "runs" / name, whole / "runs" / name)
    assert len(json.loads((out / "grid.json").read_text())["runs"]) == 6
    assert train(tmp_path, SEARCH, *flags) == 2
    assert "out exists already; pass --overwrite" in capsys.readouterr().err
    assert train(tmp_path, {"seed": [5]}, *flags, "--steps", "1", "--overwrite") == 0
    assert [path.name for path in (out / "runs").iterdir()] == ["seed_5"]


def test_models_of_both_axes_are_made_for_a_blend(
    trained: Trained, item_side: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = [{"data": item_side.data, "hidden": 8}, {"data": trained.data, "hidden": 16}]
    names = [f"{Path(side.data).parent.name}_data-hidden_{units}" for side, units in ((item_side, 8), (trained, 16))]
    flags = ["--epochs", "1", "--threads", "1", "--direct_num_workers=1"]  # a flag of Beam's
    assert train(tmp_path, grid, *flags) == 0
    assert "No run is named the best: no two have figures of one metric on one data set." in capsys.readouterr().out
    models = ",".join(str(tmp_path / "out" / "runs" / name) for name in names)
    data = f"{item_side.data},{trained.data}"
    assert cli.main(["blend", "--model", models, "--data", data, "--output", str(tmp_path / "blend")]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--model", str(tmp_path / "out"), "--data", trained.data]) == 2
    assert f"holds a grid of many runs: name one of them, {tmp_path / 'out'}/runs/NAME" in capsys.readouterr().err


def test_where_all_fail_the_command_does(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too large a model is a failure of its run, too."""
    train_batch, calls = Trainer.train_batch, []

    def too_large(self: Trainer, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("no room")
        return train_batch(self, *args)

    monkeypatch.setattr(Trainer, "train_batch", too_large)
    flags = ["--data", trained.data, "--learning_rate", "1e38", "--epochs", "1"]
    assert train(tmp_path, {"hidden": [4, 5]}, *flags) == 2
    said = capsys.readouterr()
    assert "\nfailed: MemoryError: no room\n" in said.out
    assert "\nhidden_5 failed: training diverged in epoch 1" in said.out
    assert "train: all 2 runs have failed, hidden_4 since: MemoryError: no room\n" in said.err
    # It can be tried again.
    monkeypatch.undo()
    assert train(tmp_path, {"hidden": [4, 5]}, *flags, "--learning_rate", "0.06", "--resume") == 0
    assert {run["failed"] for run in json.loads((tmp_path / "out" / "grid.json").read_text())["runs"]} == {None}


def test_where_nothing_is_trained_nothing_stays(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_batch", interrupted)
    assert train(tmp_path, SEARCH, "--data", trained.data) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("grid", "flags", "said"),
    [
        ({"sed": 1}, [], 'grid.json: there is no field "sed"'),
        ([{}, {"preset": "nothing"}], [], "grid.json, entry 2, run nothing: there is no preset 'nothing'"),
        ({"preset": ["cfn", "linear"]}, ["--epochs", "1"], "run linear: the objective of preset 'linear', linear, has "
         "no --epochs; leave it out"),
        ({"preset": ["cfn", "linear"]}, ["--patience", "1"], "run linear: the objective linear has no steps but one: "),
        ({"preset": "linear", "validation_metric": "rmse"}, [], "run run: rmse: the model's scores order lists"),
        ({"warmup": [0, 1]}, [], "grid.json, run warmup_1: warmup is 1.0, not in [0, 1)"),
        ({}, ["--data", "nowhere"], "grid.json, run run: nowhere is not a data set"),
        ({}, ["--resume"], "out holds no grid to resume; train without --resume"),
        ({}, ["--workers", "2"], "--grid: one worker trains a run"),
        ({}, ["--accelerator", "type:x"], "--accelerator is for the workers of an engine"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_anything_is(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], grid: Any, flags: list[str], said: str
) -> None:
    assert train(tmp_path, grid, "--data", trained.data, *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_data_set_is_named_by_the_grid_or_by_a_flag(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, [{"data": trained.data}, {}]) == 2
    assert "grid.json, entry 2, run run: --data is missing" in capsys.readouterr().err
    assert cli.main(["train", "--output", str(tmp_path / "out")]) == 2
    assert "train: --data is missing: the data set to train on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "runs", "threads"),
    [
        ([], 4, None),
        (["--direct_running_mode=in_memory"], 4, None),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=2"], 4, 4),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=3"], 4, 2),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=3"], 2, 4),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=20"], 40, 1),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=0"], 40, 1),
        (["--runner=PrismRunner"], 4, None),
    ],
)
def test_processes_of_one_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], runs: int, threads: int | None
) -> None:
    monkeypatch.setattr("nnsparse_stream.data.threads.usable_cores", lambda: 8)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert _threads_of_each(flags, runs) == threads
