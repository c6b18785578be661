"""How a run trains that begins from an earlier model: what follows from the growth of the log, and for which runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import request
from samples import Trained, command

from nnsparse_stream.checkpoints.state import read_state
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import PRESETS, recipe
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.objectives.warm_recipe import entries_of, warm_recipe
from nnsparse_stream.training.start import train

_PLAN = recipe("best-user", hidden=(4,), batch_rows=30, epochs=1)


@pytest.fixture(scope="module")
def manifest(trained: Trained) -> Manifest:
    return replace(Manifest.read(trained.data), fold_entries={"train": 1000, "validation": 0, "test": 0})


@pytest.fixture(scope="module")
def begun(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run, and another one's beginning."""
    run = str(tmp_path_factory.mktemp("begun") / "run")
    train(request(trained, run, recipe=_PLAN))
    return run


@pytest.mark.parametrize("preset", [name for name, plan in PRESETS.items() if isinstance(plan, RatingRecipe)])
@pytest.mark.parametrize(
    ("entries", "rate", "rows"),
    [(1000, 0.0, 1.0), (1200, 0.0, 1.0), (900, 0.5, 0.9), (500, 2.5, 0.5), (100, 2.5, 0.5), (0, 2.5, 0.5)],
)
def test_the_more_of_the_log_is_new_the_larger_and_the_more_are_the_steps(
    manifest: Manifest, preset: str, entries: int, rate: float, rows: float
) -> None:
    usual = PRESETS[preset]
    assert isinstance(usual, RatingRecipe)
    more = rate * 128 / usual.hidden[0]
    warm = warm_recipe(usual, manifest, entries)
    assert isinstance(warm, RatingRecipe)
    assert warm.learning_rate == pytest.approx((1 + more) * usual.learning_rate)
    assert warm.batch_rows == round(rows * usual.batch_rows)
    assert warm.decay_rows == usual.batch_rows
    assert warm.momentum == (0.5 if usual.momentum else 0.0)
    followed = ("learning_rate", "batch_rows", "decay_rows", "momentum")
    assert replace(warm, **{name: getattr(usual, name) for name in followed}) == usual


def test_fewer_units_than_were_measured_need_no_longer_steps(manifest: Manifest) -> None:
    few, measured = (warm_recipe(recipe("best-user", hidden=(units,)), manifest, 500) for units in (8, 128))
    assert isinstance(few, RatingRecipe)
    assert replace(few, hidden=(128,)) == measured


@pytest.mark.parametrize(("entries", "rate"), [(1000, 0.1), (900, 0.2), (500, 0.6), (0, 0.6)])
def test_lists_of_products_are_trained_on_at_a_lower_rate(manifest: Manifest, entries: int, rate: float) -> None:
    usual = PRESETS["ranking-dense"]
    assert isinstance(usual, RankingRecipe)
    warm = warm_recipe(usual, manifest, entries)
    assert isinstance(warm, RankingRecipe)
    assert warm.learning_rate == pytest.approx(rate * usual.learning_rate)
    assert replace(warm, learning_rate=usual.learning_rate) == usual


@pytest.mark.parametrize("preset", ["ranking-sparse", "linear"])
def test_other_recipes_stay_as_they_are(manifest: Manifest, preset: str) -> None:
    assert warm_recipe(PRESETS[preset], manifest, 500) is PRESETS[preset]


@pytest.mark.parametrize("preset", ["best-user", "ranking-dense"])
def test_steps_of_several_workers_are_as_long_as_they_were(manifest: Manifest, preset: str) -> None:
    assert warm_recipe(PRESETS[preset], manifest, 500, workers=2) is PRESETS[preset]


def test_what_is_decayed_as_in_minibatches_of_another_size_still_is(manifest: Manifest) -> None:
    larger = warm_recipe(recipe("best-user", batch_rows=512, decay_rows=128), manifest, 500)
    assert isinstance(larger, RatingRecipe)
    assert (larger.batch_rows, larger.decay_rows) == (256, 128)


def test_entries_are_the_most_that_an_epoch_of_a_chain_has_had() -> None:
    history = [{"ratings": 7}, {"ratings": 9}]
    assert entries_of({"history": []}) == 0
    assert entries_of({"history": history}) == 9
    assert entries_of({"history": history, "init": {"entries": 11}}) == 11
    assert entries_of({"history": [], "init": {"entries": 11}}) == 11


def test_a_run_takes_it_where_it_begins_from_a_model_and_keeps_it_where_it_goes_on(
    trained: Trained, begun: str, tmp_path: Path
) -> None:
    """Of a data set that has not grown, momentum and `decay_rows` tell."""

    def held(**fields: Any) -> tuple[float, int, bool | None]:
        run = tmp_path / "run"
        train(request(trained, run, recipe=_PLAN, **{"overwrite": True, **fields}))
        state = read_state(str(run)).state
        return state["recipe"]["momentum"], state["recipe"]["decay_rows"], state.get("init", {}).get("optimizer")

    assert held(warm=True) == (0.9, 0, None)
    assert held(init=begun) == (0.9, 0, True)
    assert held(init=begun, warm=True, max_steps=1) == (0.5, 30, False)
    with pytest.raises(InputError, match=r"momentum was 0\.5, is 0\.9"):
        held(init=begun, resume=True, overwrite=False)
    assert held(init=begun, warm=True, resume=True, overwrite=False) == (0.5, 30, False)


@pytest.mark.parametrize("flag", ["batch_rows", "learning_rate", "momentum"])
def test_flags_of_steps_are_meant_as_they_stand(trained: Trained, begun: str, tmp_path: Path, flag: str) -> None:
    usual = _PLAN.to_json()
    flags = ["--data", trained.data, "--preset", "best-user", "--hidden", "4", "--epochs", "1", "--init", begun]

    def held(name: str, *more: str) -> dict[str, Any]:
        command("train", "--output", str(tmp_path / name), *flags, *more)
        found: dict[str, Any] = read_state(str(tmp_path / name)).state["recipe"]
        return found

    assert held("given", f"--{flag}", str(usual[flag]))["decay_rows"] == 0
    if flag == "momentum":
        assert held("not given")["momentum"] == 0.5
