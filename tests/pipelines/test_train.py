"""The command `train`: what a signal makes of it at whatever moment, what it shows, and that it needs no Beam."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run
from samples import Trained

from nnsparse_stream.checkpoints.state import checkpoints_of
from nnsparse_stream.pipelines import cli, train_progress
from nnsparse_stream.pipelines.train_progress import Shown
from nnsparse_stream.training.run import Run
from nnsparse_stream.training.steps import Trainer

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def flags_of(trained: Trained, output: Path, *flags: str) -> list[str]:
    common = ["--preset", "cfn-stacked", "--hidden", "8,4", "--pretrain_epochs", "1", "--epochs", "2", "--threads", "1"]
    return ["train", "--data", trained.data, "--output", str(output), *common, *flags]


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run: two layers pretrained for an epoch each, then two epochs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(flags_of(trained, run)) == 0
    return run


def signalling(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *numbers: signal.Signals) -> None:
    """Lets a function send this process signals when it is called for the so-manieth time, from 1."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


@SIGNALS
@pytest.mark.parametrize(
    ("owner", "name", "call", "epochs"),
    [
        ("nnsparse_stream.training.start.Dataset", "check_files", 1, 0),  # before the first step
        (Trainer, "train_batch", 2, 0),  # in pretraining
        (Run, "_judge", 2, 2),  # at its end
        (Run, "_validate", 1, 3),  # in a validation that is not the last
    ],
)
def test_a_signal_stops_a_run_that_is_resumed_to_the_same_end(
    trained: Trained,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    owner: Any,
    name: str,
    call: int,
    epochs: int,
) -> None:
    run = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        if isinstance(owner, str):
            from nnsparse_stream.data.dataset import Dataset as owner  # noqa: N813
        signalling(patch, owner, name, call, number)
        assert cli.main(flags_of(trained, run)) == 143
    assert signal.getsignal(number) is before
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"stopped; a checkpoint is in {run}; --resume goes on from there"
    assert len(said) == epochs + 3  # the recipe, and where the data stays
    assert not (run / "run.json").exists()
    assert cli.main(flags_of(trained, run, "--resume")) == 0
    assert_same_run(run, whole)


@SIGNALS
def test_a_run_that_is_over_when_the_signal_is_heard_has_ended_well(
    trained: Trained,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """In the last validation, or at the last of the steps that were asked for."""
    run, short = tmp_path / "run", tmp_path / "short"
    with monkeypatch.context() as patch:
        signalling(patch, Run, "_validate", 2, number)
        assert cli.main(flags_of(trained, run)) == 0
    with monkeypatch.context() as patch:
        signalling(patch, Trainer, "train_batch", 5, number)
        assert cli.main(flags_of(trained, short, "--steps", "5")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"the model is in {short}"
    assert (short / "run.json").exists()
    assert_same_run(run, whole)
    assert cli.main(flags_of(trained, run, "--resume")) == 0
    assert f"{run} has ended; there is nothing to resume" in capsys.readouterr().out


@SIGNALS
@pytest.mark.parametrize("flags", [[], ["--checkpoint_steps", "2"]])
def test_a_second_signal_ends_a_run_at_once(
    trained: Trained,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    flags: list[str],
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signalling(patch, Trainer, "train_batch", 4, number, number)
        assert cli.main(flags_of(trained, run, *flags)) == 1
    assert capsys.readouterr().err == "nnsparse-stream train: interrupted\n"
    assert run.exists() == bool(flags), "without a checkpoint there is nothing to resume"
    if flags:
        assert [Path(url).name for url in checkpoints_of(str(run))] == ["step-000000002"]
        assert cli.main(flags_of(trained, run, "--resume")) == 0
        assert_same_run(run, whole)


class Terminal:
    """Text that says that it goes to a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def test_the_bar_is_shown_on_a_terminal_only(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*flags_of(trained, tmp_path / "run"), "--overwrite"]
    assert cli.main(flags) == 0
    said = capsys.readouterr()
    assert said.err == ""
    recipe, stays, *epochs, _ = said.out.splitlines()
    assert recipe == "recipe cfn-stacked with epochs 2, hidden [8, 4], pretrain_epochs 1; on cpu"
    assert stays.startswith("training fold of 0 MB: stays in memory, of which ")
    assert [line[:11] for line in epochs] == [f"epoch   {epoch}/4" for epoch in (1, 2, 3, 4)]
    for stream in (Terminal(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert cli.main(flags) == 0
        if stream:
            assert "epoch 4: " in stream.text
            assert "ratings/s, loss " in stream.text


@pytest.mark.parametrize(("seconds", "asked"), [(0.0, 3), (3600.0, 1)])
def test_figures_are_asked_for_where_the_bar_is_drawn_only(
    monkeypatch: pytest.MonkeyPatch, seconds: float, asked: int
) -> None:
    """They are read from the device, which waits for all steps."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(train_progress, "_INTERVAL", seconds)
    shown, calls = Shown("run"), []

    def figures() -> dict[str, float]:
        calls.append(1)
        return {"loss": len(calls) / 4, "fill": 1.0}

    shown.epoch_begun(1, 0, 30)
    for batch in (1, 2, 3):
        shown.batch_trained({"entries": 10 * batch, "seconds": 1.0, "waited": 0.0}, figures)
    shown.close()
    assert len(calls) == asked
    assert [f"loss {step / 4:.4f}" in sys.stderr.text for step in (1, 2, 3)] == [step <= asked for step in (1, 2, 3)]


def test_training_here_needs_no_beam(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # the import fails
    assert cli.main(flags_of(trained, tmp_path / "run", "--steps", "1")) == 0


def test_auto_says_what_it_took_and_run_json_keeps_it(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--hidden", "4", "--epochs", "1", "--threads", "1"]
    assert cli.main(["train", "--data", trained.data, "--output", str(run), "--preset", "auto", *flags]) == 0
    assert "preset auto: best-small-user\n" in capsys.readouterr().out
    assert json.loads((run / "run.json").read_text())["preset"] == "best-small-user"


@pytest.mark.parametrize(
    ("flags", "grows"),
    [
        ([], True),
        (["--epochs", "2"], True),
        (["--batch_rows", "128"], False),
        (["--batch_entries", "1000"], False),
        (["--learning_rate", "1e-3"], False),
    ],
)
def test_a_recipe_grows_unless_a_flag_says_a_size_or_the_rate(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], grows: bool
) -> None:
    asked = []
    monkeypatch.setattr("nnsparse_stream.training.start.train", lambda request, **_: asked.append(request) or {})
    assert cli.main(["train", "--data", trained.data, "--output", str(tmp_path / "run"), *flags]) == 0
    assert [request.grow for request in asked] == [grows]
