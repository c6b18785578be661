"""A run of steps: when it reads from the device what they have added up there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run, request
from samples import Trained

from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.training import step_run
from nnsparse_stream.training.progress import Progress
from nnsparse_stream.training.start import train
from nnsparse_stream.training.step_run import StepRun


def test_losses_are_read_every_so_many_steps_and_sum_up_to_the_same_however_often(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a checkpoint, too, and where progress is to be told of."""

    class Telling(Progress):
        def batch_trained(self, sums: dict[str, Any], figures: Callable[[], dict[str, float]]) -> None:
            figures()

    original, readings = StepRun._read, []

    def reading(run: StepRun) -> None:
        readings.append(run.checkpoint.state["step"])
        original(run)

    monkeypatch.setattr(StepRun, "_read", reading)
    plan = recipe("cfn", hidden=(8,), batch_rows=20, epochs=2)
    steps = {}
    for name, every, checkpoint_steps in (("rare", 7, 9), ("each", 1, None), ("told", 1000, None)):
        readings.clear()
        monkeypatch.setattr(step_run, "READ_STEPS", every)
        asked = request(trained, tmp_path / name, recipe=plan, checkpoint_steps=checkpoint_steps)
        train(asked, progress=Telling() if name == "told" else None)
        steps[name] = sorted({*readings})
        assert_same_run(tmp_path / name, tmp_path / "rare")
    (epoch, end) = (json.loads(line)["step"] for line in (tmp_path / "rare" / "metrics.jsonl").read_text().splitlines())
    assert steps["rare"] == [step for step in range(1, end + 1) if not step % 7 or not step % 9 or step in (epoch, end)]
    assert steps["each"] == steps["told"] == [*range(1, end + 1)]


def test_a_run_that_was_killed_after_the_last_step_of_an_epoch_knows_its_learning_rate(
    trained: Trained, tmp_path: Path
) -> None:
    plan = recipe("cfn", hidden=(8,), batch_rows=20, epochs=2)
    train(request(trained, tmp_path / "whole", recipe=plan))
    asked = request(trained, tmp_path / "killed", recipe=plan, checkpoint_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepRun, "_judge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(asked)
    train(replace(asked, resume=True))
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
