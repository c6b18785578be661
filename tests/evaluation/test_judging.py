import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.evaluation.judging import judge_batch
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import parse_metrics
from nnsparse_stream.pipelines import cli


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
    from nnsparse_stream.checkpoints.state import checkpoints_of

    assert cli.main(["evaluate", "--data", trained.data, "--model", checkpoints_of(trained.run)[-1]]) == 0
    last = capsys.readouterr().out
    assert cli.main(["evaluate", "--data", trained.data, "--model", trained.run]) == 0
    assert capsys.readouterr().out == last


NAMES = ["rmse", "ndcg@5", "recall@3", "recall_all@3", "popularity@3", "coverage@2", "gini@3"]


def judged(model, dataset, names=NAMES, fold=2):
    metrics = parse_metrics(names)
    parts = (judge_batch(model, batch, fold, metrics) for batch in dataset.batches())
    return sum(parts, MetricSums.of(metrics, dataset.manifest.num_columns))


def defined(model, dataset, known_counts=range(10**6)):
    """Metrics of lists on the test fold, row by row, of rows with such numbers of known entries, from dense scores."""
    counts, found, listed = model.column_counts.numpy(), {name: [] for name in NAMES[1:5]}, []
    for batch in dataset.batches():
        known, at = (fold_rows(batch, folds, dataset.manifest.num_columns) for folds in ((0,), (2,)))
        scores = model.predict(known, clip=False).numpy()
        for row in range(len(batch)):
            n, judged_columns = at[row].num_entries, set(at[row].columns.tolist())
            if not n or known[row].num_entries not in known_counts:
                continue
            out = set(known[row].columns.tolist()) | set(np.flatnonzero(counts == 0).tolist())
            ranked = [c for c in sorted(range(len(counts)), key=lambda c: (-scores[row, c], c)) if c not in out]
            gains = [1 / np.log2(rank + 2) for rank in range(5)]
            found["ndcg@5"].append(
                sum(gain for c, gain in zip(ranked, gains, strict=False) if c in judged_columns) / sum(gains[:n])
            )
            hits = len(judged_columns.intersection(ranked[:3]))
            found["recall@3"].append(hits / min(3, n))
            found["recall_all@3"].append(hits / n)
            found["popularity@3"].append(counts[ranked[:3]].mean())
            listed.append(ranked)
    in_lists = np.bincount([c for ranked in listed for c in ranked[:3]], minlength=len(counts))
    gini = np.abs(in_lists[:, None] - in_lists).sum() / (2 * len(counts) ** 2 * in_lists.mean())
    coverage = len({c for ranked in listed for c in ranked[:2]}) / len(counts)
    return {**{name: np.mean(values) for name, values in found.items()}, "coverage@2": coverage, "gini@3": gini}


def test_metrics_of_lists_equal_those_of_dense_scores(trained):
    dataset, model = Dataset(trained.data), load_model(trained.run).model
    report = judged(model, dataset).report()
    expected = defined(model, dataset)
    assert {name: value for name, value in report["metrics"].items() if name != "rmse"} == pytest.approx(expected)
    assert len(report["buckets"]) > 1
    bucket = report["buckets"][-1]
    inside = defined(model, dataset, range(bucket["min_ratings"], (bucket["max_ratings"] or 10**6) + 1))
    of_rows = {name: value for name, value in bucket["metrics"].items() if name != "rmse"}
    assert of_rows == pytest.approx({name: inside[name] for name in NAMES[1:5]})


def test_rows_are_judged_in_bounded_blocks(trained, monkeypatch):
    dataset, model = Dataset(trained.data), load_model(trained.run).model
    whole = judged(model, dataset)
    monkeypatch.setattr("nnsparse_stream.evaluation.judging._ROWS_AT_ONCE", 7)
    parts = judged(model, dataset)
    np.testing.assert_array_equal(parts.judged, whole.judged)
    np.testing.assert_allclose(parts.terms, whole.terms, rtol=1e-6)
    assert all((parts.listed[k] == whole.listed[k]).all() for k in (2, 3))


def test_the_command_says_by_what_a_model_is_better(trained, tmp_path, capsys):
    target = tmp_path / "figures.json"
    flags = ["--data", trained.data, "--model", trained.run, "--json", str(target)]
    assert cli.main(["evaluate", *flags, "--metrics", ",".join(NAMES[1:]), "--metrics", "rmse"]) == 0
    figures, printed = json.loads(target.read_text()), capsys.readouterr().out
    dataset, model = Dataset(trained.data), load_model(trained.run).model
    assert figures["metrics"] == pytest.approx(judged(model, dataset).values())
    assert figures["rmse"] == figures["metrics"]["rmse"]
    assert figures["mae"] is None
    names = [line["name"] for line in figures["baselines"]]
    assert names == ["global mean", "row and column biases", "popularity"]
    popularity = figures["baselines"][-1]["metrics"]
    assert set(popularity) == set(NAMES[1:])
    for name, value in popularity.items():
        lower = name.startswith(("popularity", "gini"))
        assert figures["better"][name] is (
            figures["metrics"][name] < value if lower else figures["metrics"][name] > value
        )
    better = [name for name in [*NAMES[1:], "rmse"] if figures["better"][name]]
    assert f"The model is better than the baselines by {', '.join(better)}." in printed
    worse = [name for name in NAMES[1:] if name not in better]
    assert f"The model is NOT better than popularity by {', '.join(worse)}: train it differently" in printed


def test_lists_of_what_the_model_knows_are_refused(trained, capsys):
    flags = ["--data", trained.data, "--model", trained.run]
    assert cli.main(["evaluate", *flags, "--fold", "train", "--metrics", "rmse,ndcg@5"]) == 2
    assert "--fold train cannot be judged by ndcg@5" in capsys.readouterr().err
    assert cli.main(["evaluate", *flags, "--metrics", "rmse,ndgc@5"]) == 2
    assert "there is no metric 'ndgc@5'" in capsys.readouterr().err


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
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "long", "wb") as stream:
        stream.truncate(1 << 40)
    for target, wrong in (
        ("/dev/full", "is no regular file"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path / "long", "exists and holds no evaluation"),
    ):
        assert cli.main(["evaluate", "--data", trained.data, "--model", trained.run, "--json", str(target)]) == 2
        assert f"{target} {wrong}" in capsys.readouterr().err
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
    from nnsparse_stream.checkpoints.state import checkpoints_of

    last = Path(checkpoints_of(str(run))[-1])
    weights = last / "model-00000-of-00001.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert cli.main(["evaluate", "--data", trained.data, "--model", str(run)]) == 2
    assert f"{weights} is damaged" in capsys.readouterr().err
    state = last / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "schema_version": 7}))
    assert cli.main(["evaluate", "--data", trained.data, "--model", str(run)]) == 2
    assert "has schema version 7" in capsys.readouterr().err
