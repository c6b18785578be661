"""Blends of models of either axis, judged on the same ratings."""

import json

import numpy as np
import pytest
from samples import command

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.judging import judge_batch
from nnsparse_stream.evaluation.metrics import parse_metrics
from nnsparse_stream.pipelines import cli
from nnsparse_stream.scoring.blending import judge_blend, predict_fold
from nnsparse_stream.scoring.combination import Combination

METRICS = parse_metrics(["rmse", "mae"])


def blocks(data, run, axis, position, fold=2):
    checkpoint = load_model(run)
    return [
        predict_fold(checkpoint.model, checkpoint.vocabulary, axis, batch, fold, position)
        for batch in Dataset(data).batches()
    ]


def test_one_model_alone_has_the_errors_that_evaluation_finds(trained):
    model = load_model(trained.run).model
    alone = judge_blend(blocks(trained.data, trained.run, "user", 0), Combination.mean([3.0]), "user", METRICS)
    first, *rest = (judge_batch(model, batch, 2, METRICS) for batch in Dataset(trained.data).batches())
    evaluated = sum(rest, first)
    np.testing.assert_array_equal(alone.judged, evaluated.judged)
    np.testing.assert_allclose(alone.terms, evaluated.terms, rtol=1e-5)


def test_a_blend_is_the_weighted_mean_of_the_predictions(trained, item_side):
    users = blocks(trained.data, trained.run, "user", 0)
    items = blocks(*item_side[1:], "item", 1)
    predicted = {}
    for block in [*users, *items]:
        for row in block.to_pylist():
            predicted.setdefault((row["user"], row["item"]), {"rating": row["rating"]})[row["model"]] = row[
                "prediction"
            ]
    errors = np.array([0.25 * p[0] + 0.75 * p[1] - p["rating"] for p in predicted.values()])
    blend = judge_blend([*items[::-1], *users], Combination.mean([1.0, 3.0]), "user", METRICS)
    assert blend.judged.sum(0).tolist() == [len({user for user, _ in predicted}), len(errors)]
    assert len(errors) == Dataset(trained.data).manifest.fold_entries["test"]
    assert blend.values()["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), abs=1e-6)
    assert blend.values()["mae"] == pytest.approx(np.abs(errors).mean(), abs=1e-6)


def test_data_sets_with_other_ratings_in_the_fold_are_refused(trained, item_side):
    users, items = blocks(trained.data, trained.run, "user", 0), blocks(*item_side[1:], "item", 1, fold=1)
    with pytest.raises(InputError, match="do not hold the same ratings"):
        judge_blend([*users, *items], Combination.mean([1.0, 1.0]), "user", METRICS)
    with pytest.raises(InputError, match="do not hold the same ratings"):
        judge_blend([*users, *blocks(*item_side[1:], "item", 1)[1:]], Combination.mean([1.0, 1.0]), "user", METRICS)


def test_the_command_judges_a_blend(trained, item_side, tmp_path, capsys):
    _, data, run = item_side
    figures = tmp_path / "figures.json"
    flags = ["--data", f"{trained.data},{data}", "--model", f"{trained.run},{run}", "--json", str(figures)]
    assert cli.main(["evaluate", *flags, "--weights", "1,3"]) == 0
    found = json.loads(figures.read_text())
    expected = judge_blend(
        [*blocks(trained.data, trained.run, "user", 0), *blocks(data, run, "item", 1)],
        Combination.mean([1.0, 3.0]),
        "user",
        METRICS,
    ).report()
    assert found["rmse"] == pytest.approx(expected["rmse"], abs=1e-9)
    assert [(b["min_ratings"], b["rows"], b["count"]) for b in found["buckets"]] == [
        (b["min_ratings"], b["rows"], b["count"]) for b in expected["buckets"]
    ]
    capsys.readouterr()
    assert cli.main(["evaluate", *flags, "--weights", "1"]) == 2
    assert "each model needs" in capsys.readouterr().err
    assert cli.main(["evaluate", *flags, "--weights", "1,x"]) == 2
    assert "not a list of numbers" in capsys.readouterr().err
    assert cli.main(["evaluate", *flags, "--metrics", "rmse, ndcg@10"]) == 2
    assert "--metrics: several models are judged by their predicted ratings" in capsys.readouterr().err


def test_ratings_are_not_judged_by_their_mean_with_scores_of_lists(trained, tmp_path, capsys):
    lists = str(tmp_path / "lists")
    command("train", "--data", trained.data, "--output", lists, "--preset", "linear")
    capsys.readouterr()
    flags = ["--data", f"{trained.data},{trained.data}", "--model", f"{trained.run},{lists}"]
    assert cli.main(["evaluate", *flags]) == 2
    assert "rmse, mae: the model's scores order lists and are no ratings" in capsys.readouterr().err
