"""Training: what it promises of its result, its resumption and its directory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from killed_runs import CASES
from runs import SMALL, assert_same_run, request
from samples import ROOT

from nnsparse_stream.checkpoints.checkpoint import Checkpoint, load_model
from nnsparse_stream.checkpoints.state import checkpoints_of, read_state, write_state
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.judging import judge_batch
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import parse_metrics
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe
from nnsparse_stream.pipelines import cli
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.start import train
from nnsparse_stream.training.steps import Trainer


def weights_of(run):
    return safetensors.torch.load(Path(checkpoints_of(str(run))[-1], "model-00000-of-00001.safetensors").read_bytes())


def test_metrics_improve_and_are_written_for_each_epoch(trained):
    lines = [json.loads(line) for line in Path(trained.run, "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"]
    assert lines[-1]["train"]["rmse"] < lines[0]["train"]["rmse"]
    assert lines[-1]["validation"]["rmse"] < lines[0]["validation"]["rmse"]
    manifest = Dataset(trained.data).manifest
    assert all(line["ratings"] == manifest.fold_entries["train"] for line in lines)


def test_the_same_request_gives_the_same_weights_and_another_seed_others(trained, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(request(trained, tmp_path / name, seed=seed, recipe=recipe("cfn", hidden=(8,), epochs=1)))
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["encoder"], c["encoder"])


def test_a_resumed_run_ends_with_the_weights_and_metrics_of_an_unbroken_one(trained, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(request(trained, whole))
    train(request(trained, broken, recipe=recipe("cfn", hidden=(8,), epochs=1)))
    train(request(trained, broken, resume=True))
    assert_same_run(broken, whole)


def start(trained, output, *flags):
    """A training process."""
    command = [
        sys.executable,
        "-m",
        "nnsparse_stream.pipelines.train",
        "--data",
        trained.data,
        "--output",
        str(output),
        "--threads",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([*command, *flags], env=environment, stdout=subprocess.PIPE, text=True)


def wait_for_checkpoints(output, count, process):
    while len(checkpoints_of(str(output))) < count:
        assert process.poll() is None, "the run ended before it was stopped"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def killed_runs(trained, tmp_path_factory):
    """Where runs lie that were killed, by the names of `killed_runs.CASES`."""
    where = tmp_path_factory.mktemp("killed")
    program = str(Path(__file__).with_name("killed_runs.py"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, program, trained.data, str(where)], env=environment, check=True)
    return where


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_is_killed_at_any_step_goes_on_to_the_same_weights_and_metrics(trained, tmp_path, killed_runs, name):
    whole, killed, small = tmp_path / "whole", killed_runs / name, CASES[name].recipe
    train(request(trained, whole, recipe=small))
    assert checkpoints_of(str(killed))
    assert not (killed / "run.json").exists()
    with pytest.raises(InputError, match=r"did not finish; pass `resume` to go on, or `overwrite`"):
        train(request(trained, killed, recipe=small))
    # Stopped twice more in the middle of an epoch, without another process, then to the end.
    for steps in (read_state(checkpoints_of(str(killed))[-1]).state["step"] + extra for extra in (5, 9)):
        train(request(trained, killed, recipe=small, resume=True, max_steps=steps, checkpoint_steps=1))
    train(request(trained, killed, recipe=small, resume=True))
    assert_same_run(killed, whole)


def test_stacked_pretraining_trains_one_layer_after_the_other_and_then_all(trained, tmp_path):
    """Each stage moves its layer's parameters and no others, and lowers its own loss."""
    small = recipe("cfn-stacked", hidden=(8, 6), epochs=3, pretrain_epochs=3, hide_ratio=0.0, initial_std=0.1)
    keep = {"keep_checkpoints": 100}
    train(request(trained, tmp_path / "run", recipe=small, **keep))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["layer"] for line in lines] == [1, 1, 1, 2, 2, 2, None, None, None]
    assert ["rmse" not in line["train"] for line in lines] == [False] * 3 + [True] * 3 + [False] * 3
    assert [line["validation"] is None for line in lines] == [True] * 6 + [False] * 3
    for stage in (lines[:3], lines[3:6], lines[6:]):
        assert stage[2]["train"]["loss"] < stage[0]["train"]["loss"]
    saved = [
        safetensors.torch.load(Path(url, "model-00000-of-00001.safetensors").read_bytes())
        for url in checkpoints_of(str(tmp_path / "run"))
    ]
    for before, after, layer in ((saved[0], saved[2], 1), (saved[3], saved[5], 2), (saved[6], saved[8], None)):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        inner = {name for name in before if name.startswith("inner.")}
        outer = before.keys() - inner - {"column_counts"}
        assert moved == {1: outer, 2: inner, None: outer | inner}[layer]


def test_dense_refeeding_brings_the_model_nearer_to_a_fixed_point(trained, tmp_path):
    """With all columns it is the original: f(f(x)) is fitted to f(x)."""

    def distance(refeed_columns):
        run = tmp_path / f"run-{refeed_columns}"
        small = recipe("cfn", hidden=(8,), epochs=6, weight_decay=0.0, refeed_columns=refeed_columns)
        train(request(trained, run, recipe=small))
        model = load_model(str(run)).model
        rows = fold_rows(next(Dataset(trained.data).batches()), (0,), model.config.num_columns)
        everywhere = SparseRows.from_dense(torch.ones(rows.num_rows, rows.num_columns))
        with torch.no_grad():
            once = model.estimate(model.residuals(rows, model.row_means(rows)), everywhere)
            twice = model.estimate(once, everywhere)
        return float((once.values - twice.values).square().mean() / once.values.square().mean())

    assert distance(10_000) < 0.5 * distance(0)


def test_a_signal_writes_a_checkpoint_and_ends_the_process_with_143(trained, tmp_path):
    process = start(trained, tmp_path / "run", "--hidden", "8", "--epochs", "100000")
    wait_for_checkpoints(tmp_path / "run", 1, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143
    assert "--resume goes on from there" in output
    state = load_model(str(tmp_path / "run")).state
    assert state["step"] == max(
        int(Path(url).name.removeprefix("step-")) for url in checkpoints_of(str(tmp_path / "run"))
    )
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_finished_run_is_not_touched_by_resume(trained, tmp_path):
    run = tmp_path / "run"
    train(request(trained, run))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    train(request(trained, run, resume=True))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_patience_ends_the_run_and_the_model_is_the_best_epochs(trained, tmp_path):
    overfitting = recipe("cfn", hidden=(64,), epochs=60, weight_decay=0.0, decoder_weight_decay=0.0, learning_rate=0.3)
    summary = train(request(trained, tmp_path / "run", recipe=overfitting, patience=2))
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    errors = [line["validation"]["rmse"] for line in history]
    assert len(errors) < 60
    best = min(range(len(errors)), key=errors.__getitem__)
    assert best == len(errors) - 3
    assert summary["best"] == {
        "epoch": best + 1,
        "step": history[best]["step"],
        "metric": "rmse",
        "value": errors[best],
    }
    assert load_model(str(tmp_path / "run")).state["step"] == history[best]["step"]
    assert {Path(url).name for url in checkpoints_of(str(tmp_path / "run"))} == {
        f"step-{history[epoch]['step']:09d}" for epoch in (best, len(errors) - 2, len(errors) - 1)
    }


def test_the_best_epoch_is_that_of_any_metric_in_its_direction(trained, tmp_path):
    plan = {"recipe": recipe("cfn", hidden=(8,), epochs=30, learning_rate=0.3), "patience": 1}
    run = tmp_path / "run"
    summary = train(request(trained, run, **plan, validation_metric="ndcg@5"))
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation"]["ndcg@5"] for line in history]
    best = len(values) - 2
    assert values[:-1] == sorted(values[:-1])  # each better than the one before, but the last
    assert values[-1] <= values[best]
    assert summary["best"] == {
        "epoch": best + 1, "step": history[best]["step"], "metric": "ndcg@5", "value": values[best],
    }  # fmt: skip
    assert load_model(str(run)).state["step"] == history[best]["step"]
    metrics = parse_metrics(["ndcg@5", "rmse", "mae"])
    batches, num_columns = Dataset(trained.data).batches(), Dataset(trained.data).manifest.num_columns
    parts = (judge_batch(load_model(str(run)).model, batch, 1, metrics) for batch in batches)
    assert history[best]["validation"] == pytest.approx(sum(parts, MetricSums.of(metrics, num_columns)).values())
    assert "ndcg@5 by epoch" in (run / "report.html").read_text()


def test_a_metric_that_cannot_decide_is_refused_before_anything_is_written(trained, tmp_path, capsys):
    flags = ["train", "--data", trained.data, "--output", str(tmp_path / "run")]
    assert cli.main([*flags, "--validation_metric", "ndgc@5"]) == 2
    assert "there is no metric 'ndgc@5'" in capsys.readouterr().err
    data = str(tmp_path / "unvalidated")
    assert cli.main(["prepare", "--input", trained.log, "--output", data, "--axis", "user", "--folds", "90,0,10"]) == 0
    assert cli.main(["train", "--data", data, "--output", str(tmp_path / "run"), "--validation_metric", "mae"]) == 2
    assert "--validation_metric needs a validation fold" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_ends_after_the_steps_that_it_was_given(trained, tmp_path):
    summary = train(request(trained, tmp_path / "run", max_steps=17))
    assert summary["steps"] == 17
    assert load_model(str(tmp_path / "run")).state["step"] == 17


def test_checkpoints_are_written_by_time(trained, tmp_path):
    train(request(trained, tmp_path / "run", max_steps=5, checkpoint_minutes=1e-9, keep_checkpoints=100))
    assert [int(Path(url).name.removeprefix("step-")) for url in checkpoints_of(str(tmp_path / "run"))] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_the_learning_rate_follows_its_schedule():
    inverse = recipe("cfn")
    assert inverse.learning_rate_at(2, 0.2) == pytest.approx(0.06 / (1 + 2 * 0.176))
    cosine = RatingRecipe(learning_rate=1.0, schedule="cosine", warmup=0.1)
    assert [cosine.learning_rate_at(1, p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert RatingRecipe(learning_rate=0.3).learning_rate_at(7, 0.9) == 0.3


def test_columns_count_as_trained_by_the_data_set_and_not_by_what_was_drawn(trained, tmp_path):
    """Of a row heavier than `batch_entries` an epoch draws a part."""
    few = recipe("cfn", hidden=(4,), epochs=2, batch_entries=1)
    train(request(trained, tmp_path / "run", recipe=few, max_steps=3))
    manifest = Dataset(trained.data).manifest
    expected = torch.zeros(manifest.num_columns, dtype=torch.int64)
    for batch in Dataset(trained.data).batches():
        columns = fold_rows(batch, (0,), manifest.num_columns).columns.long()
        expected += torch.bincount(columns, minlength=manifest.num_columns)
    assert torch.equal(load_model(str(tmp_path / "run")).model.column_counts, expected)
    train(request(trained, tmp_path / "run", recipe=few, resume=True, max_steps=9))
    assert torch.equal(load_model(str(tmp_path / "run")).model.column_counts, expected)


def test_a_run_is_used_without_its_data_set_and_holds_the_vocabulary_once(trained, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(trained.data, data)
    train(request(trained, run, data=str(data), keep_checkpoints=3))
    vocabulary = Dataset(str(data)).vocabulary().ids
    shutil.rmtree(data)
    shutil.move(run, tmp_path / "moved")
    for url in (str(tmp_path / "moved"), *checkpoints_of(str(tmp_path / "moved"))):
        assert load_model(url).vocabulary.ids.equals(vocabulary)
    assert len(list((tmp_path / "moved").rglob("*.parquet"))) == 1


def test_clipping_bounds_the_step(trained):
    clipped = RatingRecipe(hidden=(4,), learning_rate=1.0, clip_norm=1e-3, hide_ratio=0.0)
    checkpoint = load_model(trained.run)
    checkpoint.state["step"] = 0
    trainer = Trainer(checkpoint, clipped, 0, torch.device("cpu"))
    before = {name: value.clone() for name, value in checkpoint.model.named_parameters()}
    width = checkpoint.model.config.num_columns
    trainer.train_batch(SparseRows.from_rows([(torch.tensor([0, 1]), torch.tensor([5.0, 1.0]))], width), 1.0)
    moved = sum((value - before[name]).square().sum() for name, value in checkpoint.model.named_parameters())
    assert float(moved.detach()) ** 0.5 == pytest.approx(1e-3, rel=1e-2)


def test_a_step_equals_dense_autograd_and_sgd_on_the_touched_rows(trained, tmp_path):
    plan = RatingRecipe(hidden=(4,), alpha=1.5, beta=0.5, hide_ratio=0.3, learning_rate=0.1, learning_rate_decay=0.0,
                  weight_decay=0.2, decoder_weight_decay=0.3)  # fmt: skip
    train(request(trained, tmp_path / "run", recipe=recipe("cfn", hidden=(4,), epochs=1)))
    checkpoint: Checkpoint = load_model(str(tmp_path / "run"))
    checkpoint.model.double()
    checkpoint.state["step"] = 0  # no optimiser state to take up
    trainer = Trainer(checkpoint, plan, seed=5, device=torch.device("cpu"))
    batch = SparseRows.from_rows(
        [
            (torch.tensor([0, 3, 7]), torch.tensor([5.0, 3.0, 4.0]).double()),
            (torch.tensor([3, 9]), torch.tensor([1.0, 2.0]).double()),
        ],
        num_columns=checkpoint.model.config.num_columns,
    )
    model = checkpoint.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train_batch(batch, 0.1)

    dense = {name: value.clone().requires_grad_() for name, value in before.items() if value.is_floating_point()}
    x = torch.zeros(2, model.config.num_columns, dtype=torch.float64)
    rows, columns = batch.row_indices().long(), batch.columns.long()
    targets = (batch.values - torch.tensor([4.0, 1.5]).double()[rows]) / model.config.unit
    hidden = trainer.objective.criterion.corrupted
    x[rows, columns] = torch.where(hidden, 0.0, targets)
    code = torch.tanh(x @ dense["encoder"] + dense["encoder_bias"])
    estimates = torch.tanh(code @ dense["decoder"].t() + dense["decoder_bias"])[rows, columns]
    (torch.where(hidden, 1.5, 0.5) * (estimates - targets) ** 2).sum().div(2).backward()
    touched = torch.zeros(model.config.num_columns, dtype=torch.bool)
    touched[columns] = True
    for name, decay in (("encoder", 0.2), ("decoder", 0.3), ("encoder_bias", 0.0), ("decoder_bias", 0.0)):
        value = before[name]
        updated = value - 0.1 * (dense[name].grad + decay * value)
        if name in ("encoder", "decoder"):
            updated = torch.where(touched[:, None], updated, value)
        torch.testing.assert_close(model.state_dict()[name], updated, rtol=0, atol=1e-12)


def test_what_cannot_be_resumed_is_refused_with_the_reason(trained, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match="holds no run to resume"):
        train(request(trained, run, resume=True))
    train(request(trained, run))
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):
        train(request(trained, run))
    with pytest.raises(InputError, match=r"other settings: learning_rate was 0\.06, is 0\.5"):
        train(request(trained, run, resume=True, recipe=recipe("cfn", hidden=(8,), epochs=4, learning_rate=0.5)))
    with pytest.raises(InputError, match="other settings: validation_metric was rmse, is ndcg@5"):
        train(request(trained, run, resume=True, validation_metric="ndcg@5"))
    with pytest.raises(InputError, match="has trained 3 epochs already"):
        train(request(trained, run, resume=True, recipe=recipe("cfn", hidden=(8,), epochs=2)))
    assert weights_of(run)


def test_a_field_that_the_recipe_did_not_have_yet_was_its_default(trained, tmp_path):
    run = tmp_path / "run"
    train(request(trained, run, max_steps=2, checkpoint_steps=1))
    last = read_state(checkpoints_of(str(run))[-1])
    del last.state["recipe"]["inner_precision"], last.state["recipe"]["decay_rows"]
    write_state(last.url, last.state)
    other = replace(SMALL, inner_precision="bfloat16")
    with pytest.raises(InputError, match=r"settings: inner_precision was float32, is bfloat16$"):
        train(request(trained, run, recipe=other, resume=True))
    train(request(trained, run, resume=True))
    assert read_state(checkpoints_of(str(run))[-1]).state["recipe"] == SMALL.to_json()


def test_only_the_last_two_checkpoints_are_kept(trained):
    assert len(checkpoints_of(trained.run)) == 2


def test_a_data_set_without_training_ratings_is_refused(trained, tmp_path):
    data = str(tmp_path / "data")
    assert cli.main(["prepare", "--input", trained.log, "--output", data, "--axis", "user", "--folds", "0,0,100"]) == 0
    with pytest.raises(InputError, match="no rating in its training fold"):
        train(request(trained, tmp_path / "run", data=data))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rate", [1e3, 1e12, 1e30])
def test_divergence_is_an_error_that_says_what_to_do_and_leaves_nothing(trained, tmp_path, rate, capsys):
    flags = ["--hidden", "8", "--epochs", "3", "--learning_rate", str(rate), "--output_activation", "identity"]
    assert cli.main(["train", "--data", trained.data, "--output", str(tmp_path / "run"), *flags]) == 2
    assert "lower --learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_divergence_of_what_reads_no_ratings_does_not_name_any(trained, tmp_path):
    lists = recipe("ranking-dense", units=4, epochs=2, optimizer="sgd", warmup=0.0, learning_rate=1e30)
    with pytest.raises(InputError, match=r"lower `learning_rate`$"):
        train(request(trained, tmp_path / "run", recipe=lists))
    assert not (tmp_path / "run").exists()


def test_ratings_whose_squared_errors_overflow_are_named(trained, tmp_path):
    log, data = tmp_path / "huge.csv", str(tmp_path / "data")
    log.write_text("user,item,rating\n" + "".join(f"{k % 5},{k // 5},{k % 3 + 1}e37\n" for k in range(40)))
    assert cli.main(["prepare", "--input", str(log), "--output", data, "--axis", "user"]) == 0
    with pytest.raises(InputError, match=r"diverged in epoch 1, .* extreme ratings .* between 1e\+37 and 3e\+37"):
        train(request(trained, tmp_path / "run", data=data, recipe=recipe("cfn", hidden=(4,), epochs=1)))


def test_a_failure_before_the_first_checkpoint_leaves_nothing_and_removes_nothing(trained, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(trained.data, data)
    train(request(trained, run))
    before = sorted(path for path in run.rglob("*"))
    shutil.rmtree(data / "columns")
    with pytest.raises(InputError, match="columns/part"):
        train(request(trained, run, data=str(data), overwrite=True))
    assert sorted(path for path in run.rglob("*")) == before
    with pytest.raises(InputError, match="columns/part"):
        train(request(trained, tmp_path / "new", data=str(data)))
    assert not (tmp_path / "new").exists()
    shutil.copytree(Path(trained.data) / "columns", data / "columns")
    shard = min((data / "rows").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{shard.name} has .* truncated"):
        train(request(trained, run, data=str(data), overwrite=True))
    assert sorted(path for path in run.rglob("*")) == before


def test_cuda_where_there_is_none_is_refused(trained, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="sees no usable GPU"):
        train(request(trained, tmp_path / "run", device="cuda"))
