"""TensorBoard's own reader reads what a run writes."""

import json
from pathlib import Path

import pytest

from nnsparse_stream.pipelines import cli


def test_tensorboard_reads_each_number_of_the_metrics(trained, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    flags = ["--preset", "cfn", "--hidden", "4", "--epochs", "2", "--tensorboard"]
    assert cli.main(["train", "--data", trained.data, "--output", str(run), *flags]) == 0
    read = accumulator.EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for tag, of in (
        ("train/loss", lambda line: line["train"]["loss"]),
        ("validation/rmse", lambda line: line["validation"]["rmse"]),
        ("ratings_per_second", lambda line: line["ratings_per_second"]),
    ):
        found = [(event.step, event.value, event.wall_time) for event in read.Scalars(tag)]
        assert found == [(line["step"], pytest.approx(of(line)), line["time"]) for line in lines]
    assert set(read.Tags()["scalars"]) >= {"train/loss", "train/rmse", "learning_rate", "waiting_for_data"}
    assert cli.main(["train", "--data", trained.data, "--output", str(run), *flags, "--overwrite"]) == 0


def test_without_the_package_the_flag_says_what_to_install(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary.writer.record_writer", None)
    flags = ["--data", trained.data, "--output", str(tmp_path / "run"), "--tensorboard"]
    assert cli.main(["train", *flags]) == 2
    assert "pip install 'nnsparse-stream[tensorboard]'" in capsys.readouterr().err
    assert not Path(tmp_path / "run").exists()
