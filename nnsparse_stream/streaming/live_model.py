"""The newest model of a run, exchanged while it is in use."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import NamedTuple

from nnsparse_stream.checkpoints.checkpoint import Checkpoint, load_tensors
from nnsparse_stream.checkpoints.state import CheckpointState, checkpoints_of, read_state
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.devices import pick_device
from nnsparse_stream.storage import files as storage

_LOGGER = logging.getLogger(__name__)
# A file that names a model holds one URL.
_POINTER_BYTES = 4096


class Current(NamedTuple):
    """A model in use.

    Attributes:
        checkpoint: the model, on its device, and its vocabulary, which is read.
        step: of its training.
        fingerprint: identifies its weights, 12 hexadecimal digits.
    """

    checkpoint: Checkpoint
    step: int
    fingerprint: str


def fingerprint_of(state: CheckpointState) -> str:
    """Identifies a model's weights and vocabulary, wherever they lie: 12 hexadecimal digits."""
    parts = (state.state["vocabulary"], *(file.sha256 for file in state.model_files))
    return storage.sha256("".join(parts).encode())[:12]


class LiveModel:
    """The newest model that a URL stands for; a thread looks for a newer one as long as this object is held.

    The new model is read while the old one is in use, and takes its place at once: the two are in memory together
    during that, and beyond it as long as a caller of `get` holds what that gave; never three. A model that cannot be
    used (a file is damaged; it predicts something else, or other columns, than the data set has) is refused with a
    warning, once, and not read again before its state.json names other files; the old one goes on.

    A stream does not know the features of rows: a model that reads these predicts as for rows without any.

    Args:
        url: of a run, which stands for the checkpoint that `score` would take: the newest whole one as long as the
            run goes on, then the one that its run.json names; of one checkpoint's directory; or of a file that holds
            the URL of either, as text: a pointer, to be overwritten when the model is to be another one.
        data: URL of the data set whose rows are scored. The model's vocabulary is the data set's, an earlier one that
            it goes on from, or an extension of it, which begins with the same ids.
        device: see `nnsparse_stream.nn.devices.pick_device`.
        refresh: seconds from one look to the next.

    Attributes:
        refusals: how many models were refused.
    """

    def __init__(self, url: str, data: str, device: str = "auto", refresh: float = 30.0) -> None:
        self._url, self._data, self._device, self._refresh = url, data, device, refresh
        self._current: Current | None = None
        self._looking = threading.Lock()
        self._stopped = threading.Event()
        self._refused: tuple[str, str] | None = None
        self._told: str | None = None
        self.refusals = 0

    def get(self) -> Current:
        """The model to use now; do not hold it longer than for one call.

        The first call reads the model, and starts the thread. Where the newest checkpoint of a run is damaged, that is
        the newest which is not.

        Raises:
            InputError: there is no model, or none that can be used with the data set.
            StoreError: its store does not answer.
        """
        current = self._current
        if current is None:
            with self._looking:
                current = self._current
                if current is None:
                    current = self._current = self._first()
                    self._start()
        return current

    def look(self) -> bool:
        """Looks for a newer model now, and takes it.

        Returns:
            Whether the model was exchanged. False where what is there is in use already, or was refused, or the store
            does not answer; the last two are logged.
        """
        with self._looking:
            try:
                state = read_state(_named_by(self._url))
                if self._is_known(state):
                    return False
                self._current = self._load(state)
            except InputError as error:
                self._refuse(error)
                return False
            except StoreError as error:
                self._warn(str(error))
                return False
            self._told = None
            _LOGGER.info("%s: the model of step %d is in use", state.url, state.state["step"])
            return True

    def close(self) -> None:
        """Ends the thread; the model stays what it is."""
        self._stopped.set()

    def _is_known(self, state: CheckpointState) -> bool:
        """Whether a checkpoint is in use, or was refused."""
        current, fingerprint = self._current, fingerprint_of(state)
        if current is not None and (current.step, current.fingerprint) == (state.state["step"], fingerprint):
            return True
        return self._refused == (state.url, fingerprint)

    def _first(self) -> Current:
        url = _named_by(self._url)
        try:
            return self._load(read_state(url))
        except InputError as error:
            # A process that begins while a damaged checkpoint lies there goes on from where the others are.
            for earlier in reversed(checkpoints_of(url)):
                try:
                    state = read_state(earlier)
                    found = None if self._is_known(state) else self._load(state)
                except InputError:
                    continue
                if found is not None:
                    self._refuse(error)
                    return found
            raise

    def _load(self, state: CheckpointState) -> Current:
        """Reads a model that is not the one in use."""
        try:
            vocabulary = self._vocabulary(state)
            checkpoint = load_tensors(state)
        except InputError:
            self._refused = (state.url, fingerprint_of(state))
            raise
        checkpoint.vocabulary = vocabulary
        checkpoint.model.to(pick_device(self._device))
        return Current(checkpoint, state.state["step"], fingerprint_of(state))

    def _vocabulary(self, state: CheckpointState) -> Vocabulary:
        """The vocabulary of a model, checked; that of the model in use where the two are the same."""
        manifest = Manifest.read(self._data)
        state.check_kind(manifest, self._data)
        held = None if self._current is None else self._current.checkpoint
        if held is not None and held.state["columns"] == state.state["columns"]:
            return held.vocabulary
        vocabulary = state.read_vocabulary()
        if state.known_columns(manifest, self._data) is None:
            first = Dataset(self._data).vocabulary().ids
            if not vocabulary.ids.slice(0, len(first)).cast(first.type).equals(first):
                raise InputError(
                    f"the model in {state.url} has another vocabulary than {self._data}, and does not extend it: train "
                    "it on this data set, or on one that was prepared with `vocabulary` from it"
                )
        return vocabulary

    def _refuse(self, error: InputError) -> None:
        if self._warn(str(error)):
            self.refusals += 1

    def _warn(self, message: str) -> bool:
        """Logs a message unless it is the last that was; says whether it did."""
        if message == self._told:
            return False
        self._told = message
        _LOGGER.warning("the model is not exchanged: %s", message)
        return True

    def _start(self) -> None:
        # The thread holds no reference to this object while it waits: it ends when nobody else holds one.
        weakref.finalize(self, self._stopped.set)
        arguments = (weakref.ref(self), self._refresh, self._stopped)
        threading.Thread(target=_look_on, args=arguments, name="live model", daemon=True).start()


def _look_on(of: weakref.ref[LiveModel], refresh: float, stopped: threading.Event) -> None:
    due = time.monotonic() + refresh
    while not stopped.wait(max(0.0, due - time.monotonic())):
        due = time.monotonic() + refresh
        live = of()
        if live is None:
            return
        try:
            live.look()
        except Exception:  # what it may be, scoring goes on, and so does looking
            _LOGGER.exception("looking for a newer model failed")
        del live


def _named_by(url: str) -> str:
    """The URL of a run or a checkpoint: what a pointer holds, or the URL itself."""
    found = storage.info(url)
    if found is None or found["type"] != "file":
        return url
    try:
        named = storage.read_file(url)[: _POINTER_BYTES + 1].decode().strip()
    except UnicodeDecodeError:
        named = ""
    if not named or len(named) > _POINTER_BYTES or "\n" in named:
        raise InputError(f"{url} is a file, and names no model: write the URL of a run or of a checkpoint into it")
    return named
