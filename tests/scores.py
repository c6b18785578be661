"""Runs `score`, and what its output is held against."""

import pyarrow.parquet as pq

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.pipelines import cli


def score(tmp_path, *flags):
    output = tmp_path / "scores"
    assert cli.main(["score", "--output", str(output), "--overwrite", *flags]) == 0
    return pq.read_table(output)


def by_row(table):
    """{row id: [(column id, score), ...]} in the file's order."""
    found = {}
    for row, column, value in zip(*(table[name].to_pylist() for name in ("row_id", "column_id", "score")), strict=True):
        found.setdefault(row, []).append((column, value))
    return found


def dense_predictions(trained, folds=(0, 1, 2), clip=True):
    """{row id: (known column ids, predictions for all columns)}, from the dense model."""
    dataset, model = Dataset(trained.data), load_model(trained.run).model
    ids = dataset.vocabulary().ids
    found = {}
    for batch in dataset.batches():
        dense = model.predict(fold_rows(batch, folds, len(ids)), clip=clip)
        rated = fold_rows(batch, folds, len(ids))
        for index, row in enumerate(batch.column("row").to_pylist()):
            known = {ids[column].as_py() for column in rated[index].columns.tolist()}
            found[row] = (known, dict(zip(ids.to_pylist(), dense[index].tolist(), strict=True)))
    return found


def write_pairs(path, pairs):
    path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    return str(path)
