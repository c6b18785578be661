"""Training: what it promises of its result, its resumption and its directory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nnsparse_stream.checkpoint import Checkpoint, checkpoints_of, load_model
from nnsparse_stream.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.presets import Recipe, recipe
from nnsparse_stream.rows import SparseRows
from nnsparse_stream.training import Trainer, TrainingRequest, train
from pipelines import cli

SMALL = recipe("cfn", hidden=(8,), epochs=3)


def weights_of(run):
    return safetensors.torch.load(Path(checkpoints_of(str(run))[-1], "model.safetensors").read_bytes())


def request(trained, output, **fields):
    return TrainingRequest(**{"data": trained.data, "output": str(output), "recipe": SMALL, "threads": 1, **fields})


def test_metrics_improve_and_are_written_for_each_epoch(trained):
    lines = [json.loads(line) for line in Path(trained.run, "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["train_rmse"] < lines[0]["train_rmse"]
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
    ours, theirs = weights_of(broken), weights_of(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    timeless = [
        [{k: v for k, v in json.loads(line).items() if k in ("epoch", "step", "loss", "train_rmse", "validation")}
         for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, broken)
    ]  # fmt: skip
    assert timeless[0] == timeless[1]


def test_a_run_that_is_killed_goes_on_to_the_same_weights(trained, tmp_path):
    train(request(trained, tmp_path / "whole", recipe=recipe("cfn", hidden=(8,), epochs=40)))
    flags = ["--data", trained.data, "--output", str(tmp_path / "killed"), "--hidden", "8", "--epochs", "40",
             "--threads", "1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-m", "pipelines.train", *flags], env=environment)
    deadline = time.monotonic() + 100
    while not checkpoints_of(str(tmp_path / "killed")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "run.json").exists(), "the run ended before it was killed"

    with pytest.raises(InputError, match=r"did not finish; pass --resume to go on, or --overwrite"):
        train(request(trained, tmp_path / "killed"))
    assert cli.main(["train", *flags, "--resume"]) == 0
    ours, theirs = weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_equals_dense_autograd_and_sgd_on_the_touched_rows(trained, tmp_path):
    dataset = Dataset(trained.data)
    plan = Recipe(hidden=(4,), alpha=1.5, beta=0.5, hide_ratio=0.3, learning_rate=0.1, learning_rate_decay=0.0,
                  weight_decay=0.2, decoder_weight_decay=0.3)  # fmt: skip
    train(request(trained, tmp_path / "run", recipe=recipe("cfn", hidden=(4,), epochs=1)))
    checkpoint: Checkpoint = load_model(str(tmp_path / "run"))
    checkpoint.model.double()
    trainer = Trainer(checkpoint, dataset, plan, seed=5, device=torch.device("cpu"))
    batch = SparseRows.from_rows(
        [
            (torch.tensor([0, 3, 7]), torch.tensor([5.0, 3.0, 4.0]).double()),
            (torch.tensor([3, 9]), torch.tensor([1.0, 2.0]).double()),
        ],
        num_columns=checkpoint.model.config.num_columns,
    )
    model = checkpoint.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train_batch(batch)

    dense = {name: value.clone().requires_grad_() for name, value in before.items() if value.is_floating_point()}
    x = torch.zeros(2, model.config.num_columns, dtype=torch.float64)
    rows, columns = batch.row_indices().long(), batch.columns.long()
    targets = (batch.values - torch.tensor([4.0, 1.5]).double()[rows]) / model.half_range
    hidden = trainer.criterion.corrupted
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
    with pytest.raises(InputError, match="exists already; pass --overwrite"):
        train(request(trained, run))
    with pytest.raises(InputError, match=r"other settings: learning_rate was 0\.06, is 0\.5"):
        train(request(trained, run, resume=True, recipe=recipe("cfn", hidden=(8,), epochs=4, learning_rate=0.5)))
    with pytest.raises(InputError, match="has trained 3 epochs already"):
        train(request(trained, run, resume=True, recipe=recipe("cfn", hidden=(8,), epochs=2)))
    assert weights_of(run)


def test_only_the_last_two_checkpoints_are_kept(trained):
    assert len(checkpoints_of(trained.run)) == 2


def test_a_data_set_without_training_ratings_is_refused(trained, tmp_path):
    data = str(tmp_path / "data")
    assert cli.main(["prepare", "--input", trained.log, "--output", data, "--axis", "user", "--folds", "0,0,100"]) == 0
    with pytest.raises(InputError, match="no rating in its training fold"):
        train(request(trained, tmp_path / "run", data=data))
    assert not (tmp_path / "run").exists()


def test_divergence_is_an_error_that_says_what_to_do(trained, tmp_path):
    exploding = recipe("cfn", hidden=(8,), epochs=3, learning_rate=1e12, weight_decay=1e3)
    with pytest.raises(InputError, match=r"diverged .* lower --learning_rate"):
        train(request(trained, tmp_path / "run", recipe=exploding))


def test_cuda_where_there_is_none_is_refused(trained, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="sees no usable GPU"):
        train(request(trained, tmp_path / "run", device="cuda"))
