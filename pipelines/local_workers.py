"""Worker processes of this machine, as Beam starts them in process: they end with their run, and are missed before.

Beam waits for ever for one that was killed, and an interrupt may leave some of them that it waits for as well.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from nnsparse_stream.errors import StoreError

#: Beam's names of the thread that waits for a worker's end and of those that read from it, and the module that it runs.
_WAITS, _READ = "run_worker", {"beam_control_read", "read_grpc_client_inputs"}
_RUNS = b"apache_beam.runners.worker.sdk_worker_main"
_LOGGERS_OF_CONNECTIONS = [
    logging.getLogger(f"apache_beam.runners.{name}")
    for name in ("worker.data_plane", "portability.fn_api_runner.worker_handlers")
]
_LOOK_SECONDS, _GRACE_SECONDS, _READ_SECONDS = 0.02, 5.0, 0.5


class WorkerLostError(StoreError):
    """A worker process of this machine has ended before its work had."""


@contextlib.contextmanager
def ended_with_the_run() -> Iterator[None]:
    """Ends the workers that Beam starts meanwhile when one of them has failed, or a SIGINT or SIGTERM ends the run.

    What a signal was to do is done. For the main thread, which alone may handle signals; in others it does nothing.

    Raises:
        WorkerLostError: a worker has failed, as one that was killed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    run = _Run()
    hook, threading.excepthook = threading.excepthook, run.missed
    levels = [logger.level for logger in _LOGGERS_OF_CONNECTIONS]
    for logger in _LOGGERS_OF_CONNECTIONS:
        logger.setLevel(logging.CRITICAL)  # one breaks with a worker, which is told by its end
    for sign in run.before:
        signal.signal(sign, run.interrupted)
    try:
        yield
    except BaseException as error:
        if run.lost and not run.is_asked:
            raise WorkerLostError(run.lost) from error
        raise
    finally:
        for sign, handler in run.before.items():
            signal.signal(sign, handler)
        run.leave()
        threading.excepthook = hook
        for logger, level in zip(_LOGGERS_OF_CONNECTIONS, levels, strict=True):
            logger.setLevel(level)


class _Run:
    """What becomes of the workers of one run.

    Attributes:
        before: what SIGINT and SIGTERM did before the run.
        lost: how the first worker that failed has ended; "" where none did.
        is_asked: whether a signal that is not our own has come, and was not ignored.
    """

    def __init__(self) -> None:
        self.before: dict[int, Any] = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
        self.lost, self.is_asked = "", False
        self._told = threading.excepthook
        self._is_ours = False  # the next SIGINT
        self._left = threading.Event()
        self._ends: list[threading.Thread] = []
        self._lock = threading.RLock()  # a signal may come while another one is handled

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if number == signal.SIGINT and self._is_ours:
            self._is_ours = False
            raise KeyboardInterrupt
        before = self.before[number]
        self.is_asked |= before != signal.SIG_IGN
        if callable(before):
            try:
                before(number, frame)
            except BaseException:
                self._end()
                raise
        elif before == signal.SIG_DFL:
            _kill_workers()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def missed(self, args: threading.ExceptHookArgs) -> None:
        """Handles the exception of a thread, which is how Beam tells that a worker has failed."""
        name = args.thread.name if args.thread else ""
        if name in _READ or (self._ends and name == _WAITS):
            return
        if name != _WAITS or _is_closing():
            self._told(args)
            return
        self.lost = f"a worker process {_end_in(str(args.exc_value))} before its work was done"
        self._end()
        self._interrupt()

    def leave(self) -> None:
        """Waits until the workers have ended, where they are to."""
        now = time.monotonic()
        while self._ends and (
            (_is_waited_for() and time.monotonic() < now + _GRACE_SECONDS)
            or (_is_read_from() and time.monotonic() < now + _READ_SECONDS)
        ):
            time.sleep(_LOOK_SECONDS)
        self._left.set()
        for thread in self._ends:
            thread.join()  # and what waited for a worker has said so by then

    def _end(self) -> None:
        with self._lock:
            if not self._ends:
                thread = threading.Thread(target=self._end_all, daemon=True)
                thread.start()
                self._ends.append(thread)

    def _end_all(self) -> None:
        """Kills workers until the run is left, also those that are about to be started."""
        again = time.monotonic() + 2 * _GRACE_SECONDS
        while True:
            if _is_waited_for():
                _kill_workers()
            if self._left.wait(_LOOK_SECONDS):
                return
            if time.monotonic() > again:  # an interrupt that comes to a destructor is dropped
                again = math.inf
                self._interrupt()

    def _interrupt(self) -> None:
        self._is_ours = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _end_in(error: str) -> str:
    """How a worker ended, by Beam's words for it: the code of the process, or of the shell that had started it."""
    found = re.search(r"return code (-?\d+)", error)
    code = int(found[1]) if found else 1
    number = -code if code < 0 else code - 128
    return f"was ended by signal {number}" if number > 0 else f"ended with exit code {code}"


def _is_waited_for() -> bool:
    """Whether a thread of Beam waits for a worker's end. An interrupted join takes a thread for ended, so by frames."""
    from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

    return any(_is_within(SubprocessSdkWorker.run, frame) for frame in sys._current_frames().values())


def _is_read_from() -> bool:
    return any(thread.name in _READ for thread in threading.enumerate())


def _is_closing() -> bool:
    """Whether Beam ends the workers, since they have done their work."""
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import WorkerHandlerManager

    return _is_within(WorkerHandlerManager.close_all, sys._current_frames().get(threading.main_thread().ident or 0))


def _is_within(function: Any, frame: FrameType | None) -> bool:
    return any(outer.f_code is function.__code__ for outer, _ in traceback.walk_stack(frame))


def _kill_workers() -> None:
    for pid in workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def workers() -> list[int]:
    """The workers that this process has started, by a shell or not; none where the system has no /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold spaces; the state and the parent follow it.
            parents[int(stat.parent.name)] = int(stat.read_bytes().rpartition(b")")[2].split()[1])
    found = []
    for pid, parent in parents.items():
        if os.getpid() in (parent, parents.get(parent)):
            with contextlib.suppress(OSError):
                if _RUNS in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return found
