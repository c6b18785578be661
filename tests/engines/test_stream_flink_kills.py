"""A stream on Flink of which a worker, a task manager and the driver are killed, and which is stopped and taken up."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from samples import Trained
from test_stream_engines import assert_same_files, flags_of, make_events

from commands import command, kill_process, pool_workers, run_command
from deploy.engines.flink.cluster import FlinkCluster

_PATIENCE = 240.0


class Writer(threading.Thread):
    """Adds files of events that bear the time at which they are written, until it is told to stop, or left."""

    def __init__(self, directory: Path, events: pa.Table) -> None:
        super().__init__(daemon=True)
        directory.mkdir()
        self._directory, self._events, self.written = directory, events, 0
        self.stopped = threading.Event()

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()

    def run(self) -> None:
        number, last = 0, time.time()
        while not self.stopped.wait(0.5):
            now = time.time()
            part = self._events.slice(self.written, 20)
            times = np.linspace(last, now, len(part), endpoint=False)
            part = part.set_column(3, "timestamp", pa.array((times * 1e6).astype(np.int64)))
            half = self._directory / f"{number:05d}.csv.tmp"
            pyarrow.csv.write_csv(part, half)
            half.rename(half.with_suffix(""))
            self.written += len(part)
            number, last = number + 1, now


class Stream:
    """The job of the command `stream`."""

    def __init__(self, flink: FlinkCluster, output: Path, *flags: object) -> None:
        self._flink, self._output = flink, output
        before = set(self._jobs())
        argv = command("stream", *flags, "--output", output, *flink.streaming_flags())
        self.driver = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.wait("the job", lambda: self.driver.poll() is not None or bool(set(self._jobs()) - before))
        assert self.driver.poll() is None, self.driver.communicate()[1].decode()
        (self.name,) = set(self._jobs()) - before

    def _jobs(self) -> dict[str, str]:
        found: Any = self._flink.rest("jobs")["jobs"]
        return {job["id"]: job["status"] for job in found}

    def windows(self) -> int:
        return len(list(self._output.glob("windows/*/_complete.json")))

    def checkpoints(self, what: str) -> int:
        counts: Any = self._flink.rest(f"jobs/{self.name}/checkpoints")["counts"]
        return int(counts[what])

    def wait_for_windows(self, count: int) -> None:
        wanted = self.windows() + count
        self.wait(f"{wanted} windows", lambda: self.windows() >= wanted)

    def survive(self, kill: Callable[[], None]) -> None:
        """Kills something after a checkpoint, and waits until the job goes on from there and makes the next one."""
        self.wait_for_a_checkpoint()
        restored = self.checkpoints("restored")
        kill()
        self.wait("the restart", lambda: self.checkpoints("restored") > restored)
        self.wait_for_a_checkpoint()
        self.wait_for_windows(1)

    def wait_for_a_checkpoint(self) -> None:
        done = self.checkpoints("completed")
        self.wait("a checkpoint", lambda: self.checkpoints("completed") > done)

    def cancel(self) -> None:
        if self._jobs()[self.name] == "RUNNING":
            self._flink.cancel(self.name)

    def wait(self, what: str, is_there: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not is_there():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.2)


@pytest.fixture
def writer(trained: Trained, tmp_path: Path) -> Iterator[Writer]:
    with Writer(tmp_path / "in", make_events(trained.log, 25_000)) as writer:
        yield writer


def test_a_stream_is_exact_after_kills_and_a_savepoint(
    flink: FlinkCluster,
    trained: Trained,
    writer: Writer,
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    started, output = time.monotonic(), tmp_path / "out"
    # Nothing is late, however slow the machine is: so windows, panes and revisions are those of the undisturbed loop.
    flags = flags_of(trained, tmp_path / "in", "--pairs", "--out_of_order", "15s")
    stream = Stream(flink, output, *flags, "--until_idle", "15s")

    def kill_a_worker() -> None:
        stream.wait("a worker", lambda: any(kill_process(pid) for pid in pool_workers(flink.servers)))

    def kill_a_task_manager() -> None:
        flink.servers.kill("task-manager-1")
        flink.start()

    try:
        stream.wait_for_windows(1)
        stream.survive(kill_a_worker)
        stream.survive(kill_a_task_manager)
        savepoint = flink.stop_with_savepoint(stream.name)
        assert stream.driver.wait(60) == 0, stream.driver.communicate()[1].decode()
        stream = Stream(flink, output, *flags, "--until_idle", "15s", f"--savepoint_path={savepoint}")
        stream.wait_for_windows(1)
        stream.driver.kill()  # its job goes on
        writer.stopped.set()
        writer.join()
        stream.wait("the end", (output / "_state" / "ended.json").exists)
    finally:
        stream.driver.kill()
        stream.cancel()
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    # The local loop ends by the clock as well, when its watermark has passed the last event by as much.
    done = run_command("stream", *flags, "--until_idle", "17s", "--output", tmp_path / "expected")
    assert done.returncode == 0, done.stderr
    assert_same_files(output, tmp_path / "expected", writer.written)
