import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.evaluation.prediction_errors import BUCKETS, ErrorSums, evaluate_batch
from nnsparse_stream.pipelines import cli
from nnsparse_stream.training.checkpoint import load_model


def dense_errors(trained, fold):
    """Errors by the dense prediction of the whole data set, and each error's number of training ratings."""
    dataset, model = Dataset(trained.data), load_model(trained.run).model
    errors, known_counts = [], []
    for batch in dataset.batches():
        known, judged = (fold_rows(batch, folds, dataset.manifest.num_columns) for folds in ((0,), (fold,)))
        dense = model.predict(known)
        rows = judged.row_indices().long()
        errors.append((dense[rows, judged.columns.long()] - judged.values).double())
        known_counts.append(known.lengths()[rows])
    return torch.cat(errors).numpy(), torch.cat(known_counts).numpy()


@pytest.mark.parametrize(("fold", "name"), [(0, "train"), (1, "validation"), (2, "test")])
def test_figures_equal_those_of_dense_predictions(trained, tmp_path, capsys, fold, name):
    target = tmp_path / "figures.json"
    assert (
        cli.main(["evaluate", "--data", trained.data, "--model", trained.run, "--fold", name, "--json", str(target)])
        == 0
    )
    figures = json.loads(target.read_text())
    errors, known = dense_errors(trained, fold)
    assert figures["fold"] == name
    assert figures["count"] == len(errors) == Dataset(trained.data).manifest.fold_entries[name]
    assert figures["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), abs=1e-6)
    assert figures["mae"] == pytest.approx(np.abs(errors).mean(), abs=1e-6)
    assert sum(bucket["count"] for bucket in figures["buckets"]) == len(errors)
    for bucket in figures["buckets"]:
        high = bucket["max_ratings"] or 10**9 if bucket["max_ratings"] != 0 else 0
        inside = errors[(known >= bucket["min_ratings"]) & (known <= high)]
        assert bucket["count"] == len(inside)
        assert bucket["rmse"] == pytest.approx(np.sqrt((inside**2).mean()), abs=1e-6)
    printed = capsys.readouterr().out
    assert f"{figures['rmse']:.4f}" in printed


def test_a_checkpoint_directory_is_a_model_too(trained, capsys):
    from nnsparse_stream.training.checkpoint import checkpoints_of

    assert cli.main(["evaluate", "--data", trained.data, "--model", checkpoints_of(trained.run)[-1]]) == 0
    last = capsys.readouterr().out
    assert cli.main(["evaluate", "--data", trained.data, "--model", trained.run]) == 0
    assert capsys.readouterr().out == last


def test_sums_add_up_and_bound_the_buckets():
    one, two = ErrorSums(), ErrorSums()
    one.add(np.array([0, 7, 2000]), np.array([0, 1, 1, 2]), np.array([1.0, -2.0, 2.0, 0.5]))
    two.add(np.array([9]), np.array([0]), np.array([4.0]))
    report = (one + two).report("test")
    assert report["count"] == 5
    assert report["rmse"] == pytest.approx(math.sqrt((1 + 4 + 4 + 0.25 + 16) / 5))
    assert [(b["min_ratings"], b["max_ratings"], b["rows"], b["count"]) for b in report["buckets"]] == [
        (0, 0, 1, 1),
        (5, 9, 2, 3),
        (BUCKETS[-1], None, 1, 1),
    ]
    assert ErrorSums().report("test") == {"fold": "test", "count": 0, "rmse": None, "mae": None, "buckets": []}


def test_rows_are_judged_in_bounded_blocks(trained, monkeypatch):
    dataset, model = Dataset(trained.data), load_model(trained.run).model
    whole = sum((evaluate_batch(model, batch, 2) for batch in dataset.batches()), ErrorSums())
    monkeypatch.setattr("nnsparse_stream.evaluation.prediction_errors._ROWS_AT_ONCE", 7)
    parts = sum((evaluate_batch(model, batch, 2) for batch in dataset.batches()), ErrorSums())
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-6)


def other_data(trained, tmp_path, *flags):
    data = str(tmp_path / "other")
    assert cli.main(["prepare", "--input", trained.log, "--output", data, *flags]) == 0
    return data


def test_a_data_set_of_another_axis_is_refused(trained, tmp_path, capsys):
    data = other_data(trained, tmp_path, "--axis", "item")
    assert cli.main(["evaluate", "--data", data, "--model", trained.run]) == 2
    assert "has rows by item, but the model" in capsys.readouterr().err


def test_a_data_set_of_another_vocabulary_is_refused(trained, tmp_path, capsys):
    log = str(tmp_path / "half.parquet")
    table = pa.parquet.read_table(trained.log)
    pa.parquet.write_table(table.slice(0, len(table) // 2), log)
    data = str(tmp_path / "half")
    assert cli.main(["prepare", "--input", log, "--output", data, "--axis", "user"]) == 0
    assert cli.main(["evaluate", "--data", data, "--model", trained.run]) == 2
    assert "another vocabulary" in capsys.readouterr().err


def test_a_fold_without_ratings_is_refused(trained, tmp_path, capsys):
    data = other_data(trained, tmp_path, "--axis", "user", "--folds", "90,10,0")
    assert cli.main(["evaluate", "--data", data, "--model", trained.run]) == 2
    assert "no rating in its test fold" in capsys.readouterr().err


def test_json_that_cannot_be_written_is_an_input_error(trained, tmp_path, capsys):
    assert cli.main(["evaluate", "--data", trained.data, "--model", trained.run, "--json", str(tmp_path)]) == 2
    assert "is a directory; name a file" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    target = str(tmp_path / "file" / "figures.json")
    data = other_data(trained, tmp_path, "--axis", "user", "--folds", "90,10,0")
    capsys.readouterr()
    # Found before the fold is looked at, and so before any work.
    assert cli.main(["evaluate", "--data", data, "--model", trained.run, "--json", target]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(trained, tmp_path, capsys):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    from nnsparse_stream.training.checkpoint import checkpoints_of

    last = Path(checkpoints_of(str(run))[-1])
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert cli.main(["evaluate", "--data", trained.data, "--model", str(run)]) == 2
    assert f"{weights} is damaged" in capsys.readouterr().err
    state = last / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "schema_version": 7}))
    assert cli.main(["evaluate", "--data", trained.data, "--model", str(run)]) == 2
    assert "has schema version 7" in capsys.readouterr().err
