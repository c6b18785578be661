"""Training runs in this process, and what two of them have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from samples import Trained

from nnsparse_stream.checkpoints.state import checkpoints_of
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.training.run import TrainingRequest

SMALL = recipe("cfn", hidden=(8,), epochs=3)
#: What metrics say of the machine rather than of the model.
_OWN = {"time", "seconds", "ratings_per_second", "waiting_for_data", "peak_memory_bytes",
        "slowest_worker", "slowest_seconds", "median_seconds", "merging_seconds"}  # fmt: skip


def request(trained: Trained, output: str | Path, **fields: Any) -> TrainingRequest:
    """A run of three epochs with one thread."""
    return TrainingRequest(**{"data": trained.data, "output": str(output), "recipe": SMALL, "threads": 1, **fields})


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs end with equal weights, optimiser state and metrics but for times and memory, bit for bit."""
    for ours, theirs in zip(_tensors(one), _tensors(other), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert _metrics(one) == _metrics(other)


def _tensors(run: Path) -> list[dict[str, torch.Tensor]]:
    last = Path(checkpoints_of(str(run))[-1])
    return [safetensors.torch.load(path.read_bytes()) for path in sorted(last.glob("*.safetensors"))]


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{**_told(line), "rounds": [_told(one) for one in line.get("rounds", ())]} for line in lines]


def _told(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in _OWN}
