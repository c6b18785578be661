"""A model's checkpoint on a worker: read once in a process, shared by its threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apache_beam.utils.shared import Shared

if TYPE_CHECKING:
    from nnsparse_stream.checkpoint import Checkpoint


class CheckpointHandle:
    """Travels to workers as a URL; `get` there reads the checkpoint on first use.

    Args:
        url: a checkpoint's directory (not a run's, whose last checkpoint may change while the job runs).
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._shared = Shared()

    def get(self) -> Checkpoint:
        """The checkpoint, on the GPU where the worker has one."""
        loaded: Checkpoint = self._shared.acquire(self._load, tag=self._url)
        return loaded

    def _load(self) -> Checkpoint:
        from nnsparse_stream.checkpoint import load_model
        from nnsparse_stream.trainer import pick_device

        checkpoint = load_model(self._url)
        checkpoint.model.to(pick_device("auto"))
        return checkpoint
