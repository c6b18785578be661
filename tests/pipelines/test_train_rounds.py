"""`train --workers K`: what it prints, writes and refuses, in this process and by processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run
from samples import Trained

from nnsparse_stream.checkpoints.state import checkpoints_of
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.pipelines import cli, local_workers, train_rounds
from nnsparse_stream.training.run import TrainingRequest
from nnsparse_stream.transforms.model_worker import ModelWorker
from nnsparse_stream.transforms.train_rounds import TrainRounds

_SMALL = ("--hidden", "6", "--epochs", "2", "--threads", "1")
_HERE = "--runner=DirectRunner"


def test_more_rounds_than_a_pipeline_takes_are_refused() -> None:
    request = TrainingRequest("data", "run", recipe("best"), workers=2)
    with pytest.raises(InputError, match="65 rounds are more than the 64 that a pipeline may have"):
        TrainRounds(request, ModelWorker(), "one", range(1, 66))


def train(trained: Trained, run: Path, *flags: str) -> int:
    return cli.main(["train", "--data", trained.data, "--output", str(run), *_SMALL, *flags])


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three workers in one process, in one job."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(trained, run, "--workers", "3", "--rounds", "2", "--tensorboard", _HERE) == 0
    return run


def test_each_round_and_each_epoch_has_a_line(
    trained: Trained, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(trained, run, "--workers", "3", "--rounds", "2", "--rounds_per_job", "3", _HERE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "recipe cfn with epochs 2, hidden [6]; on 3 workers, rounds an epoch: 2"
    assert [" ".join(line.split()[:2]) for line in lines[1:-1]] == [
        "round 1", "round 2", "epoch 1/2", "round 3", "round 4", "epoch 2/2",
    ]  # fmt: skip
    told = r"round   1 of epoch 1  loss \d+\.\d{4}  rmse \d\.\d{4}  \d+\.\d s  [\d,]+ ratings/s  "
    assert re.fullmatch(told + r"\(worker [012] [\d.]+ s, median [\d.]+ s, merging [\d.]+ s, 0 MB\)", lines[1])
    assert lines[-1] == f"the model is in {run}"
    # Two jobs make what one makes.
    assert_same_run(run, whole)


def test_report_and_events_have_the_rounds(whole: Path) -> None:
    report = (whole / "report.html").read_text()
    assert "Rounds" in report
    assert "Ratings a second of all workers by round" in report
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("round/ratings_per_second")] == [1, 2, 3, 4]
    assert [scalar.step for scalar in events.Scalars("validation/rmse")] == [2, 4]
    ended = json.loads((whole / "run.json").read_text())
    assert (ended["epochs"], ended["steps"], ended["device"]) == (2, 4, "cpu")


def test_an_ended_run_has_nothing_to_resume_but_more_epochs(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, flags = tmp_path / "run", ("--workers", "2", "--rounds", "1", "--resume", _HERE)
    assert train(trained, run, *flags[:-2], _HERE) == 0
    assert train(trained, run, *flags) == 0
    assert f"{run} has ended; there is nothing to resume" in capsys.readouterr().out
    assert train(trained, run, "--epochs", "3", *flags) == 0
    told = capsys.readouterr().out
    assert "epoch   3/3" in told
    assert "round   2" not in told
    assert json.loads((run / "run.json").read_text())["epochs"] == 3


def test_processes_of_this_machine_write_the_same_bytes_and_end_at_a_signal(
    trained: Trained, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "nnsparse_stream.pipelines", "train", "--data", trained.data, "--output", str(run),
               *_SMALL, "--workers", "3", "--rounds", "2"]  # fmt: skip
    # A job for each round: its processes begin anew, and the signal comes before the run is over.
    of_each_round = [*command, "--rounds_per_job", "1"]
    driver = subprocess.Popen(of_each_round, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(checkpoints_of(str(run))) < 2 and driver.poll() is None:
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    told, errors = driver.communicate()
    assert driver.returncode == cli.STOPPED, errors
    assert f"stopped; the rounds that are whole are in {run}; --resume goes on from there" in told
    assert not (run / "run.json").exists()
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert_same_run(run, whole)


def _kill_workers(run: Path, again: bool, ended: threading.Event) -> None:
    """Kills the worker processes, when the run has begun; and those that follow them."""
    killed = 0
    while not ended.wait(0.02) and (again or not killed):
        for pid in local_workers.workers() if checkpoints_of(str(run)) else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1


@pytest.mark.parametrize("again", [False, True])
def test_a_process_that_is_killed_costs_its_round(
    trained: Trained,
    whole: Path,
    tmp_path: Path,
    again: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Beam itself would wait for it without end."""
    run, ended = tmp_path / "run", threading.Event()
    monkeypatch.setattr(train_rounds, "_TRIES", 2)
    killing = threading.Thread(target=_kill_workers, args=(run, again, ended))
    killing.start()
    processes = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    code = train(trained, run, "--workers", "3", "--rounds", "2", "--rounds_per_job", "1", *processes)
    ended.set()
    killing.join()
    told = capfd.readouterr()
    lost = "a worker process was ended by signal 9 before its work was done"
    assert "Traceback" not in told.err
    if again:
        assert code == 1
        assert f"{lost}, 2 times in a row; what is whole is kept: run again with --resume" in told.err
        assert train(trained, run, "--workers", "3", "--rounds", "2", "--resume", _HERE) == 0
    else:
        assert code == 0, told.err
        assert re.search(f"{lost}; round [1-4] begins anew", told.out)
    assert_same_run(run, whole)


def test_a_signal_ends_a_run_in_this_process(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In which Beam makes an error of its own of whatever a step raises."""
    run = tmp_path / "run"

    def end() -> None:
        while len(checkpoints_of(str(run))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    flags = ("--epochs", "1000", "--workers", "2", "--rounds", "1", "--rounds_per_job", "2")
    code = train(trained, run, *flags, _HERE)
    thread.join()
    told = capsys.readouterr()
    assert code == cli.STOPPED, told.err
    assert told.out.splitlines()[-1].startswith("stopped; the rounds that are whole are in ")
    assert not told.err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"max_steps": 5},
            "a run in rounds ends with an epoch, and has a checkpoint after each round: leave out `steps`",
        ),
        ({"checkpoint_steps": 5}, "leave out `checkpoint_steps`"),
        ({"checkpoint_minutes": 5.0}, "leave out `checkpoint_minutes`"),
        ({"recipe": recipe("linear")}, "the objective linear has no steps but one: leave out `workers`"),
    ],
)
def test_what_a_run_in_rounds_cannot_do_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        TrainingRequest(**{"data": "data", "output": "run", "recipe": recipe("best"), "workers": 2, **fields})
