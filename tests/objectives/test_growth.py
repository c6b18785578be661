"""Recipes that grow with the data set: which sizes they get, and which runs get them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import request
from samples import Trained

from nnsparse_stream.checkpoints.state import checkpoints_of, read_state
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.objectives.growth import LEAST_BATCHES, MOST_ROWS, grown, recipe_of_run
from nnsparse_stream.objectives.presets import PRESETS, recipe
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.storage import files as storage
from nnsparse_stream.training.progress import Progress, recipe_line
from nnsparse_stream.training.start import train


@pytest.fixture(scope="module")
def sized(trained: Trained):
    manifest = Manifest.read(trained.data)

    def of(rows: int, entries: int) -> Manifest:
        return replace(manifest, num_rows=rows, fold_entries={"train": rows * entries})

    return of


@pytest.mark.parametrize("preset", PRESETS)
def test_a_grown_recipe_has_the_most_rows_that_are_allowed_and_keeps_all_that_need_not_follow(preset, sized):
    usual = PRESETS[preset]
    for rows in (0, 1, 6_040, 20_000, 138_493, 10_000_000):
        larger = grown(usual, sized(rows, 100))
        if not isinstance(usual, StepRecipe):
            assert larger is usual
            continue
        factor = larger.batch_rows / usual.batch_rows
        assert factor in [2**k for k in range(12)]
        fits = [
            size
            for size in (usual.batch_rows * 2**k for k in range(12))
            if size <= MOST_ROWS and size * LEAST_BATCHES <= rows
        ]
        assert larger.batch_rows == max(fits, default=usual.batch_rows)
        rate = factor if usual.optimizer == "sgd" else math.sqrt(factor)
        assert larger.learning_rate == pytest.approx(usual.learning_rate * rate)
        followed = {"batch_rows": usual.batch_rows, "learning_rate": usual.learning_rate}
        if factor > 1 and usual.objective == "rating":
            assert larger.decay_rows == usual.batch_rows
            followed["decay_rows"] = 0
        if usual.objective == "ranking":
            assert larger.sampled_columns == round(usual.sampled_columns * math.sqrt(factor))
            followed["sampled_columns"] = usual.sampled_columns
        assert replace(larger, **followed) == usual


@pytest.mark.parametrize(
    ("preset", "rows"),
    [("deep", 3_706), ("best", 3_706), ("cfn", 3_706), ("best-user", 6_040), ("ranking-dense", 6_040)],
)
def test_movielens_1m_is_small(preset, rows, sized):
    assert grown(PRESETS[preset], sized(rows, 900_000 // rows)) is PRESETS[preset]


def test_a_mean_minibatch_fits_into_batch_entries(sized):
    assert grown(recipe("best"), sized(10_000_000, 1_000)).batch_rows == 512
    assert grown(recipe("best", batch_entries=10), sized(10_000_000, 1_000)) == recipe("best", batch_entries=10)


def test_the_device_decides_of_a_new_run_and_the_run_itself_of_one_that_goes_on(sized):
    usual, manifest = recipe("best"), sized(1_000_000, 100)
    larger = grown(usual, manifest)
    assert recipe_of_run(usual, manifest, "cuda", None) == larger
    assert recipe_of_run(usual, manifest, "cpu", None) is usual
    for device in ("cuda", "cpu"):
        assert recipe_of_run(usual, manifest, device, larger.to_json()) == larger
        assert recipe_of_run(usual, manifest, device, usual.to_json()) is usual


def test_a_run_begun_with_a_grown_recipe_goes_on_with_it_on_the_cpu(trained: Trained, tmp_path: Path):
    usual = recipe("best", hidden=(4,), batch_rows=2, epochs=1)
    larger = grown(usual, Manifest.read(trained.data))
    assert larger.batch_rows == 4
    stopped = request(trained, tmp_path / "run", recipe=larger, max_steps=5)
    train(stopped)
    told: list[str] = []

    class Told(Progress):
        def begun(self, *what) -> None:
            told.append(recipe_line(*what))

    train(replace(stopped, recipe=usual, preset="best", grow=True, max_steps=6, resume=True), progress=Told())
    stored = storage.read_json(str(tmp_path / "run" / "run.json"), "a run")
    assert stored["recipe"] == larger.to_json()
    assert told == [
        "recipe best with learning_rate 0.000707107, batch_rows 4, epochs 1, hidden [4], decay_rows 2; on cpu"
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_grows_where_it_may(trained: Trained, tmp_path: Path):
    usual = recipe("best", hidden=(4,), batch_rows=2, epochs=1)
    for grow, rows in ((True, 4), (False, 2)):
        run = str(tmp_path / str(grow))
        train(request(trained, run, recipe=usual, device="cuda", grow=grow, max_steps=1))
        assert read_state(checkpoints_of(run)[-1]).state["recipe"]["batch_rows"] == rows
