"""`blend`: what it learns, and that its output is a model like any other."""

import json
import shutil

import numpy as np
import pytest
from samples import Trained, command, contents
from scores import score, write_pairs

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.checkpoints.state import read_state
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines import cli
from nnsparse_stream.scoring.blend import Blend, named_models
from nnsparse_stream.scoring.blending import join_predictions, predict_fold


def flags(*models):
    return [*("--model", ",".join(model.run for model in models), "--data", ",".join(model.data for model in models))]


@pytest.fixture(scope="module")
def blend(trained, item_side, tmp_path_factory):
    """Of users and items; read it, don't change it."""
    output = str(tmp_path_factory.mktemp("blend") / "blend")
    command("blend", *flags(trained, item_side), "--output", output)
    return output


def blocks_of(models, fold):
    """What each model predicts for a fold alone."""
    for position, model in enumerate(models):
        held = load_model(model.run)
        for batch in Dataset(model.data).batches():
            yield predict_fold(held.model, held.vocabulary, held.state["axis"], batch, fold, position)


def joined(models, fold):
    """Predictions (models, ratings) and ratings of a fold, in one order of the ratings."""
    found = join_predictions(list(blocks_of(models, fold)), len(models))
    return found.predictions.astype(float), found.ratings


def rmse(predictions, ratings):
    return np.sqrt(np.mean((predictions - ratings) ** 2, axis=-1))


def test_a_blend_is_fitted_to_the_validation_fold(trained, item_side, blend):
    held = Blend.read(blend)
    predictions, ratings = joined([trained, item_side], 1)
    assert held.fit.ratings == len(ratings) == Dataset(trained.data).manifest.fold_entries["validation"]
    assert held.fit.members == pytest.approx(rmse(predictions, ratings))
    assert held.fit.rmse == pytest.approx(
        rmse(held.combination.weights @ predictions + held.combination.intercept, ratings)
    )
    assert held.fit.rmse < min(held.fit.members)
    # No step away from the fit makes its error smaller by more than the ridge allows.
    free, *_ = np.linalg.lstsq(np.vstack([predictions, np.ones(len(ratings))]).T, ratings, rcond=None)
    assert held.fit.rmse == pytest.approx(rmse(free[:2] @ predictions + free[2], ratings), abs=2e-4)


def test_evaluate_takes_a_blend(trained, item_side, blend, tmp_path):
    figures = tmp_path / "figures.json"
    command("evaluate", "--model", blend, "--json", str(figures))
    predictions, ratings = joined([trained, item_side], 2)
    combination = Blend.read(blend).combination
    expected = (combination.weights @ predictions + combination.intercept).clip(*combination.bounds)
    found = json.loads(figures.read_text())
    assert found["rmse"] == pytest.approx(rmse(expected, ratings))
    assert found["mae"] == pytest.approx(np.abs(expected - ratings).mean())


def test_score_takes_a_blend(trained, item_side, blend, tmp_path):
    combination = Blend.read(blend).combination
    by_hand = [*flags(trained, item_side), "--weights", ",".join(map(str, combination.weights))]
    lists, mean = (score(tmp_path, *what, "--top_k", "4") for what in (["--model", blend], by_hand))
    assert lists.drop_columns("score").equals(mean.drop_columns("score"))
    expected = combination.intercept + sum(combination.weights) * mean["score"].to_numpy()
    assert lists["score"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert len(json.loads((tmp_path / "scores" / "_manifest.json").read_text())["models"]) == 2


def test_score_predicts_pairs_by_a_blend(trained, item_side, blend, tmp_path):
    predicted = {}
    for block in blocks_of([trained, item_side], 1):
        for row in block.to_pylist():
            predicted.setdefault((row["user"], row["item"]), []).append(row["prediction"])
    pairs = write_pairs(tmp_path / "pairs.csv", predicted)
    table = score(tmp_path, "--model", blend, "--pairs", pairs, "--history_folds", "train")
    combination = Blend.read(blend).combination
    names = ("row_id", "column_id", "score")
    assert len(table) == len(predicted)
    for user, item, value in zip(*(table[name].to_pylist() for name in names), strict=True):
        assert value == pytest.approx(combination.of(np.array(predicted[user, item])), abs=1e-5)


def test_a_blend_stands_alone_and_its_members_too(trained, item_side, blend, tmp_path):
    files, expected = contents(blend), {}
    for at, model in enumerate((trained, item_side)):
        run = contents(model.run)
        step = f"checkpoints/step-{read_state(model.run).state['step']:09d}"
        for name in ("columns/part-00000-of-00001.parquet", f"{step}/model-00000-of-00001.safetensors"):
            expected[f"members/{at}/{name}"] = run[name]
        state = f"members/{at}/{step}/state.json"
        expected[state] = files[state]
        ours, theirs = (read_state(url).state for url in (f"{blend}/members/{at}", model.run))
        assert ours == {**theirs, "tensors": {**theirs["tensors"], "optimizer": []}}
    assert files == {**expected, "blend.json": files["blend.json"]}
    moved = str(tmp_path / "elsewhere")
    shutil.copytree(blend, moved)
    found = named_models([moved])
    assert all(checkpoint.url.startswith(moved) for checkpoint in found.checkpoints)
    assert found.data == [trained.data, item_side.data]
    assert len(load_model(f"{moved}/members/0").vocabulary) == len(Dataset(trained.data).vocabulary())


def test_models_of_one_axis_share_a_data_set(trained, item_side, blend):
    models = [trained.run, item_side.run, trained.run]
    for data in ([trained.data, item_side.data], [item_side.data, trained.data]):
        assert named_models(models, data).data == [trained.data, item_side.data, trained.data]
    assert named_models(models[::2], [trained.data]).data == [trained.data] * 2
    with pytest.raises(InputError, match="each model needs its data set"):
        named_models(models, [trained.data, trained.data])


def test_what_cannot_be_blended_is_refused_and_leaves_nothing(trained, item_side, blend, tmp_path, capsys):
    output = tmp_path / "out"

    def refused(*argv):
        assert cli.main(["blend", "--output", str(output), *argv]) == 2
        assert not output.exists()
        return capsys.readouterr().err

    def other(name, *argv):
        data, run = str(tmp_path / name), str(tmp_path / f"{name}-run")
        command("prepare", "--input", trained.log, "--output", data, *argv)
        command("train", "--data", data, "--output", run, "--hidden", "4", "--epochs", "1", "--threads", "1")
        capsys.readouterr()
        return Trained(trained.log, data, run)

    assert "two or more" in refused(*flags(trained))
    assert "a blend is named alone" in refused("--model", f"{blend},{trained.run}", "--data", f"{trained.data}," * 2)
    assert "each model needs its data set" in refused(
        "--model", f"{trained.run},{item_side.run}", "--data", trained.data
    )
    none = other("none", "--axis", "item", "--folds", "90,0,10")
    assert "no rating in its validation fold" in refused(*flags(trained, none))
    assert "of these axes, in that order" in refused(*flags(none, trained), "--weights_of", blend)
    leaky = trained._replace(run=none.run, data=item_side.data)
    assert "is not the data set that the model" in refused(*flags(trained, leaky))
    seed = other("seed", "--axis", "item", "--folds", "80,10,10", "--fold_seed", "1")
    assert "do not hold the same ratings" in refused(*flags(trained, seed))
    altered = tmp_path / "altered"
    shutil.copytree(item_side.run, altered)
    weights = max(altered.rglob("model-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "was altered" in refused(*flags(trained, item_side._replace(run=str(altered))), "--weights_of", blend)
    # A fold is not needed where weights are given.
    command("blend", "--output", str(output), *flags(trained, none), "--weights_of", blend)
    one, two = Blend.read(blend), Blend.read(str(output))
    assert (two.combination, two.fit) == (one.combination, one.fit)
    assert [member.data for member in two.members] == [trained.data, none.data]


def test_flags_that_do_not_go_with_a_blend(trained, item_side, blend, tmp_path, capsys):
    def refused(*argv):
        assert cli.main([*argv]) == 2
        return capsys.readouterr().err

    scores = ["--output", str(tmp_path / "scores")]
    assert "has its own --weights" in refused("evaluate", "--model", blend, "--weights", "1,1")
    assert "prepare the files once for each axis" in refused("score", "--model", blend, "--input", trained.log, *scores)
    assert "--data is missing" in refused("evaluate", "--model", trained.run)
    assert "pass either --data or --input" in refused("score", "--model", trained.run, *scores)
    clicks = ["--input", trained.log, "--feedback", "implicit"]
    assert "holds interactions without ratings" in refused("score", "--model", trained.run, *clicks, *scores)
    unblended = ["--weights_of", trained.run, *scores]
    assert "is no blend" in refused("blend", *flags(trained, item_side), *unblended)
    assert "--overwrite" in refused("blend", *flags(trained, item_side), "--output", blend)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "mine.txt").write_text("x")
    assert "holds files that are not" in refused("blend", *flags(trained, item_side), *scores, "--overwrite")
    before = contents(blend)
    command("blend", *flags(trained, item_side), "--output", blend, "--overwrite")
    assert contents(blend) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "x"}, "is not that of a blend"),
        ({"schema_version": 2}, "this program reads 1"),
        ({"combination": {"weights": [0.5], "intercept": 0.0, "bounds": None}}, "do not go together"),
        ({"combination": {"weights": [0.5, "1"], "intercept": 0.0, "bounds": None}}, "weights[1] is '1'"),
        ({"members": [{"checkpoint": "../../x", "axis": "user", "data": "d"}] * 2}, "do not go together"),
        ({"fit": {}}, "fit.members is missing"),
    ],
)
def test_a_damaged_blend_is_named(blend, tmp_path, capsys, change, message):
    shutil.copytree(blend, tmp_path / "blend")
    path = tmp_path / "blend" / "blend.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert cli.main(["evaluate", "--model", str(tmp_path / "blend")]) == 2
    error = capsys.readouterr().err
    assert str(path.parent) in error
    assert message in error


def test_a_blend_whose_data_set_is_gone_asks_for_it(blend, tmp_path, capsys):
    shutil.copytree(blend, tmp_path / "blend")
    path = tmp_path / "blend" / "blend.json"
    held = json.loads(path.read_text())
    held["members"][1]["data"] = "/gone"
    path.write_text(json.dumps(held))
    assert cli.main(["evaluate", "--model", str(tmp_path / "blend")]) == 2
    assert "the data set /gone, which is not there; name its --data" in capsys.readouterr().err
