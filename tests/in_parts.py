"""A model in parts, without a run around it."""

from __future__ import annotations

import json

from nnsparse_stream.checkpoints.parts import write_part
from nnsparse_stream.checkpoints.state import CheckpointState, tensors_of
from nnsparse_stream.nn.model import Model


def in_parts(url: str, model: Model, parts: int) -> CheckpointState:
    """Writes a model in parts; gives what of a checkpoint's state is needed to read them."""
    files = [write_part(url, model, p, parts) for p in range(parts)]
    described = {"kind": model.kind, **json.loads(json.dumps(model.config.to_json()))}
    return CheckpointState(url, {"step": 0, "model": described, "tensors": tensors_of(files, [])})
