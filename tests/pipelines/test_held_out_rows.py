"""Rows that are held out altogether: training sees none of them, evaluation and scoring see what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from samples import Trained, command
from scores import by_row, score

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows, known_folds
from nnsparse_stream.feeding.survey import survey


@pytest.fixture(scope="module")
def rows(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of the sample, with rows held out. Its columns are those of the sample's model."""
    url = str(tmp_path_factory.mktemp("rows") / "data")
    flags = ["--validation_rows", "20", "--test_rows", "30", "--shown", "60", "--num_shards", "3"]
    command("prepare", "--input", trained.log, "--output", url, "--axis", "user", *flags)
    return url


def test_what_is_known_is_of_the_judged_rows_alone(rows: str) -> None:
    assert [known_folds(judged) for judged in range(3)] == [(0,), (0, 3), (0, 4)]
    for batch in Dataset(rows).batches():
        judged = {fold: fold_rows(batch, (fold,), 60).lengths().numpy() > 0 for fold in (1, 2)}
        known = {fold: fold_rows(batch, known_folds(fold), 60).lengths().numpy() > 0 for fold in (1, 2)}
        trained_on = fold_rows(batch, (0,), 60).lengths().numpy() > 0
        for fold, other in ((1, 2), (2, 1)):
            assert judged[fold].any()
            assert known[fold][judged[fold]].all()
            assert not (known[fold] & known[other] & ~trained_on).any()
            assert not (known[fold] & judged[other]).any()


def test_training_counts_no_entry_of_them(rows: str) -> None:
    counts = np.zeros(60, dtype=np.int64)
    for batch in Dataset(rows).batches():
        for row in batch.to_pylist():
            if set(row["fold"]) == {0}:
                np.add.at(counts, row["columns"], 1)
    assert survey(Dataset(rows)).column_counts.tolist() == counts.tolist()
    assert counts.sum() == Dataset(rows).manifest.fold_entries["train"]


def test_evaluation_knows_what_is_shown(rows: str, trained: Trained, tmp_path: Path) -> None:
    target = str(tmp_path / "figures.json")
    command("evaluate", "--data", rows, "--model", trained.run, "--fold", "test", "--json", target)
    figures = json.loads(Path(target).read_text())
    model, errors = load_model(trained.run).model, []
    for batch in Dataset(rows).batches():
        judged = fold_rows(batch, (2,), 60)
        dense = model.predict(fold_rows(batch, (4,), 60))  # of a test row, nothing else is to be known
        errors.append((dense[judged.row_indices().long(), judged.columns.long()] - judged.values).double().numpy())
    every = np.concatenate(errors)
    assert figures["count"] == len(every) == Dataset(rows).manifest.fold_entries["test"]
    assert figures["rmse"] == pytest.approx(np.sqrt((every**2).mean()), abs=1e-6)
    assert [bucket["min_ratings"] for bucket in figures["buckets"]] != [0]


def test_lists_leave_out_what_is_shown(rows: str, trained: Trained, tmp_path: Path) -> None:
    flags = ["--model", trained.run, "--data", rows, "--top_k", "60", "--history_folds", "train"]
    lists = by_row(score(tmp_path, *flags))
    vocabulary = Dataset(rows).vocabulary().ids.to_pylist()
    counts = load_model(trained.run).model.column_counts
    listed = {vocabulary[column] for column in range(60) if counts[column] > 0}
    for batch in Dataset(rows).batches():
        for row in batch.to_pylist():
            known = {vocabulary[c] for c, fold in zip(row["columns"], row["fold"], strict=True) if fold in (0, 3, 4)}
            assert {column for column, _ in lists[row["row"]]} == listed - known
