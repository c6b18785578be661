"""What lists hold, by the flags of `score`: columns, rows, what is excluded, reasons; and pairs of unknown ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from samples import Trained, command
from scores import by_row, dense_predictions, score, write_pairs

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.pipelines import cli


@pytest.fixture(scope="module")
def linear(trained, tmp_path_factory):
    """A linear model of the interactions."""
    run = str(tmp_path_factory.mktemp("linear") / "run")
    data = str(Path(run).parent / "data")
    flags = ["--axis", "user", "--num_shards", "2", "--folds", "80,10,10", "--positive_from", "1"]
    command("prepare", "--input", trained.log, "--output", data, "--feedback", "implicit", *flags)
    command("train", "--data", data, "--output", run, "--preset", "linear")
    return Trained(trained.log, data, run)


def manifest(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "scores" / "_manifest.json").read_text())


def sources(trained, item_side):
    """The flags of one model with its data set, with raw ratings, and of two."""
    both = ["--model", f"{trained.run},{item_side.run}", "--data", f"{trained.data},{item_side.data}"]
    one = ["--model", trained.run]
    return {"data": [*one, "--data", trained.data], "input": [*one, "--input", trained.log], "blend": both}


@pytest.mark.parametrize("source", ["data", "input", "blend"])
def test_lists_by_all_rules_at_once_are_those_cut_from_whole_ones(trained, item_side, tmp_path, source):
    flags = sources(trained, item_side)[source]
    model = load_model(trained.run)
    ids, counts = model.vocabulary.ids.to_pylist(), model.model.column_counts.tolist()
    everything = by_row(score(tmp_path / "all", *flags, "--top_k", str(len(ids)), "--exclude", "none"))
    least = sorted(counts)[len(counts) // 2]
    candidates = ids[::2]
    able = {column for column, count in zip(ids, counts, strict=True) if count >= least and column in candidates}
    assert 5 < len(able) < len(candidates)
    rows = [*sorted(everything)[3:40:4], "new", "~newer"]
    (tmp_path / "rows.csv").write_text("user,item\n" + "".join(f"{row},x\n" for row in [*rows, rows[0]]))
    (tmp_path / "columns.txt").write_text("\n".join([*candidates, "unheard-of", candidates[0]]))
    rules = ["--candidates", str(tmp_path / "columns.txt"), "--rows", str(tmp_path / "rows.csv")]
    rules += ["--min_column_ratings", str(least), "--top_k", "5"]
    cold = None
    for exclude in ("none", "known"):
        found = by_row(score(tmp_path, *flags, *rules, "--exclude", exclude))
        assert found.keys() == set(rows)
        for row in rows[:-2]:
            known = dense_predictions(trained)[row][0] if exclude == "known" else set()
            kept = [(column, value) for column, value in everything[row] if column in able - known][:5]
            assert [column for column, _ in found[row]] == [column for column, _ in kept]
            assert [value for _, value in found[row]] == pytest.approx([value for _, value in kept], abs=1e-5)
        assert found["new"] == found["~newer"]
        assert len(found["new"]) == 5
        assert cold in (None, found["new"])
        cold = found["new"]
        lists = manifest(tmp_path)["lists"]
        assert lists == {
            "exclude_known": exclude == "known",
            "min_column_ratings": least,
            "explain": 0,
            "candidates": {"ids": len(candidates) + 2, "unknown": 1},
            "rows": len(rows),
            "rows_without_ratings": 2,
        }


def test_what_is_unknown_is_said(trained, tmp_path, capsys):
    (tmp_path / "columns").write_text("unheard-of\n")
    (tmp_path / "rows").write_text("new\n")
    flags = [*sources(trained, trained)["data"], "--rows", str(tmp_path / "rows")]
    table = score(tmp_path, *flags, "--candidates", str(tmp_path / "columns"))
    assert len(table) == 0
    assert table.schema.names == ["row_id", "column_id", "score", "rank"]
    said = capsys.readouterr().out
    assert "1 of 1 ids are not in the model's vocabulary" in said
    assert "1 of 1 rows have no rating" in said


@pytest.mark.parametrize("source", ["data", "input", "blend"])
def test_pairs_that_the_models_do_not_know_are_counted(trained, item_side, tmp_path, capsys, source):
    row, column = trained_ids(trained)
    pairs = [(row, column), (row, "odd"), (row, "odder"), ("nobody", column), ("nobody", "odd"), ("nobody", "odd")]
    flags = [*sources(trained, item_side)[source], "--pairs", write_pairs(tmp_path / "pairs.csv", pairs)]
    assert len(score(tmp_path, *flags)) == len(pairs)
    models = 2 if source == "blend" else 1
    assert manifest(tmp_path)["pairs"] == {"unknown_rows": [3] * models, "unknown_columns": [4] * models}
    assert manifest(tmp_path)["lists"] is None
    said = capsys.readouterr().out
    assert "3, 3 (to each model) pairs" in said if models == 2 else "4 pairs of a column" in said


def trained_ids(trained) -> tuple[str, str]:
    batch = next(iter(Dataset(trained.data).batches()))
    return batch["row"][0].as_py(), load_model(trained.run).vocabulary.ids[0].as_py()


@pytest.mark.parametrize("most", [2, 1000])
def test_reasons_are_the_largest_parts_of_the_score(linear, tmp_path, most):
    table = score(tmp_path, "--model", linear.run, "--data", linear.data, "--top_k", "4", "--explain", str(most))
    checkpoint, dataset = load_model(linear.run), Dataset(linear.data)
    ids = checkpoint.vocabulary.ids.to_pylist()
    weights = checkpoint.model.weights.numpy()
    place = {ids[column]: at for at, column in enumerate(np.flatnonzero(checkpoint.model.column_counts.numpy() > 0))}
    known = {}
    for batch in dataset.batches():
        rows = fold_rows(batch, (0, 1, 2), len(ids))
        known |= {row: [ids[c] for c in rows[i].columns.tolist()] for i, row in enumerate(batch["row"].to_pylist())}
    assert len(table)
    for line in table.to_pylist():
        parts = [(float(weights[place[c], place[line["column_id"]]]), c) for c in known[line["row_id"]] if c in place]
        assert line["score"] == pytest.approx(sum(part for part, _ in parts), abs=1e-5)
        expected = [part for part, _ in sorted(parts, key=lambda part: -part[0]) if part > 0][:most]
        assert [reason["contribution"] for reason in line["reasons"]] == pytest.approx(expected)
        assert all((reason["contribution"], reason["id"]) in parts for reason in line["reasons"])


def test_what_does_not_go_together_is_refused(trained, item_side, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    pairs = write_pairs(tmp_path / "pairs.csv", [("a", "b")])
    flags = sources(trained, item_side)
    for wrong, message in (
        ([*flags["data"], "--explain", "2"], "a model of kind autoencoder cannot explain its scores"),
        ([*flags["blend"], "--explain", "2"], "--explain goes with one model"),
        (
            [*flags["data"], "--pairs", pairs, "--exclude", "none", "--rows", pairs],
            "--exclude and --rows: with --pairs",
        ),
        ([*flags["data"], "--candidates", str(tmp_path / "missing")], "missing"),
    ):
        assert cli.main(["score", *output, *wrong]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_lists_of_nobody_are_a_whole_output(trained, tmp_path):
    (tmp_path / "rows").write_text("")
    assert len(score(tmp_path, *sources(trained, trained)["data"], "--rows", str(tmp_path / "rows"))) == 0
    assert manifest(tmp_path)["lists"]["rows"] == 0
    assert len(pq.ParquetFile(next((tmp_path / "scores").glob("*.parquet"))).schema_arrow) == 4
