"""What every objective keeps to; a new one is a recipe here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import assert_same_run, request
from samples import Trained, command

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.checkpoints.state import read_state
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.kernels.cpu import threads
from nnsparse_stream.objectives.objectives import OBJECTIVES, objective_of, recipe_from_json
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.recipe import Recipe, StepRecipe
from nnsparse_stream.training.start import train

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
#: Of each objective a recipe that is trained in a moment.
EXAMPLES: dict[str, Recipe] = {
    "rating": recipe("best", hidden=(8,), epochs=3),
    "ranking": recipe("ranking-dense", units=8, sampled_columns=10, hide_ratio=0.2, epochs=3),
    "linear": recipe("linear"),
}


@pytest.fixture(params=OBJECTIVES)
def example(request: pytest.FixtureRequest) -> Recipe:
    found = EXAMPLES[request.param]
    assert found.objective == request.param
    return found


def test_a_recipe_survives_json_and_a_field_too_many_is_refused(example: Recipe) -> None:
    written = json.loads(json.dumps(example.to_json()))
    assert recipe_from_json(written) == example
    with pytest.raises(ValueError, match=r"recipe\.colour is not known"):
        recipe_from_json({**written, "colour": "red"})


def test_a_run_is_judged_learns_and_ends_in_a_model_of_the_data_set(
    example: Recipe, trained: Trained, tmp_path: Path
) -> None:
    train(request(trained, tmp_path / "run", recipe=example))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == example.all_epochs
    assert set(lines[-1]["validation"]) >= set(objective_of(example).metrics)
    assert all(map(math.isfinite, lines[-1]["validation"].values()))
    if isinstance(example, StepRecipe):
        assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"]
    found = load_model(str(tmp_path / "run"))
    assert found.model.column_counts.sum() > 0
    assert found.model.num_columns == len(found.vocabulary)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    example: Recipe, device: str, trained: Trained, tmp_path: Path
) -> None:
    if not isinstance(example, StepRecipe):
        pytest.skip("a closed form is solved at once")
    train(request(trained, tmp_path / "whole", recipe=example, device=device))
    train(request(trained, tmp_path / "run", recipe=example, device=device, max_steps=5))
    train(request(trained, tmp_path / "run", recipe=example, device=device, resume=True))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_does_not_depend_on_its_threads(
    example: Recipe, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled loops run on them, also of so small a data set; torch's operations only of a large one."""
    if not isinstance(example, StepRecipe):
        pytest.skip("torch solves a closed form, in an order that depends on its threads")
    monkeypatch.setattr(threads, "_MANY_PRODUCTS", 0)
    before = torch.get_num_threads()
    for number in (1, 2):
        train(request(trained, tmp_path / str(number), recipe=replace(example, epochs=1), threads=number))
        assert torch.get_num_threads() == number
    torch.set_num_threads(before)
    assert_same_run(tmp_path / "1", tmp_path / "2")


def test_what_is_about_ratings_refuses_interactions_and_everything_else_takes_them(
    example: Recipe, trained: Trained, tmp_path: Path
) -> None:
    data = str(tmp_path / "data")
    command("prepare", "--input", trained.log, "--output", data, "--axis", "user", "--feedback", "implicit")
    asked = request(trained, tmp_path / "run", data=data, recipe=example)
    if "implicit" in example.feedback:
        train(asked)
        return
    with pytest.raises(InputError, match="holds interactions without ratings"):
        train(asked)
    assert not (tmp_path / "run").exists()
    train(request(trained, tmp_path / "ratings", recipe=example))
    with pytest.raises(InputError, match="holds interactions without ratings"):
        read_state(str(tmp_path / "ratings")).check_data(Manifest.read(data), data)
