"""A stream on Flink whose model is exchanged while the job runs: every worker process takes the new one, and soon."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from live_runs import add_checkpoint, begun_run
from samples import Trained
from test_stream_engines import flags_of, make_events
from test_stream_flink_kills import Stream, Writer

from commands import pool_workers
from deploy.engines.flink.cluster import FlinkCluster

#: Seconds between two looks for a newer model, and those that are granted beyond: 3 are promised, and a machine that is
#: busy with other tests gets more. What was measured is in the table at the end.
REFRESH, GRACE = 2.0, 10.0


def files_by_shard(output: Path) -> dict[int, list[tuple[float, int, str]]]:
    """When each file of a shard was written, and the step and the fingerprint of the model that made all of it."""
    found = defaultdict(list)
    for path in output.glob("windows/*/*.parquet"):
        table = pq.read_table(path, columns=["model_step", "model"])
        ((step, model),) = set(zip(*table.to_pydict().values(), strict=True))
        found[int(path.name.split("-")[1])].append((path.stat().st_mtime, step, model))
    return found


def records_read(flink: FlinkCluster, job: str, step: str) -> list[int]:
    """How many records each subtask of a step has read; one runs in each task manager, and has a worker of its own."""
    (vertex,) = [vertex["id"] for vertex in flink.rest(f"jobs/{job}")["vertices"] if step in vertex["name"]]
    subtasks: Any = flink.rest(f"jobs/{job}/vertices/{vertex}")["subtasks"]
    return [subtask["metrics"]["read-records"] for subtask in subtasks]


def test_a_new_checkpoint_is_used_by_every_process_of_flink(
    flink: FlinkCluster,
    trained: Trained,
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    started, output = time.monotonic(), tmp_path / "out"
    run = begun_run(trained.run, tmp_path)
    flags = flags_of(trained._replace(run=run), tmp_path / "in", "--model_refresh", f"{REFRESH}s", "--window", "1s")
    with Writer(tmp_path / "in", make_events(trained.log, 25_000)):
        stream = Stream(flink, output, *flags)
        try:
            stream.wait_for_windows(3)
            stream.wait("work for both", lambda: all(records_read(flink, stream.name, "Keep")))
            before = files_by_shard(output)
            stream.wait("both workers", lambda: len(pool_workers(flink.servers)) == 2)
            state = Path(add_checkpoint(run)) / "state.json"  # is written last
            whole, step = state.stat().st_mtime, json.loads(state.read_text())["step"]
            bound = whole + REFRESH + GRACE
            stream.wait(
                "a file of each shard after that",
                lambda: all(max(files_by_shard(output)[shard])[0] > bound for shard in before),
            )
        finally:
            stream.driver.kill()
            stream.cancel()
    shards = files_by_shard(output)
    first = []
    for shard in before:
        files = shards[shard]
        assert min(files)[1] < step
        assert [round(at - whole, 1) for at, of, _ in files if at > bound and of != step] == []
        first.append(min(at for at, of, _ in files if of == step) - whole)
    assert len({model for files in shards.values() for _, _, model in files}) == 2
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    # Seconds after the checkpoint was whole: of each shard the first file by the new model; of all the last by the old.
    last = max(at - whole for shard in before for at, of, _ in shards[shard] if of != step)
    record_property("checksum", f"in use {min(first):.1f}-{max(first):.1f} s, the old one until {last:.1f} s")
