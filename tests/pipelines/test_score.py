"""Scoring through the command: top-K lists and pairs, from data sets and from raw files."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from scores import by_row, dense_predictions, score, write_pairs

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.pipelines import cli
from nnsparse_stream.sparse.rows import SparseRows


@pytest.mark.parametrize("history", ["train,validation,test", "train"])
def test_top_k_equals_a_sort_of_dense_predictions(trained, tmp_path, history):
    table = score(tmp_path, "--model", trained.run, "--data", trained.data, "--top_k", "5", "--history_folds", history)
    assert table.schema.names == ["row_id", "column_id", "score", "rank"]
    lists = by_row(table)
    expected = dense_predictions(trained, range(len(history.split(","))), clip=False)
    counts = load_model(trained.run).model.column_counts
    unseen = {Dataset(trained.data).vocabulary().ids[i].as_py() for i in (counts == 0).nonzero()[:, 0].tolist()}
    assert lists.keys() == expected.keys()
    for row, (known, predictions) in expected.items():
        # Where the model sees the training fold only, what is rated in the others may be recommended.
        best = sorted((-value, column) for column, value in predictions.items() if column not in known | unseen)[:5]
        assert [value for _, value in lists[row]] == pytest.approx([-value for value, _ in best], abs=1e-5)
        assert not {column for column, _ in lists[row]} & known
        assert all(value == pytest.approx(predictions[column], abs=1e-5) for column, value in lists[row])
    ranks = table["rank"].to_numpy()
    assert (ranks[np.r_[True, ranks[1:] != ranks[:-1] + 1]] == 1).all()


def test_a_data_set_and_its_raw_file_give_the_same_scores(trained, tmp_path):
    from_data = by_row(score(tmp_path / "a", "--model", trained.run, "--data", trained.data, "--top_k", "3"))
    from_log = by_row(score(tmp_path / "b", "--model", trained.run, "--input", trained.log, "--top_k", "3"))
    assert from_data.keys() == from_log.keys()
    for row in from_data:
        assert [c for c, _ in from_data[row]] == [c for c, _ in from_log[row]]
        assert [v for _, v in from_data[row]] == pytest.approx([v for _, v in from_log[row]], abs=1e-6)


def test_every_pair_gets_a_score_cold_ones_by_the_documented_fallback(trained, tmp_path):
    expected = dense_predictions(trained)
    rows = sorted(expected)
    columns = Dataset(trained.data).vocabulary().ids.to_pylist()
    pairs = [(rows[i * 7 % len(rows)], columns[i * 11 % len(columns)]) for i in range(200)]
    pairs += [pairs[0], ("nobody", columns[0]), (rows[0], "unheard-of"), ("nobody", "unheard-of")]
    path = write_pairs(tmp_path / "pairs.csv", pairs)
    table = score(tmp_path, "--model", trained.run, "--data", trained.data, "--pairs", path)
    assert table.schema.names == ["row_id", "column_id", "score"]
    scored = list(zip(*(table[name].to_pylist() for name in table.schema.names), strict=True))
    assert sorted((row, column) for row, column, _ in scored) == sorted(pairs)

    model = load_model(trained.run).model
    width = len(columns)
    cold = SparseRows(torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), width)
    cold_prediction = float(model.predict(cold)[0, 0])
    ratings = pq.read_table(trained.log)
    for row, column, value in scored:
        if row == "nobody":
            assert value == pytest.approx(cold_prediction if column == columns[0] else model.config.mean, abs=1e-5)
        elif column == "unheard-of":
            own = ratings.filter(pc.equal(ratings["user"], row))
            assert value == pytest.approx(pc.mean(own["rating"]).as_py(), abs=1e-5)
        else:
            assert value == pytest.approx(expected[row][1][column], abs=1e-5)


def test_pairs_with_raw_ratings_equal_those_with_the_data_set(trained, tmp_path):
    rows = sorted(dense_predictions(trained))[:20]
    column = Dataset(trained.data).vocabulary().ids[3].as_py()
    path = write_pairs(tmp_path / "pairs.csv", [(row, column) for row in rows])
    one = by_row(score(tmp_path / "a", "--model", trained.run, "--data", trained.data, "--pairs", path))
    two = by_row(score(tmp_path / "b", "--model", trained.run, "--input", trained.log, "--pairs", path))
    assert one.keys() == two.keys() == set(rows)
    assert all(one[row][0][1] == pytest.approx(two[row][0][1], abs=1e-6) for row in rows)


def test_ratings_of_unknown_columns_are_counted_not_hidden(trained, tmp_path, capsys):
    log = tmp_path / "tonight.parquet"
    extra = pa.table({"user": ["new", "new", "lost"], "item": ["unheard-of", "drama-000", "unheard-of"],
                      "rating": pa.array([5.0, 4.0, 3.0], pa.float32())})  # fmt: skip
    pq.write_table(extra, log)
    table = score(tmp_path, "--model", trained.run, "--input", str(log), "--top_k", "2")
    # A row all of whose ratings are unknown is scored as one without ratings, and not left out.
    assert sorted(table["row_id"].to_pylist()) == ["lost", "lost", "new", "new"]
    assert "2 ratings of columns that the model's vocabulary does not hold" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "scores" / "_manifest.json").read_text())
    assert manifest["ratings_of_unknown_columns"] == 2


def test_bad_input_leaves_nothing_behind(trained, tmp_path, capsys):
    output = tmp_path / "scores"
    bad = tmp_path / "bad.csv"
    bad.write_text("user,item,rating\na,b,5\na,c,NaN\n")
    assert cli.main(["score", "--model", trained.run, "--input", str(bad), "--output", str(output)]) == 2
    assert f"{bad}:3: rating is not finite" in capsys.readouterr().err
    assert not output.exists()
    twice = tmp_path / "twice.csv"
    twice.write_text("user,item,rating\na,drama-000,5\na,drama-000,4\n")
    assert cli.main(["score", "--model", trained.run, "--input", str(twice), "--output", str(output)]) == 2
    message = capsys.readouterr().err
    assert "line 2" in message
    assert "line 3" in message
    assert not output.exists()


def test_ids_that_look_like_integers_are_strings_to_a_model_of_strings(trained, tmp_path):
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("user,item,rating\n1,drama-000,5\n")
    table = score(tmp_path, "--model", trained.run, "--input", str(numbers), "--top_k", "1")
    assert table["row_id"].to_pylist() == ["1"]


def test_scores_are_not_replaced_unasked(trained, tmp_path, capsys):
    score(tmp_path, "--model", trained.run, "--data", trained.data, "--top_k", "1")
    before = {path.name: path.read_bytes() for path in Path(tmp_path, "scores").iterdir()}
    flags = ["--model", trained.run, "--data", trained.data, "--output", str(tmp_path / "scores"), "--top_k", "1"]
    assert cli.main(["score", *flags]) == 2
    assert "exists already; pass --overwrite" in capsys.readouterr().err
    assert cli.main(["score", *flags, "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in Path(tmp_path, "scores").iterdir()} == before
