"""A run that begins from an earlier model: what it takes over, what is new, what is refused, and that it goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from by_rounds import train_in_rounds
from runs import assert_same_run, request
from samples import Trained, command

from nnsparse_stream.checkpoints import parts
from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.checkpoints.state import checkpoints_of, read_state, write_state
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives import growth
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.objectives.recipe import Recipe
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.rounds.round_worker import HELD
from nnsparse_stream.training.run import TrainingRequest
from nnsparse_stream.training.start import directory_of, open_run, train
from nnsparse_stream.training.steps import Trainer

_SMALL = {"batch_rows": 32, "epochs": 2}
#: Recipes of each way to train: the optimisers' states, corruption, two layers, presence, features, lists.
RECIPES: dict[str, Recipe] = {
    "cfn": recipe("cfn", hidden=(4,), momentum=0.5, **_SMALL),
    "best-user": recipe("best-user", hidden=(4,), **_SMALL),
    "best-small-user": recipe("best-small-user", hidden=(4,), **_SMALL),
    "deep-user": recipe("deep-user", hidden=(4, 3), **_SMALL),
    "ranking-dense": recipe("ranking-dense", units=4, sampled_columns=20, **_SMALL),
    "ranking-sparse": recipe("ranking-sparse", units=4, sampled_columns=20, **_SMALL),
}
_BEST = RECIPES["best-user"]


class Nights(NamedTuple):
    """Data sets of two nights, and what they were made of: the second has more columns."""

    one: str
    two: str
    logs: tuple[str, str]
    features: str


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    where = tmp_path_factory.mktemp("nights")
    ratings = make_ratings(120, 40, 2_500, 0.5, seed=3).ratings
    # Each other item on the first night: without the vocabulary, the new ones would come among them.
    numbers = pa.array(sorted(set(ratings["item"].to_pylist())))
    early = ratings.filter(pa.compute.is_in(ratings["item"], value_set=numbers[::2]))
    logs = tuple(str(where / f"{name}.parquet") for name in ("one", "two"))
    pq.write_table(early, logs[0])
    pq.write_table(ratings, logs[1])
    features = where / "users.tsv"
    users = sorted(set(ratings["user"].to_pylist()))
    features.write_text("user\tage\n" + "".join(f"{user}\t{number % 5}\n" for number, user in enumerate(users)))
    flags = ["--axis", "user", "--folds", "80,10,10", "--num_shards", "2", "--row_features", str(features)]
    one, two = str(where / "data-one"), str(where / "data-two")
    command("prepare", "--input", logs[0], "--output", one, *flags)
    command("prepare", "--input", logs[1], "--output", two, *flags, "--vocabulary", one)
    return Nights(one, two, logs, str(features))


@pytest.fixture(scope="module")
def yesterday(nights: Nights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs on the first night, by the names of RECIPES."""
    where = tmp_path_factory.mktemp("yesterday")
    for name, plan in RECIPES.items():
        train(ask(nights.one, where / name, plan))
    return {name: where / name for name in RECIPES}


def ask(data: str, output: Path, plan: Recipe = _BEST, **fields: Any) -> TrainingRequest:
    return request(Trained("", data, ""), output, recipe=plan, **fields)


def optimizers(run: Path) -> list[dict[str, torch.Tensor]]:
    last = Path(checkpoints_of(str(run))[-1])
    return [safetensors.torch.load(path.read_bytes()) for path in sorted(last.glob("optimizer-*"))]


@pytest.mark.parametrize("name", RECIPES)
def test_known_columns_keep_weights_and_state_and_new_ones_are_as_a_fresh_model_draws_them(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path, name: str
) -> None:
    earlier = load_model(str(yesterday[name])).model
    # Stopped before its first step: what it begins with is written.
    train(ask(nights.two, tmp_path / "warm", RECIPES[name], init=str(yesterday[name])), stop=lambda: True)
    train(ask(nights.two, tmp_path / "cold", RECIPES[name]), stop=lambda: True)
    warm, cold = (load_model(str(tmp_path / run)).model for run in ("warm", "cold"))
    known = earlier.num_columns
    assert known < warm.num_columns == cold.num_columns
    fresh = cold.state_dict()
    for key, held in warm.state_dict().items():
        before = earlier.state_dict()[key]
        if key == "column_counts":
            assert torch.equal(held, torch.maximum(fresh[key], torch.nn.functional.pad(before, (0, len(held) - known))))
        elif key in warm.column_tensors:
            assert torch.equal(held[:known], before)
            assert torch.equal(held[known:], fresh[key][known:])
        else:
            assert torch.equal(held, before)
    (was,), (now,) = optimizers(yesterday[name]), optimizers(tmp_path / "warm")
    assert was.keys() == now.keys() != set()
    for key, held in now.items():
        assert torch.equal(held[: len(was[key])], was[key])
        assert not held[len(was[key]) :].any()
    assert warm.num_columns - known in {len(held) - len(was[key]) for key, held in now.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_it_predicts_what_the_earlier_model_predicts_before_its_first_step(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path, name: str
) -> None:
    train(ask(nights.two, tmp_path / "warm", RECIPES[name], init=str(yesterday[name])), stop=lambda: True)
    earlier, warm = (load_model(str(run)).model for run in (yesterday[name], tmp_path / "warm"))
    if name == "ranking-sparse":
        # What an entry counts follows its column's training entries, of which there may be more now.
        warm.column_counts[: earlier.num_columns] = earlier.column_counts
    rows = next(Dataset(nights.one).batches())
    narrow = fold_rows(rows, (0,), earlier.num_columns)
    wide = fold_rows(rows, (0,), warm.num_columns)
    torch.testing.assert_close(warm.predict_at(wide, wide), earlier.predict_at(narrow, narrow))


@pytest.mark.parametrize(
    ("name", "warm"), [*((name, False) for name in RECIPES), ("best-user", True), ("ranking-dense", True)]
)
def test_a_run_that_is_stopped_goes_on_to_the_same_bits_wherever_that_was(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path, name: str, warm: bool
) -> None:
    plan = {"plan": RECIPES[name], "init": str(yesterday[name]), "warm": warm}
    train(ask(nights.two, tmp_path / "whole", **plan))
    broken = tmp_path / "broken"
    train(ask(nights.two, broken, **plan), stop=lambda: True)
    for steps in (1, 2, 5):
        train(ask(nights.two, broken, **plan, max_steps=steps, resume=True))
    summary = train(ask(nights.two, broken, **plan, resume=True))
    assert_same_run(broken, tmp_path / "whole")
    before = read_state(str(yesterday[name]))
    assert summary["init"] == json.loads((broken / "run.json").read_text())["init"] == {
        "url": before.url,
        "step": before.state["step"],
        "fingerprint": before.fingerprint,
        "columns": before.config.num_columns,
        "entries": Manifest.read(nights.one).fold_entries["train"],
        "optimizer": not (warm and name == "best-user"),
    }  # fmt: skip
    # Counted anew.
    assert (summary["epochs"], read_state(str(broken)).state["epoch"]) == (2, 2)


def test_it_is_better_after_an_epoch_than_a_new_model(trained: Trained, tmp_path: Path) -> None:
    plan = recipe("cfn", hidden=(16,), epochs=1)
    cold, warm = (
        train(ask(trained.data, tmp_path / name, plan, init=init))["metrics"]["validation"]["rmse"]
        for name, init in (("cold", None), ("warm", trained.run))
    )
    assert warm < cold - 0.01


def test_updates_are_counted_on_and_steps_from_one(nights: Nights, yesterday: dict[str, Path], tmp_path: Path) -> None:
    """Adam's correction of its moments goes by the updates."""
    (before,) = optimizers(yesterday["best-user"])
    train(ask(nights.two, tmp_path / "warm", init=str(yesterday["best-user"])))
    train(ask(nights.two, tmp_path / "cold"))
    (warm,), (cold,) = optimizers(tmp_path / "warm"), optimizers(tmp_path / "cold")
    names = [name for name in warm if name.endswith(".updates")]
    assert names
    for name in names:
        known = len(before[name])
        assert torch.equal(warm[name][:known], before[name] + cold[name][:known])
        assert torch.equal(warm[name][known:], cold[name][known:])
    assert read_state(str(tmp_path / "warm")).state["step"] == read_state(str(tmp_path / "cold")).state["step"]


def test_a_checkpoint_may_be_named_in_place_of_its_run_and_need_not_be_the_last(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    first = checkpoints_of(str(yesterday["cfn"]))[0]
    plan = {"plan": RECIPES["cfn"], "init": first}
    train(ask(nights.two, tmp_path / "run", **plan, max_steps=1))
    state = read_state(str(tmp_path / "run")).state
    assert (state["init"]["url"], state["init"]["step"]) == (first, read_state(first).state["step"])
    train(ask(nights.two, tmp_path / "run", **plan, max_steps=2, resume=True))
    other = checkpoints_of(str(yesterday["cfn"]))[1]
    with pytest.raises(InputError, match=rf"init was {first}, is {other}"):
        train(ask(nights.two, tmp_path / "run", RECIPES["cfn"], init=other, resume=True))
    with pytest.raises(InputError, match=rf"init was {first}, is None"):
        train(ask(nights.two, tmp_path / "run", RECIPES["cfn"], resume=True))


def test_once_it_has_made_a_step_the_earlier_run_may_go(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    old, plan = tmp_path / "old", {"plan": RECIPES["cfn"], "init": str(tmp_path / "old")}
    shutil.copytree(yesterday["cfn"], old)
    train(ask(nights.two, tmp_path / "run", **plan, max_steps=1))
    shutil.rmtree(old)
    train(ask(nights.two, tmp_path / "run", **plan, resume=True))
    train(ask(nights.two, tmp_path / "whole", RECIPES["cfn"], init=str(yesterday["cfn"])))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_from_the_model_again(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    asked = ask(nights.two, tmp_path / "run", RECIPES["cfn"], init=str(yesterday["cfn"]))
    directory_of(asked).begin()
    train(replace(asked, resume=True))
    train(replace(asked, output=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_state_that_began_from_what_cannot_be_is_damaged(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    train(ask(nights.two, tmp_path / "run", RECIPES["cfn"], init=str(yesterday["cfn"])), stop=lambda: True)
    last = read_state(str(tmp_path / "run"))
    for wrong in ({"columns": 1000}, {"entries": -1}, {"step": -1}):
        write_state(last.url, {**last.state, "init": {**last.state["init"], **wrong}})
        with pytest.raises(InputError, match=r"is damaged: init\.columns, init\.entries or init\.step is out of range"):
            read_state(last.url)


def test_the_scale_of_the_weights_stays_and_the_range_of_ratings_grows(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    log, data = tmp_path / "log.parquet", str(tmp_path / "data")
    ratings = pq.read_table(nights.logs[0])
    pq.write_table(ratings.set_column(2, "rating", pa.compute.add(ratings["rating"], 3)), log)
    flags = ["--axis", "user", "--row_features", nights.features, "--vocabulary", nights.one]
    command("prepare", "--input", str(log), "--output", data, *flags)
    train(ask(data, tmp_path / "run", init=str(yesterday["best-user"])), stop=lambda: True)
    was, now = (load_model(str(run)).model.config for run in (yesterday["best-user"], tmp_path / "run"))
    assert (now.mean, now.unit) == (was.mean, was.unit)
    assert was.rating_max < 6 < now.rating_max
    assert now.rating_min == was.rating_min


def test_a_run_that_a_gpu_began_with_larger_minibatches_keeps_them(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "LEAST_BATCHES", 8)
    plan = recipe("best-user", hidden=(4,), batch_rows=4, epochs=1)
    asked = ask(nights.two, tmp_path / "run", plan, init=str(yesterday["best-user"]), warm=True, grow=True)
    larger, usual = (open_run(asked, device, None).request.recipe for device in ("cuda", "cpu"))
    assert isinstance(larger, RatingRecipe)
    assert isinstance(usual, RatingRecipe)
    assert larger.batch_rows > usual.batch_rows != plan.to_json()["batch_rows"]
    assert larger.decay_rows == usual.decay_rows == 4
    train(replace(asked, recipe=larger, warm=False, grow=False), stop=lambda: True)
    for device in ("cuda", "cpu"):
        assert open_run(replace(asked, resume=True), device, None).request.recipe == larger


@pytest.mark.parametrize("changed", [{"optimizer": "sgd"}, {"optimizer": "adam"}])
def test_another_optimiser_begins_anew(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path, changed: dict[str, Any]
) -> None:
    plan = recipe("best-user", hidden=(4,), **_SMALL, **changed)
    train(ask(nights.two, tmp_path / "run", plan, init=str(yesterday["best-user"])), stop=lambda: True)
    assert read_state(str(tmp_path / "run")).state["init"]["optimizer"] is False
    assert optimizers(tmp_path / "run") == [{}]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of 40 columns in several parts."""
    monkeypatch.setattr(parts, "_PART_BYTES", 300)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["best-user", "ranking-sparse"])
@pytest.mark.parametrize("kept", [True, False], ids=["as many workers", "others"])
def test_rounds_go_on_from_rounds_and_each_worker_from_its_own_state(
    nights: Nights, tmp_path: Path, name: str, kept: bool
) -> None:
    plan, two = RECIPES[name], {"workers": 2, "rounds": 2}
    train_in_rounds(ask(nights.one, tmp_path / "old", plan, **two))
    old = read_state(str(tmp_path / "old"))
    assert len(old.model_files) > 1
    shared = two if kept else {"workers": 3, "rounds": 2}
    new = {"plan": plan, "init": str(tmp_path / "old"), **shared}
    train_in_rounds(ask(nights.two, tmp_path / "whole", **new))
    # Stopped before the first round, after it, and after the second; nothing is kept in memory.
    broken = tmp_path / "broken"
    train_in_rounds(ask(nights.two, broken, **new), until=0)
    begun = load_model(str(broken))
    assert begun.state["init"]["optimizer"] is kept
    earlier = load_model(str(tmp_path / "old")).model
    for key in ("encoder", "decoder_bias"):
        if key in begun.model.state_dict():
            assert torch.equal(begun.model.state_dict()[key][: earlier.num_columns], earlier.state_dict()[key])
    if kept:
        for worker, held in enumerate(optimizers(tmp_path / "old")):
            trainer = Trainer(begun, plan, 0, torch.device("cpu"), worker=worker)
            state = next(iter(trainer.optimizer.state.values()))
            assert torch.equal(state["updates"][: len(held["0.updates"])], held["0.updates"])
    for number, until in enumerate((1, 2, None)):
        HELD.forget(str(broken))
        train_in_rounds(ask(nights.two, broken, **new, resume=True), job=f"again {number}", until=until)
    assert_same_run(broken, tmp_path / "whole")


def test_a_run_of_one_worker_and_one_in_rounds_begin_from_each_other(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    rounds = tmp_path / "rounds"
    train_in_rounds(ask(nights.two, rounds, init=str(yesterday["best-user"]), workers=2, rounds=1))
    train(ask(nights.two, tmp_path / "one", init=str(rounds)))
    assert [read_state(str(run)).state["init"]["optimizer"] for run in (rounds, tmp_path / "one")] == [False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plan": recipe("best-user", hidden=(5,))}, r"another one than the recipe makes: `hidden` was 4, is 5; train"),
        ({"plan": recipe("cfn", hidden=(4,))}, r"`activation` was|`mean_damping` was .*, is 0\.0"),
        ({"plan": recipe("best-user", hidden=(4,), unit=9.0)}, r"`unit` was .*, is 9\.0; train with the same, or"),
        ({"plan": RECIPES["ranking-dense"]}, "of the objective rating, and the run trains one of ranking: choose a"),
        ({"plan": recipe("best-user", hidden=(4,), feature_scale=0.0)}, "has not the features of rows that the model"),
        ({"init": "nowhere"}, "nowhere is neither a training run's directory nor a checkpoint's"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(ask(nights.two, tmp_path / "run", **{"init": str(yesterday["best-user"]), **fields}))
    assert not (tmp_path / "run").exists()


def test_a_data_set_of_other_columns_is_refused_and_told_how_to_be_prepared(
    nights: Nights, trained: Trained, item_side: Trained, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    plan = {"plan": RECIPES["cfn"], "init": str(yesterday["cfn"])}
    with pytest.raises(InputError, match=r"does not extend the vocabulary of .* as `vocabulary`, or leave out `init`"):
        train(ask(trained.data, tmp_path / "run", **plan))
    with pytest.raises(InputError, match=r"rows by item, but the model in .* `axis` user"):
        train(ask(item_side.data, tmp_path / "run", **plan))
    # The later one's model knows columns that the earlier data set has not.
    train(ask(nights.two, tmp_path / "late", RECIPES["cfn"]))
    with pytest.raises(InputError, match="does not extend the vocabulary"):
        train(ask(nights.one, tmp_path / "run", RECIPES["cfn"], init=str(tmp_path / "late")))


def test_a_run_does_not_begin_from_what_it_replaces(nights: Nights, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(ask(nights.one, run, RECIPES["cfn"]))
    again = ask(nights.one, run, RECIPES["cfn"], init=f"{run}/", overwrite=True)
    with pytest.raises(InputError, match="holds the model that `init` names; give the run another `output`"):
        train(again)
    assert load_model(str(run)).state["epoch"] == 2


def test_closed_forms_and_pretraining_say_why_they_cannot_begin_from_a_model(nights: Nights, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"objective linear solves for its weights anew, whatever .* leave out `init`"):
        ask(nights.two, tmp_path, recipe("linear"), init="run")
    with pytest.raises(InputError, match="set `pretrain_epochs` to 0"):
        ask(nights.two, tmp_path, recipe("cfn-stacked", hidden=(4, 3)), init="run")


def test_a_model_in_the_midst_of_its_pretraining_is_refused(nights: Nights, tmp_path: Path) -> None:
    sizes = {"hidden": (4, 3), "epochs": 1}
    old = ask(nights.one, tmp_path / "old", recipe("cfn-stacked", pretrain_epochs=1, **sizes))
    new = ask(nights.two, tmp_path / "new", recipe("cfn-stacked", pretrain_epochs=0, **sizes), init=old.output)
    train(old, stop=lambda: True)
    with pytest.raises(InputError, match="was stopped when layer 1 was trained alone; `resume` its run to the end"):
        train(new)
    train(replace(old, resume=True))
    train(new)


def test_another_model_in_the_place_of_the_one_that_was_checked_is_noticed(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(yesterday["cfn"], old)
    asked = ask(nights.two, tmp_path / "run", RECIPES["cfn"], init=str(old))
    train(asked, stop=lambda: True)
    last = read_state(str(old))
    write_state(last.url, {**last.state, "tensors": {**last.state["tensors"], "optimizer": []}})
    with pytest.raises(InputError, match="is another model than the one that the run began from; train anew"):
        train(replace(asked, resume=True))


@pytest.mark.parametrize("schedule", ["constant", "inverse"])
def test_more_epochs_may_be_asked_for_where_an_epoch_does_not_depend_on_how_many_there_are(
    nights: Nights, yesterday: dict[str, Path], tmp_path: Path, schedule: str
) -> None:
    def plan(epochs: int, **fields: Any) -> Recipe:
        common = {"hidden": (4,), "momentum": 0.5, "batch_rows": 32, "schedule": schedule, "learning_rate_decay": 0.1}
        return recipe("cfn", **{**common, **fields}, epochs=epochs)

    init = {"init": str(yesterday["cfn"])}
    train(ask(nights.two, tmp_path / "whole", plan(3), **init))
    train(ask(nights.two, tmp_path / "run", plan(1), **init))
    train(ask(nights.two, tmp_path / "run", plan(3), **init, resume=True))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(InputError, match="has trained 3 epochs already, more than the 2 that are asked for"):
        train(ask(nights.two, tmp_path / "run", plan(2), **init, resume=True))


@pytest.mark.parametrize("fields", [{"schedule": "cosine"}, {"warmup": 0.1}, {"decay_ramp": 0.5}])
def test_where_it_does_more_epochs_are_refused_and_another_run_is_named(
    nights: Nights, tmp_path: Path, fields: dict[str, Any]
) -> None:
    train(ask(nights.one, tmp_path / "run", recipe("cfn", hidden=(4,), epochs=1, **fields)))
    with pytest.raises(InputError, match=r"epochs was 1, is 2; .* begin another run from it, with `init`, in another"):
        train(ask(nights.one, tmp_path / "run", recipe("cfn", hidden=(4,), epochs=2, **fields), resume=True))
