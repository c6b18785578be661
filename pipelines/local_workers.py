"""Worker processes of this machine, as Beam starts them in process: they end with their run, and are missed before.

Beam waits for ever for one that was killed, and an interrupt may leave some of them that it waits for as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
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
_LOOK_SECONDS, _GRACE_SECONDS = 0.02, 5.0


class WorkerLostError(StoreError):
    """A worker process of this machine has ended before its work had."""


@contextlib.contextmanager
def ended_with_the_run() -> Iterator[None]:
    """Ends the workers that Beam starts meanwhile: all when one has ended by itself, or at SIGINT and SIGTERM.

    What a signal was to do is done then. For the main thread, which alone may handle signals; in others it does
    nothing.

    Raises:
        WorkerLostError: a worker has ended by itself, as one that was killed.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return
    lost: list[str] = []
    over = threading.Event()
    ending: list[threading.Thread] = []
    levels = [logger.level for logger in _LOGGERS_OF_CONNECTIONS]

    def end_all() -> None:
        """Also those that are about to be started."""
        while _is_waited_for():
            _kill_workers()
            if over.wait(_LOOK_SECONDS):
                return

    def end() -> None:
        if not ending:
            ending.append(threading.Thread(target=end_all, daemon=True))
            ending[0].start()

    def interrupted(number: int, frame: FrameType | None) -> None:
        if lost and number == signal.SIGINT:
            raise KeyboardInterrupt
        if before[number] == signal.SIG_IGN:
            return
        end()
        if callable(before[number]):
            before[number](number, frame)
        elif before[number] == signal.SIG_DFL:
            _kill_workers()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def missed(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else ""
        if name in _READ or (ending and name == _WAITS):
            return
        if name != _WAITS or _is_closing(main):
            told(args)
            return
        lost.append(f"a worker process {_end_in(str(args.exc_value))} before its work was done")
        end()
        signal.pthread_kill(main.ident or 0, signal.SIGINT)

    for logger in _LOGGERS_OF_CONNECTIONS:
        logger.setLevel(logging.CRITICAL)  # one breaks with a worker, which is told by its end
    told, threading.excepthook = threading.excepthook, missed
    before: dict[int, Any] = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    for sign in before:
        signal.signal(sign, interrupted)
    try:
        yield
    except BaseException as error:
        if lost:
            raise WorkerLostError(lost[0]) from error
        raise
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        if ending:
            ending[0].join(_GRACE_SECONDS)
            over.set()
        else:  # or some threads have yet to say that their worker is gone
            threading.excepthook = told
            for logger, level in zip(_LOGGERS_OF_CONNECTIONS, levels, strict=True):
                logger.setLevel(level)


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


def _is_closing(main: threading.Thread) -> bool:
    """Whether Beam ends the workers, since they have done their work."""
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import WorkerHandlerManager

    return _is_within(WorkerHandlerManager.close_all, sys._current_frames().get(main.ident or 0))


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
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = []
    for pid, parent in parents.items():
        if os.getpid() in (parent, parents.get(parent)):
            with contextlib.suppress(OSError):
                if _RUNS in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return found
