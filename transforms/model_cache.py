"""Models, and the codes of rows, on a worker: read once in a process, shared by its threads."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from apache_beam.utils.shared import Shared

if TYPE_CHECKING:
    from nnsparse_stream.checkpoints.checkpoint import Checkpoint
    from nnsparse_stream.ids.vocabulary import Vocabulary
    from nnsparse_stream.scoring.predictors import ColumnPredictor
    from nnsparse_stream.streaming.live_model import LiveModel

_T = TypeVar("_T")
# The checkpoints that any handle of this process holds.
_LOADED: weakref.WeakValueDictionary[tuple[str, ...], Checkpoint] = weakref.WeakValueDictionary()
# The live models, likewise.
_LIVE: weakref.WeakValueDictionary[tuple[str, str, str, float], LiveModel] = weakref.WeakValueDictionary()
_LOADING = threading.Lock()


class _Handle(Generic[_T]):
    """Travels to workers without what it stands for; `get` there loads that on first use."""

    def __init__(self) -> None:
        self._shared = Shared()
        self._held: _T | None = None

    def get(self) -> _T:
        """What the handle stands for; one object for all copies of the handle in a process."""
        # Beam itself keeps only the object that a process asked for last, and a blend needs several by turns.
        held = self._held
        if held is None:
            held = self._held = self._shared.acquire(self._load)
        return held

    def _load(self) -> _T:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}


class CheckpointHandle(_Handle["Checkpoint"]):
    """A checkpoint on a device; all handles of one in a process, and its threads, share it.

    Args:
        url: a checkpoint's directory (not a run's, whose last checkpoint may change while the job runs).
        device: of the worker; see `nnsparse_stream.nn.devices.pick_device`.
    """

    def __init__(self, url: str, device: str = "auto") -> None:
        super().__init__()
        self._url, self._device = url, device

    def _load(self) -> Checkpoint:
        from nnsparse_stream.checkpoints.checkpoint import load_tensors
        from nnsparse_stream.checkpoints.state import read_state
        from nnsparse_stream.nn.devices import pick_device

        state, device = read_state(self._url), pick_device(self._device)
        # Also by what it holds: a process may live longer than a run.
        key = (state.url, *(file.sha256 for file in state.model_files), str(device))
        with _LOADING:
            checkpoint = _LOADED.get(key)
            if checkpoint is None:
                checkpoint = _LOADED[key] = load_tensors(state)
                checkpoint.model.to(device)
        return checkpoint


class VocabularyHandle(_Handle["Vocabulary"]):
    """The vocabulary of a checkpoint, for steps that run no model.

    Args:
        url: a checkpoint's directory.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def _load(self) -> Vocabulary:
        from nnsparse_stream.checkpoints.state import read_state

        return read_state(self._url).read_vocabulary()


class ColumnPredictorHandle(_Handle["ColumnPredictor"]):
    """A model of the other axis with the codes of its rows, aligned to the columns of a blend's first model.

    Args:
        checkpoint: the model.
        first: the blend's first model.
        files: URLs of the files of codes, to be there when `get` is called.
    """

    def __init__(self, checkpoint: CheckpointHandle, first: CheckpointHandle, files: list[str]) -> None:
        super().__init__()
        self._checkpoint, self._first, self._files = checkpoint, first, files

    def _load(self) -> ColumnPredictor:
        from nnsparse_stream.scoring.files import read_codes
        from nnsparse_stream.scoring.predictors import ColumnPredictor

        return ColumnPredictor(self._checkpoint.get(), self._first.get().vocabulary, map(read_codes, self._files))


class LiveModelHandle(_Handle["LiveModel"]):
    """The newest model of a run; all handles of one in a process share it, and the one thread that looks for it.

    Args:
        url, data, device, refresh: as `nnsparse_stream.streaming.live_model.LiveModel` takes them.
    """

    def __init__(self, url: str, data: str, device: str, refresh: float) -> None:
        super().__init__()
        self._of = (url, data, device, refresh)

    def _load(self) -> LiveModel:
        from nnsparse_stream.streaming.live_model import LiveModel

        with _LOADING:
            live = _LIVE.get(self._of)
            if live is None:
                live = _LIVE[self._of] = LiveModel(*self._of)
        return live
