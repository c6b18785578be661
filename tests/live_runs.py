"""A run that goes on: checkpoints that are added while something looks for the newest."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from nnsparse_stream.checkpoints.checkpoint import load_model, save_checkpoint
from nnsparse_stream.checkpoints.state import checkpoints_of, step_directory


def begun_run(trained_run: str, where: Path) -> str:
    """A copy of a run as it was before its end: it has its last checkpoint and no run.json."""
    run = where / "live"
    shutil.copytree(trained_run, run)
    (run / "run.json").unlink()
    for url in checkpoints_of(str(run))[:-1]:
        shutil.rmtree(url)
    return str(run)


def add_checkpoint(run: str, steps: int = 10, sign: float = -1.0) -> str:
    """A further checkpoint of a run, so many steps after its newest, whose decoder is the newest's times `sign`."""
    newest = load_model(checkpoints_of(run)[-1])
    newest.state["step"] += steps
    with torch.no_grad():
        newest.model.decoder.mul_(sign)
    newest.url = step_directory(run, newest.state["step"])
    save_checkpoint(newest.url, newest, None)
    return newest.url
