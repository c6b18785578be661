"""Checkpoints: which data sets a model reads, what of it is read by whom, and how often."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from samples import Trained, command

from nnsparse_stream.checkpoints import checkpoint
from nnsparse_stream.checkpoints.state import checkpoints_of, read_state
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.pipelines import cli
from nnsparse_stream.training.steps import Trainer


def test_a_model_reads_a_later_data_set_of_the_same_columns(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pq.read_table(trained.log)
    # Other counts, so another order were it not for the earlier vocabulary.
    pq.write_table(log.slice(0, 3000), tmp_path / "same.parquet")
    extra = pa.table({"user": ["user-00000"], "item": ["new"], "rating": pa.array([3.0], pa.float32())})
    pq.write_table(pa.concat_tables([log.slice(0, 3000), extra]), tmp_path / "more.parquet")
    pq.write_table(log.slice(3000, 3000), tmp_path / "third.parquet")
    flags = ["--axis", "user", "--num_shards", "2"]
    for name, earlier in (("same", trained.data), ("more", trained.data), ("third", str(tmp_path / "same"))):
        source, out = str(tmp_path / f"{name}.parquet"), str(tmp_path / name)
        command("prepare", "--input", source, "--output", out, *flags, "--vocabulary", earlier)
    command("prepare", "--input", str(tmp_path / "same.parquet"), "--output", str(tmp_path / "apart"), *flags)
    lists = ["--output", str(tmp_path / "scores")]
    for name, what, code, message in (
        ("same", ["evaluate"], 0, ""),
        ("third", ["evaluate"], 0, ""),
        ("more", ["evaluate"], 0, "The model has not 1 of the"),
        ("more", ["score", *lists], 2, "more has 1 columns more than the model"),
        ("apart", ["evaluate"], 2, "has another vocabulary"),
    ):
        assert cli.main([*what, "--model", trained.run, "--data", str(tmp_path / name)]) == code
        told = capsys.readouterr()
        assert message in (told.err if code else told.out)


def test_a_process_reads_a_model_once_and_its_driver_none(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, load_tensors = [], checkpoint.load_tensors
    monkeypatch.setattr(checkpoint, "load_tensors", lambda state: read.append(state.url) or load_tensors(state))
    run, other = str(tmp_path / "run"), str(tmp_path / "other")
    shutil.copytree(trained.run, run)
    shutil.copytree(trained.run, other)
    command("evaluate", "--model", run, "--data", trained.data)
    assert len(read) == 1
    # Two stages use it: one drops ratings of unknown columns, one scores.
    command("score", "--model", other, "--input", trained.log, "--output", str(tmp_path / "scores"))
    assert len(read) == 2
    for url in checkpoints_of(run):
        Path(url, "model-00000-of-00001.safetensors").unlink()
    assert read_state(run).state == read_state(trained.run).state


def test_loading_draws_no_random_number(trained: Trained) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    checkpoint.load_model(trained.run)
    assert torch.equal(torch.rand(3), expected)


def test_a_damaged_checkpoint_is_not_gone_on_from(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The compiled loops would write beyond a tensor with fewer rows."""
    run, flags = str(tmp_path / "run"), ["--data", trained.data, "--preset", "best-small", "--hidden", "4"]
    command("train", *flags, "--output", run, "--steps", "3", "--threads", "1")
    path = Path(checkpoints_of(run)[-1], "optimizer-00000-of-00001.safetensors")
    tensors = safetensors.torch.load(path.read_bytes())
    tensors["0.first"] = tensors["0.first"][:2].clone()
    path.write_bytes(safetensors.torch.save(tensors))
    assert cli.main(["train", *flags, "--output", run, "--threads", "1", "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"{path} is damaged" in error
    assert "Traceback" not in error
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        Trainer(checkpoint.load_model(run), recipe("best-small", hidden=(4,)), 0, torch.device("cpu"))
