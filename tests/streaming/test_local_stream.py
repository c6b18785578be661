"""A stream in this process: exact wherever it is killed, alone at its output, and by the newest model."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from following import Event, add_file, follow, lists, state_of, written
from killing import TEMPORARY, before_changes
from live_runs import add_checkpoint, begun_run
from samples import ROOT, Trained, command, contents

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.synthetic import item_ids, user_ids
from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming import directory_source, local_stream, state_files, stream_output
from nnsparse_stream.streaming.live_model import LiveModel
from nnsparse_stream.streaming.stream_output import open_output, sole_writer

_KILLS = int(os.environ.get("NNSPARSE_STREAM_KILLS", "0"))


def some_events(number: int, seed: int, first: float, last: float) -> list[Event]:
    """Events of known and of new rows and columns, in order; every tenth takes a rating back."""
    chosen = random.Random(seed)
    users, items = [*user_ids(40).to_pylist(), "new-1", "new-2"], [*item_ids(20).to_pylist(), "western-999"]
    times = sorted(chosen.uniform(first, last) for _ in range(number))
    return [
        (chosen.choice(users), chosen.choice(items), "" if place % 10 == 9 else chosen.randint(1, 10) / 2, round(at, 3))
        for place, at in enumerate(times)
    ]


@pytest.fixture
def by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is a reading and a turn of its own; few files of blocks are many."""
    monkeypatch.setattr(directory_source, "BLOCK_BYTES", 1)
    monkeypatch.setattr(local_stream, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(local_stream, "_ROWS_AT_ONCE", 16)
    monkeypatch.setattr(state_files, "_MOST_FILES", 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files, of two minutes each, with late events of the minutes before, and records that are none."""
    where = tmp_path_factory.mktemp("source") / "events"
    for number in range(6):
        at = number * 100.0
        late = some_events(3, 100 + number, at - 200, at) if number else []
        events = [*some_events(30, number, at, at + 120), *late]
        add_file(where, f"{number}.csv", events, more="user-00001,no rating\n" if number % 2 else "")
    return where


def in_an_hour() -> int:
    """The begin of a minute ahead of the clock, seconds since 1970: windows of then follow the events alone."""
    return int(time.time()) // 60 * 60 + 3600


def note_moments(run: Path, where: Path, patch: pytest.MonkeyPatch) -> dict[str, Path]:
    """From here on, copies of a run as kills would leave it: before changes of files, by their kinds.

    Two of each kind, chosen at random; all of them where NNSPARSE_STREAM_KILLS is set.
    """
    chosen = random.Random(0)
    counts: dict[str, int] = {}
    copies: dict[str, Path] = {}

    def note(change: str, name: str) -> None:
        kind = f"{change} {re.sub('[0-9a-f]{32}|[0-9]+', '#', name)}"
        count = counts[kind] = counts.get(kind, 0) + 1
        for place in [count] if _KILLS else [at for at in (0, 1) if chosen.random() < 1 / count]:
            copy = where / f"{len(counts)}-{re.sub('[^a-z]+', '-', kind)}-{place}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run, copy)
            copies[f"{kind} {place}"] = copy

    before_changes(run, patch, note)
    return copies


def test_a_stream_that_was_killed_before_any_change_of_a_file_goes_on(
    trained: Trained, source: Path, tmp_path: Path, by_file: None
) -> None:
    run, live = tmp_path / "run", LiveModel(trained.run, trained.data, "cpu", 3600)
    with pytest.MonkeyPatch.context() as patch:
        copies = note_moments(run, tmp_path, patch)
        done = follow(trained, source, run, live=live)
    assert (done["events"], done["dead"], done["waiting"]) == (6 * 30 + 5 * 3, 3, 0)
    assert done["late"] > 0
    kinds = {kind.rpartition(" ")[0] for kind in copies}
    assert kinds >= {
        "write windows/#-#-#T#-#-#Z/part-#-of-#-pane-#.parquet", "write windows/#-#-#T#-#-#Z/_complete.json",
        "write _dead_letters/#.jsonl", "write _state/commit.json", "write _state/writing.json",
        "write _state/blocks-#.arrow", "remove _state/writing.json", "remove _state/blocks-#.arrow",
    }  # fmt: skip
    whole, state = written(run), state_of(run)
    assert any("pane-0002" in name for name in whole)
    for kind, copy in copies.items():
        follow(trained, source, copy, live=live)
        found = written(copy)
        assert found.keys() == whole.keys(), f"killed before: {kind}"
        assert [name for name in whole if found[name] != whole[name]] == [], f"killed before: {kind}"
        assert state_of(copy) == state, f"killed before: {kind}"
        assert not [name for name in contents(str(copy)) if TEMPORARY.search(name)]


def test_state_files_stay_few(trained: Trained, source: Path, tmp_path: Path, by_file: None) -> None:
    follow(trained, source, tmp_path)
    assert len(list(tmp_path.glob("_state/blocks-*"))) <= state_files._MOST_FILES + 1


def test_a_stream_that_was_stopped_while_windows_close_goes_on(
    trained: Trained, source: Path, tmp_path: Path, by_file: None
) -> None:
    live = LiveModel(trained.run, trained.data, "cpu", 3600)
    follow(trained, source, tmp_path / "whole", live=live)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 4

    while follow(trained, source, tmp_path / "stopped", live=live, stop=stop)["stopped"]:
        asked = 0
    assert written(tmp_path / "stopped") == written(tmp_path / "whole")


#: Imports what takes long once, and forks for each command, which is killed so many seconds after its begin, or after
#: its first commit.
_CODE = """
import importlib, json, os, signal, sys, time
from nnsparse_stream.pipelines import cli, stream, train
for name in ("base_rows", "live_model", "local_stream", "open_source", "stream_output"):
    importlib.import_module(f"nnsparse_stream.streaming.{name}")
argv, commit, kills, started = json.loads(sys.argv[1])
open(started, "w").close()
def commits():
    return os.stat(commit).st_mtime_ns if os.path.exists(commit) else None
for after_commit, seconds in kills:
    before = commits()
    child = os.fork()
    if not child:
        os._exit(cli.main(argv))
    while after_commit and commits() == before and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.01)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=sys.stderr, flush=True)
"""


def test_a_command_that_is_killed_goes_on(trained: Trained, tmp_path: Path) -> None:
    """Events come while it runs, whose times are ahead of the clock: the windows follow them, and not the clock."""
    begin, source, stop = in_an_hour(), tmp_path / "events", threading.Event()
    started, commit = tmp_path / "started", tmp_path / "killed" / "_state" / "commit.json"

    def feed() -> None:
        number = 0
        while not stop.wait(0.1):
            if not started.exists():
                continue
            add_file(source, f"{number:06}.csv", some_events(10, number, 10 * number, 10 * number + 10), begin)
            number += 1

    def argv(output: str) -> list[str]:
        return ["stream", "--source", str(source), "--data", trained.data, "--model", trained.run, "--device", "cpu",
                "--output", str(tmp_path / output), "--timestamp_column", "timestamp", "--order", "name"]  # fmt: skip

    source.mkdir()
    feeding = threading.Thread(target=feed)
    feeding.start()
    chosen = random.Random()
    kills = [(place % 3 != 1, chosen.uniform(0, 0.7)) for place in range(_KILLS or 3)]
    arguments = json.dumps([argv("killed"), str(commit), kills, str(started)])
    try:
        killed = subprocess.run(
            [sys.executable, "-c", _CODE, arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=800
        )
    finally:
        stop.set()
        feeding.join()
    ends = [line for line in killed.stderr.splitlines() if line.lstrip("-").isdigit()]
    assert ends == [str(-signal.SIGKILL.value)] * len(kills), (kills, killed.stderr)
    for output in ("killed", "whole"):
        command(*argv(output), "--until_idle", "1ms")
    assert lists(tmp_path / "whole")
    assert written(tmp_path / "killed").keys() == written(tmp_path / "whole").keys(), kills
    assert entries(tmp_path / "killed") == entries(tmp_path / "whole"), kills
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole"), kills


def entries(output: Path) -> list[tuple]:
    """All lists but for the scores, of which the last digits hang on what rows were scored at once."""
    return sorted((e["row_id"], e["revision"], e["rank"], e["column_id"]) for e in lists(output))


def test_two_streams_do_not_write_to_one_output(trained: Trained, source: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "live")
    with sole_writer(output), pytest.raises(InputError, match=f"written by another stream, process {os.getpid()} on"):
        follow(trained, source, output)
    assert list(contents(output)) == ["_state/lock"]
    assert follow(trained, source, output)["events"]


def test_where_there_are_no_locks_an_owner_is_named(
    trained: Trained, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = "memory://owned/live"
    with sole_writer(output), pytest.raises(InputError, match="written by another stream"):
        follow(trained, source, output)
    assert "_state/owner.json" not in contents(output)
    monkeypatch.setattr(stream_output, "_LEASE", 0.2)
    with sole_writer(output) as renew:
        time.sleep(0.3)  # it has not renewed its lease, as if it were gone
        with sole_writer(output) as other:
            other()
            with pytest.raises(InputError, match="taken over by another stream"):
                renew()
    monkeypatch.undo()
    assert follow(trained, source, output)["events"]
    assert not [name for name in contents(output) if "owner" in name]


@pytest.mark.parametrize("name", ["notes.txt", "windows/2026/part.csv", "_state/mine.arrow", "manifest.json"])
def test_what_is_not_the_streams_stays(trained: Trained, source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"kind": "nnsparse-stream scores"}')
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not of an earlier output"):
            open_output(str(tmp_path), {}, overwrite)
        with pytest.raises(InputError, match="not of an earlier output"), sole_writer(str(tmp_path)):
            pass
    assert list(contents(str(tmp_path))) == [name]


def test_an_output_belongs_to_one_stream(tmp_path: Path) -> None:
    url = str(tmp_path / "live")
    assert not open_output(url, {"window": "60s"}, overwrite=False)
    assert not open_output(url, {"window": "60s"}, overwrite=False)  # the first wrote nothing
    storage.write_file(f"{url}/_state/commit.json", b"{}")
    assert open_output(url, {"window": "60s"}, overwrite=False)
    with pytest.raises(InputError, match="is of a stream whose `window` is '60s', and not '5s'"):
        open_output(url, {"window": "5s"}, overwrite=False)
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):
        open_output(url, {"window": "60s"}, overwrite=False, go_on=False)
    assert not open_output(url, {"window": "5s"}, overwrite=True)
    assert list(contents(url)) == ["_stream.json"]


def test_a_damaged_state_is_told(trained: Trained, source: Path, tmp_path: Path) -> None:
    follow(trained, source, tmp_path)
    damaged = next(tmp_path.glob("_state/blocks-*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=f"{damaged.name} was altered"):
        follow(trained, source, tmp_path)


def test_a_newer_model_is_used_while_events_come(trained: Trained, tmp_path: Path) -> None:
    run, source, output = begun_run(trained.run, tmp_path), tmp_path / "events", tmp_path / "lists"
    live = LiveModel(run, trained.data, "cpu", 0.05)
    first, begin = live.get(), in_an_hour()
    add_file(source, "1.csv", [("user-00001", "drama-001", 4.0, 1), ("user-00002", "drama-001", 4.0, 62)], begin)
    came: list[int] = []

    def told(figures: dict[str, Any]) -> None:
        if figures["rows"] == 1 and not came:
            add_checkpoint(run)
            came.append(1)
        elif came == [1] and live.get().step > first.step:
            add_file(source, "2.csv", [("user-00001", "drama-001", "", 63), ("new", "drama-001", 3.0, 130)], begin)
            came.append(2)

    def stop() -> bool:
        return len(lists(output, begin + 60)) > 0

    done = follow(trained, source, output, live=live, told=told, until_idle=None, stop=stop)
    assert done["model_step"] == first.step + 10
    before, after = lists(output, begin), lists(output, begin + 60)
    assert {(entry["model_step"], entry["model"]) for entry in before} == {(first.step, first.fingerprint)}
    assert {(entry["model_step"], entry["model"]) for entry in after} == {(live.get().step, live.get().fingerprint)}
    listed = [[entry["column_id"] for entry in some if entry["row_id"] == "user-00001"] for some in (before, after)]
    assert len(listed[0]) == len(listed[1]) == 3
    assert listed[0] != listed[1]
