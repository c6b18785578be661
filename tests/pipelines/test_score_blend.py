"""Scores of several models: weighted means of what each predicts alone, whichever axis it was trained on."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from samples import Trained, command
from scores import by_row, dense_predictions, score, write_pairs

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.pipelines import cli
from nnsparse_stream.scoring.blending import blend_pairs
from nnsparse_stream.scoring.combination import Combination
from nnsparse_stream.scoring.files import codes_schema
from nnsparse_stream.scoring.predictors import ColumnPredictor, RowPredictor, encoded_tables
from nnsparse_stream.sparse.rows import SparseRows


@pytest.fixture(scope="module")
def other_users(trained, tmp_path_factory):
    """Another model of the users' data set."""
    run = str(tmp_path_factory.mktemp("other") / "run")
    flags = ["--hidden", "12,8", "--epochs", "1", "--seed", "5", "--threads", "1", "--preset", "best-user"]
    command("train", "--data", trained.data, "--output", run, *flags)
    return Trained(trained.log, trained.data, run)


@pytest.fixture(scope="module")
def fewer_items(trained, tmp_path_factory):
    """An item model that has never seen some of the users and some of the items, and some users not in training."""
    where = tmp_path_factory.mktemp("fewer")
    log, data, run = (str(where / name) for name in ("log.parquet", "data", "run"))
    table = pq.read_table(trained.log)
    users, items = (pc.unique(table[name]).sort() for name in ("user", "item"))
    keep = pc.and_(
        pc.invert(pc.is_in(table["user"], value_set=users[:9])), pc.invert(pc.is_in(table["item"], value_set=items[:7]))
    )
    table = table.filter(keep)
    # Ids that the users' side does not hold, and users of whom all ratings but one are missing.
    few = pc.is_in(table["user"], value_set=users[9:40])
    lonely = table.filter(few).group_by("user", use_threads=False).aggregate([("item", "first"), ("rating", "first")])
    lonely = lonely.rename_columns({"item_first": "item", "rating_first": "rating"}).select(table.column_names)
    strangers = pa.table({"user": ["stranger"] * 2, "item": ["odd", items[8].as_py()], "rating": [3.0, 5.0]})
    parts = [table.filter(pc.invert(few)), lonely, strangers.select(table.column_names).cast(table.schema)]
    pq.write_table(pa.concat_tables([part.cast(table.schema) for part in parts]), log)
    command("prepare", "--input", log, "--output", data, "--axis", "item", "--folds", "60,20,20", "--num_shards", "2")
    flags = ["--hidden", "8", "--epochs", "8", "--threads", "1", "--preset", "best", "--learning_rate", "0.03"]
    command("train", "--data", data, "--output", run, *flags)
    return Trained(log, data, run)


def blend_flags(weights, *models):
    return [
        *("--model", ",".join(model.run for model in models), "--data", ",".join(model.data for model in models)),
        *("--weights", ",".join(map(str, weights))),
    ]


def predictions_at(model, folds=(0, 1, 2)):
    """A function of (user, item) -> unclipped prediction, with the documented fallbacks, from the dense model."""
    checkpoint = load_model(model.run)
    width = len(checkpoint.vocabulary)
    rows, means = dense_predictions(model, folds, clip=False), {}
    for batch in Dataset(model.data).batches():
        of_rows = checkpoint.model.row_means(fold_rows(batch, folds, width)).tolist()
        means.update(zip(batch["row"].to_pylist(), of_rows, strict=True))
    nothing = SparseRows.from_rows([torch.zeros(0, 2)], num_columns=width)
    cold = dict(
        zip(
            checkpoint.vocabulary.ids.to_pylist(),
            checkpoint.model.predict(nothing, clip=False)[0].tolist(),
            strict=True,
        )
    )

    def at(user, item):
        row, column = (item, user) if checkpoint.state["axis"] == "item" else (user, item)
        if column not in cold:
            return means.get(row, checkpoint.model.config.mean)
        return rows[row][1][column] if row in rows else cold[column]

    return at


@pytest.mark.parametrize("history", ["train,validation,test", "train"])
@pytest.mark.parametrize("others", ["item_side", "other_users", "all"])
def test_top_k_equals_a_sort_of_the_mean_of_dense_predictions(
    trained, item_side, other_users, tmp_path, history, others
):
    models = {"item_side": [trained, item_side], "other_users": [trained, other_users]}.get(
        others, [trained, item_side, other_users]
    )
    weights = [1.5, 3.0, 0.5][: len(models)]
    check_top_k(tmp_path, models, weights, history)


def test_items_can_be_the_rows_of_a_blend(trained, item_side, tmp_path):
    check_top_k(tmp_path, [item_side, trained], [2.0, 1.0], "train,validation,test")


def test_top_k_falls_back_where_the_other_model_knows_neither_row_nor_column(trained, fewer_items, tmp_path):
    counts = load_model(fewer_items.run)
    users = set(counts.vocabulary.ids.to_pylist())
    assert set(dense_predictions(trained)) - users  # users that it has never seen
    assert (counts.model.column_counts == 0).any()  # and users without a training rating
    # All columns are asked for: the best few need not have one that the other model does not know.
    check_top_k(tmp_path, [trained, fewer_items], [0.4, 0.6], "train,validation,test", k=100)


def check_top_k(tmp_path, models, weights, history, k=5):
    flags = blend_flags(weights, *models)
    table = score(tmp_path, *flags, "--top_k", str(k), "--history_folds", history)
    assert table.schema.names == ["row_id", "column_id", "score", "rank"]
    folds = range(len(history.split(",")))
    predictors = [predictions_at(model, folds) for model in models]
    first = load_model(models[0].run)
    trained_on = {first.vocabulary.ids[i].as_py() for i in first.model.column_counts.nonzero()[:, 0].tolist()}
    transposed = first.state["axis"] == "item"
    lists = by_row(table)
    dense = dense_predictions(models[0], folds)
    assert lists.keys() == dense.keys()
    for row, (known, _) in dense.items():
        means = {
            column: np.average([at(*((column, row) if transposed else (row, column))) for at in predictors],
                               weights=weights)
            for column in trained_on - known
        }  # fmt: skip
        assert [value for _, value in lists[row]] == pytest.approx(sorted(means.values())[::-1][:k], abs=1e-5)
        assert all(value == pytest.approx(means[column], abs=1e-5) for column, value in lists[row])


@pytest.mark.parametrize("second", ["item_side", "other_users", "fewer_items"])
def test_pairs_are_the_weighted_mean_of_what_each_model_scores_alone(trained, tmp_path, request, second):
    other = request.getfixturevalue(second)
    rows, columns = sorted(dense_predictions(trained)), Dataset(trained.data).vocabulary().ids.to_pylist()
    pairs = [(rows[i * 7 % len(rows)], columns[i * 11 % len(columns)]) for i in range(150)]
    pairs += [*pairs[:3], pairs[0], ("nobody", columns[0]), (rows[0], "unheard-of"), ("nobody", "unheard-of")]
    pairs = ["--pairs", write_pairs(tmp_path / "pairs.csv", pairs)]
    blend = score(tmp_path / "blend", *blend_flags([1, 3], trained, other), *pairs)
    alone = [score(tmp_path / "alone", "--model", m.run, "--data", m.data, *pairs) for m in (trained, other)]
    assert blend.schema == alone[0].schema

    def ordered(table, names):
        columns = [table[name].to_pylist() for name in (*names, "score")]
        return sorted(zip(*columns, strict=True))

    swapped = ("column_id", "row_id") if second != "other_users" else ("row_id", "column_id")
    found, one, two = (
        ordered(table, names)
        for table, names in ((blend, ("row_id", "column_id")), (alone[0], ("row_id", "column_id")), (alone[1], swapped))
    )
    assert [row[:2] for row in found] == [row[:2] for row in one] == [row[:2] for row in two]
    expected = [0.25 * a[2] + 0.75 * b[2] for a, b in zip(one, two, strict=True)]
    assert [row[2] for row in found] == pytest.approx(expected, abs=1e-6)


def test_weights_are_equal_unless_given_and_count_by_their_ratio(trained, item_side, tmp_path):
    names = blend_flags([1, 1], trained, item_side)[:4]
    tables = [score(tmp_path, *names, "--top_k", "2", *weights) for weights in ([], ["--weights", "7,7"])]
    assert tables[0].equals(tables[1])
    only = score(tmp_path, *names, "--top_k", "2", "--weights", "1,0")
    alone = score(tmp_path, "--model", trained.run, "--data", trained.data, "--top_k", "2")
    assert only["column_id"].equals(alone["column_id"])


def test_the_output_holds_scores_and_a_manifest_that_names_the_models(trained, item_side, tmp_path):
    score(tmp_path, *blend_flags([1, 3], trained, item_side), "--top_k", "2")
    names = sorted(path.relative_to(tmp_path / "scores").as_posix() for path in (tmp_path / "scores").rglob("*"))
    assert names == ["_manifest.json", *(f"part-0000{shard}-of-00003.parquet" for shard in range(3))]
    manifest = json.loads((tmp_path / "scores" / "_manifest.json").read_text())
    assert manifest["axis"] == "user"
    assert manifest["weights"] == [0.25, 0.75]
    states = [load_model(model.run).state for model in (trained, item_side)]
    assert manifest["models"] == [{name: s[name] for name in ("axis", "step", "vocabulary")} for s in states]
    assert "model" not in manifest


MEAN = Combination.mean([1.0, 3.0])


def predicted(seed):
    """Predictions of two models for pairs, some of which occur more than once, in blocks."""
    random = np.random.default_rng(seed)
    rows, columns = random.integers(0, 5, 40), random.integers(0, 4, 40)
    table = {"row": np.tile(rows, 2), "column": np.tile(columns, 2).astype(str),
             "prediction": np.concatenate([rows + columns, rows * columns]).astype(np.float32),
             "model": np.repeat([0, 1], 40).astype(np.uint8)}  # fmt: skip
    return pa.record_batch(table)


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_pairs_does_not_depend_on_the_order_of_the_blocks(seed):
    whole = predicted(seed)
    expected = blend_pairs([whole], MEAN)
    for row, column, value in zip(*(expected[name].to_pylist() for name in expected.column_names), strict=True):
        assert value == 0.25 * (row + int(column)) + 0.75 * row * int(column)
    random = np.random.default_rng(seed)
    shuffled = whole.take(pa.array(random.permutation(80)))
    cuts = [0, *sorted(random.integers(0, 81, 4).tolist()), 80]
    blocks = [shuffled.slice(start, stop - start) for start, stop in pairwise(cuts)]
    assert blend_pairs(blocks, MEAN).equals(expected)
    with pytest.raises(ValueError, match="of each model for each pair"):
        blend_pairs([whole.slice(1)], MEAN)
    with pytest.raises(ValueError, match="of each model for each pair"):
        blend_pairs([whole.slice(1, 78)], MEAN)


def test_codes_do_not_depend_on_the_order_in_which_they_are_read(trained, item_side):
    checkpoint, vocabulary = load_model(item_side.run), load_model(trained.run).vocabulary
    tables = list(encoded_tables(checkpoint.model, Dataset(item_side.data).batches(), (0,)))
    tables.append(codes_schema("string", 8).empty_table())  # as a shard without rows has
    ids = pa.array(["nobody", *checkpoint.vocabulary.ids[:5].to_pylist()])
    forwards, backwards = (
        ColumnPredictor(checkpoint, vocabulary, order).tiles(ids)(3, 50) for order in (tables, tables[::-1])
    )
    assert forwards.shape == (6, 47)
    assert forwards.equal(backwards)


def test_a_model_of_the_same_axis_finds_rows_by_their_ids(trained):
    model, width = load_model(trained.run).model, len(Dataset(trained.data).vocabulary())
    batch = next(Dataset(trained.data).batches())
    ids, held = batch["row"][:20], batch.slice(3)
    order = np.random.default_rng(1).permutation(20)
    found = RowPredictor(model, [held.slice(40), held.slice(0, 40)], (0,)).tiles(ids.take(pa.array(order)))(5, width)
    expected = model.predict(fold_rows(batch.slice(0, 20), (0,), width), clip=False)
    expected[:3] = model.predict(SparseRows.from_rows([torch.zeros(0, 2)], num_columns=width), clip=False)
    torch.testing.assert_close(found, expected[torch.from_numpy(order), 5:])


def test_flags_that_do_not_fit_are_refused_and_leave_nothing(trained, item_side, tmp_path, capsys):
    output = tmp_path / "scores"

    def refused(*flags):
        assert cli.main(["score", "--output", str(output), *flags]) == 2
        assert not output.exists()
        return capsys.readouterr().err

    both = f"{trained.run},{item_side.run}"
    assert "each model needs its data set" in refused("--model", both, "--data", trained.data)
    assert "each model needs its weight" in refused(*blend_flags([1], trained, item_side))
    assert "each model needs its weight" in refused(*blend_flags([1, 2], trained))
    assert "prepare the files once for each axis" in refused("--model", both, "--input", trained.log)
    assert "trained on rows by" in refused("--model", both, "--data", f"{item_side.data},{trained.data}")
    for weights in ("1,x", "1,-1", "0,0", "1,nan", "1,inf", "1,,1"):
        assert "not a list of numbers" in refused(*blend_flags([weights], trained, item_side))


def test_data_sets_that_cannot_be_blended_are_refused(trained, item_side, tmp_path, capsys):
    def other(name, *flags):
        data, run = str(tmp_path / name), str(tmp_path / f"{name}-run")
        command("prepare", "--input", trained.log, "--output", data, *flags)
        command("train", "--data", data, "--output", run, "--hidden", "4", "--epochs", "1", "--threads", "1")
        return Trained(trained.log, data, run)

    def refused(model, *flags):
        output = tmp_path / "scores"
        assert cli.main(["score", "--output", str(output), *blend_flags([1, 1], trained, model), *flags]) == 2
        assert not output.exists()
        message = capsys.readouterr().err
        assert trained.data in message
        assert model.data in message
        return message

    shards = other("shards", "--axis", "user", "--folds", "80,10,10", "--num_shards", "2")
    assert "the same --num_shards" in refused(shards)
    part = pq.read_table(trained.log).slice(1)
    pq.write_table(part, tmp_path / "part.parquet")
    trained = trained._replace(log=str(tmp_path / "part.parquet"))
    assert "differ in their vocabulary" in refused(other("part", "--axis", "user", "--num_shards", "3"))
    folds = other("folds", "--axis", "item", "--folds", "70,20,10")
    assert "the same flags of folds" in refused(folds, "--history_folds", "train")
    numbers = part.set_column(0, "user", pc.cast(part["user"].combine_chunks().dictionary_encode().indices, pa.int64()))
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    trained = trained._replace(log=str(tmp_path / "numbers.parquet"))
    assert "the same --id_type" in refused(other("numbers", "--axis", "item"))


@pytest.mark.parametrize("wanted", ["top_k", "pairs"])
def test_a_blend_that_fails_leaves_nothing(trained, item_side, tmp_path, capsys, wanted):
    """A shard of the first model's data is damaged, which shows when the codes have been written."""
    damaged = tmp_path / "damaged"
    shutil.copytree(trained.data, damaged)
    shard = sorted((damaged / "rows").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[4:400] = bytes(396)
    shard.write_bytes(data)
    what = ["--top_k", "3"]
    if wanted == "pairs":
        rows = sorted(dense_predictions(trained))
        what = ["--pairs", write_pairs(tmp_path / "pairs.csv", [(row, "drama-000") for row in rows])]
    models = [trained._replace(data=str(damaged)), item_side]
    output = tmp_path / "scores"
    assert cli.main(["score", "--output", str(output), *blend_flags([1, 1], *models), *what]) == 2
    assert f"{shard.name} was altered" in capsys.readouterr().err
    assert not output.exists()
