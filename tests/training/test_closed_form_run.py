"""Runs of a closed form: stopped, resumed, refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from runs import assert_same_run, request
from samples import Trained

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.start import train

LINEAR = recipe("linear")


@pytest.mark.parametrize("polls", range(4))
def test_a_run_that_was_stopped_anywhere_ends_as_if_it_had_not_been(
    trained: Trained, tmp_path: Path, polls: int
) -> None:
    train(request(trained, tmp_path / "whole", recipe=LINEAR))
    left = iter([False] * polls)
    stopped = train(request(trained, tmp_path / "run", recipe=LINEAR), stop=lambda: next(left, True))
    assert stopped == {"stopped": True, "checkpoint": "checkpoints/step-000000000", "epochs": 0, "steps": 0}
    train(request(trained, tmp_path / "run", recipe=LINEAR, resume=True))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 1


def test_a_run_that_has_ended_is_not_solved_again(trained: Trained, tmp_path: Path) -> None:
    train(request(trained, tmp_path, recipe=LINEAR))
    before = (tmp_path / "metrics.jsonl").read_text()
    train(request(trained, tmp_path, recipe=LINEAR, resume=True))
    assert (tmp_path / "metrics.jsonl").read_text() == before
    with pytest.raises(InputError, match=r"l2 was 3\.0, is 2\.0"):
        train(request(trained, tmp_path, recipe=recipe("linear", l2=2.0), resume=True))


def test_the_model_of_a_stopped_run_knows_popularity_alone(trained: Trained, tmp_path: Path) -> None:
    train(request(trained, tmp_path, recipe=LINEAR), stop=lambda: True)
    model = load_model(str(tmp_path)).model
    nothing = SparseRows(torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), 60)
    scores = model.tiles(nothing)(0, 60)
    assert scores.argmax() == model.column_counts.argmax()


def test_a_solution_that_is_not_finite_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        train(request(trained, tmp_path / "run", recipe=recipe("linear", l2=math.inf)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["max_steps", "patience", "checkpoint_steps", "checkpoint_minutes"])
def test_what_is_for_steps_is_refused(trained: Trained, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"no steps but one: leave out `{name.removeprefix('max_')}`"):
        request(trained, tmp_path, recipe=LINEAR, **{name: 1})
