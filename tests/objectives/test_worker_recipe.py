"""How workers of a run in rounds train: what follows from their number, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnsparse_stream.objectives.presets import PRESETS, recipe
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.objectives.worker_recipe import worker_recipe

_BY_STEPS = {name: plan for name, plan in PRESETS.items() if isinstance(plan, StepRecipe)}


@pytest.mark.parametrize("preset", _BY_STEPS)
def test_one_worker_trains_by_the_recipe_itself(preset: str) -> None:
    assert worker_recipe(_BY_STEPS[preset], 1) == _BY_STEPS[preset]


@pytest.mark.parametrize("preset", [name for name in _BY_STEPS if name != "ranking-dense"])
def test_steps_are_longer_and_averages_reach_back_as_much_of_an_epoch(preset: str) -> None:
    plan = _BY_STEPS[preset]
    ours = worker_recipe(plan, 4)
    assert ours.learning_rate == 4 * plan.learning_rate
    assert ours.momentum == pytest.approx(plan.momentum**4)
    assert ours.second_moment == pytest.approx(plan.second_moment**4)
    changed = {"learning_rate": 0.0, "momentum": 0.0, "second_moment": 0.0}
    assert replace(ours, **changed) == replace(plan, **changed)


def test_where_vectors_may_grow_minibatches_are_smaller_instead() -> None:
    plan = recipe("ranking-dense")
    assert isinstance(plan, StepRecipe)
    assert worker_recipe(plan, 4) == replace(plan, batch_rows=128)
    assert worker_recipe(plan, 10**9).batch_rows == 1
