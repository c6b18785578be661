"""`stream`: lists by windows that equal a batch's on the same known ratings, run again and again as a schedule does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from following import Event, add_file, lists
from live_runs import add_checkpoint, begun_run
from samples import ROOT, Trained, command, contents
from scores import score

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.pipelines import cli
from nnsparse_stream.streaming.events import SECOND
from nnsparse_stream.streaming.stream_output import sole_writer
from nnsparse_stream.streaming.windows import Windows

#: (window, pane, row), the window by its begin in seconds after that of the first one.
_At = tuple[int, int, str]


@pytest.fixture
def begin() -> int:
    """The begin of a minute ahead of the clock: windows of then follow the events alone."""
    return int(time.time()) // 60 * 60 + 3600


def flags(trained: Trained, where: Path) -> list[str]:
    return ["--source", str(where / "events"), "--data", trained.data, "--model", trained.run, "--device", "cpu",
            "--output", str(where / "live"), "--timestamp_column", "timestamp", "--until_idle", "1ms"]  # fmt: skip


def told(output: Path, begin: int) -> dict[_At, list[tuple[str, int, float]]]:
    """The lists that lie there: column, rank, score."""
    found: dict[_At, list[tuple[str, int, float]]] = {}
    for path in sorted(output.glob("windows/*/*.parquet")):
        window, pane = Windows.begin_of_name(path.parent.name) // SECOND - begin, int(path.stem.rpartition("-")[2])
        for entry in pq.read_table(path).to_pylist():
            found.setdefault((window, pane, entry["row_id"]), []).append(
                (entry["column_id"], entry["rank"], entry["score"])
            )
    return found


def known_at(log: dict[str, dict[str, float]], events: list[Event], row: str) -> dict[str, float]:
    """A row's ratings: those of the log, overlaid by the events, of each pair the latest."""
    known = dict(log.get(row, {}))
    for _, column, value, _ in sorted((e for e in events if e[0] == row), key=lambda e: (e[3], e[2] == "", str(e[2]))):
        known.pop(column, None)
        if value != "":
            known[column] = float(value)
    return known


#: What comes between the runs of a schedule; and the windows that a run writes with their panes and rows, and up to
#: which window events count there.
_RUNS: list[tuple[list[Event], dict[tuple[int, int], set[str]]]] = [
    (
        [
            ("user-00001", "drama-001", 5.0, 1),
            ("user-00001", "crime-002", 1.0, 2),
            ("user-00001", "crime-002", 4.0, 3),  # a pair's latest counts
            ("user-00001", "crime-002", 4.0, 3),  # the same again
            ("user-00002", "drama-003", 2.0, 30),
            ("new", "drama-001", 3.5, 31),
            ("new", "no-such-item", 3.0, 32),
            ("user-00001", "horror-004", 2.5, 62),
        ],
        {(0, 0): {"user-00001", "user-00002", "new"}},
    ),
    (
        [
            ("user-00002", "drama-003", 4.5, 40),  # late, for the first window
            ("new", "drama-001", "", 70),  # taken back
            ("new", "comedy-001", 4.0, 90),
            ("user-00003", "comedy-001", 4.0, 130),
            ("user-00003", "comedy-002", 2.0, 110),  # out of order, and in time
        ],
        {(0, 1): {"user-00002"}, (60, 0): {"user-00001", "new", "user-00003"}},
    ),
    ([], {}),
    (
        [
            ("user-00002", "drama-003", 0.5, 35),  # late, and older than what is known
            ("user-00001", "horror-004", "", 61),  # older than the rating that it would take back
            ("user-00004", "comedy-001", 4.0, 900),
        ],
        {(0, 2): {"user-00002"}, (60, 1): {"user-00001"}, (120, 0): {"user-00003"}},
    ),
    (
        [("user-00005", "crime-001", 4.0, 10), ("user-00005", "crime-003", 4.0, 961)],  # later than is allowed
        {(840, 0): {"user-00005"}, (900, 0): {"user-00004"}},
    ),
]


_LATE = [0, 1, 0, 2, 1]


def test_lists_equal_a_batchs_on_the_same_known_ratings(
    trained: Trained, tmp_path: Path, begin: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log: dict[str, dict[str, float]] = {}
    for user, item, rating in zip(*(column.to_pylist() for column in pq.read_table(trained.log)), strict=True):
        log.setdefault(user, {})[item] = rating
    events: list[Event] = []
    known: dict[_At, dict[str, float]] = {}
    for run, (added, closed) in enumerate(_RUNS):
        if added:
            add_file(
                tmp_path / "events", f"{run}.csv", added, begin, "user-00001,drama-001,five,1\n" if run == 1 else ""
            )
        events += added
        before = set(told(tmp_path / "live", begin))
        command("stream", *flags(trained, tmp_path), "--top_k", "4")
        new = set(told(tmp_path / "live", begin)) - before
        assert new == {(*window, row) for window, rows in closed.items() for row in rows}
        for window, pane, row in new:
            # The last window takes what came too late for its own; a late pane knows what its window's end knew.
            seen = [event for event in events if event[3] < window + 60]
            known[window, pane, row] = known_at(log, seen, row)
        said = capsys.readouterr().out
        assert f"events        {len(added)}, {_LATE[run]} of them late\n" in said
    rated = tmp_path / "known.csv"
    names = {at: "/".join(map(str, at)) for at in known}
    rated.write_text(
        "user,item,rating\n"
        + "".join(f"{names[at]},{item},{value}\n" for at, of_row in known.items() for item, value in of_row.items())
    )
    batch = score(tmp_path, "--input", str(rated), "--model", trained.run, "--top_k", "4", "--device", "cpu")
    wanted: dict[str, list[tuple[str, int, float]]] = {}
    for entry in batch.sort_by([("row_id", "ascending"), ("rank", "ascending")]).to_pylist():
        wanted.setdefault(entry["row_id"], []).append((entry["column_id"], entry["rank"], entry["score"]))
    live = told(tmp_path / "live", begin)
    assert live.keys() == known.keys()
    for at, listed in live.items():
        assert [entry[:2] for entry in listed] == [entry[:2] for entry in wanted[names[at]]], at
        assert [entry[2] for entry in listed] == pytest.approx([entry[2] for entry in wanted[names[at]]], abs=1e-5)
    letters = [json.loads(data) for name, data in contents(str(tmp_path / "live")).items() if "_dead_letters" in name]
    assert [letter["text"] for letter in letters] == ["user-00001,drama-001,five,1"]
    complete = {path.parent.name for path in (tmp_path / "live").glob("windows/*/_complete.json")}
    assert complete == {Windows.name((begin + window) * SECOND) for window, _, _ in known}

    command("stream", "--output", str(tmp_path / "live"), "--compact", str(tmp_path / "latest"))
    latest: dict[str, list[tuple[str, int, float]]] = {}
    for entry in pq.read_table(tmp_path / "latest").to_pylist():
        latest.setdefault(entry["row_id"], []).append((entry["column_id"], entry["rank"], entry["score"]))
    newest = {"user-00001": (60, 1), "user-00002": (0, 2), "user-00003": (120, 0), "new": (60, 0),
              "user-00004": (900, 0), "user-00005": (840, 0)}  # fmt: skip
    assert latest == {row: live[(*window, row)] for row, window in newest.items()}


def test_a_model_is_exchanged_between_two_runs(trained: Trained, tmp_path: Path, begin: int) -> None:
    run = begun_run(trained.run, tmp_path / "models")
    pointer, steps = tmp_path / "model.txt", []
    for number, model in enumerate((trained.run, add_checkpoint(run))):
        pointer.write_text(model)
        at = 60 * number
        events: list[Event] = [("user-00001", "drama-001", 4.0, at), ("user-00002", "drama-001", 4.0, at + 61)]
        add_file(tmp_path / "events", f"{number}.csv", events, begin)
        command("stream", *flags(trained._replace(run=str(pointer)), tmp_path))
        steps.append(load_model(model).state["step"])
        assert {entry["model_step"] for entry in lists(tmp_path / "live", begin + at)} == {steps[-1]}
    assert steps[0] != steps[1]


def test_ratings_of_events_are_predicted(trained: Trained, tmp_path: Path) -> None:
    add_file(tmp_path / "events", "1.csv", [("user-00001", "drama-001", 4.0, 1), ("user-00001", "drama-002", "", 1)])
    command("stream", *flags(trained, tmp_path), "--pairs")
    (pair,) = lists(tmp_path / "live")
    assert (pair["row_id"], pair["column_id"], pair["rating"]) == ("user-00001", "drama-001", 4.0)


def test_a_signal_ends_it_and_the_same_command_goes_on(trained: Trained, tmp_path: Path, begin: int) -> None:
    add_file(
        tmp_path / "events", "1.csv", [("user-00001", "drama-001", 4.0, 1), ("user-00001", "drama-001", 4.0, 61)], begin
    )
    argv = flags(trained, tmp_path)[:-2]
    running = subprocess.Popen(
        [sys.executable, "-m", "nnsparse_stream.pipelines", "stream", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    commit = tmp_path / "live" / "_state" / "commit.json"
    while not commit.exists() and running.poll() is None:
        time.sleep(0.05)
    assert cli.main(["stream", *argv]) == 2  # another one's at work
    running.send_signal(signal.SIGTERM)
    said = running.communicate()[0]
    assert running.returncode == cli.STOPPED
    assert said.endswith("stopped; what was read is committed, and the same command goes on from there\n")
    assert "waiting       1 events" in said
    add_file(tmp_path / "events", "2.csv", [("user-00002", "drama-001", 4.0, 121)], begin)
    command("stream", *argv, "--until_idle", "1ms")
    assert {row for _, _, row in told(tmp_path / "live", begin)} == {"user-00001"}
    assert len(told(tmp_path / "live", begin)) == 2


def test_it_says_how_it_does(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnsparse_stream.pipelines.stream.TELL_SECONDS", 0.0)
    add_file(tmp_path / "events", "1.csv", [("user-00001", "drama-001", 4.0, 1)])
    command("stream", *flags(trained, tmp_path))
    step = load_model(trained.run).state["step"]
    said = capsys.readouterr().out
    assert "events 1, late 0, dead 0, rows scored 1, lag " in said
    assert f"model step {step}\n" in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--window", "30"], "'30' is no duration: a number and ms, s, m, h or d, as 60s or 5m"),
        (["--window", "0s"], "--window is a whole number of milliseconds"),
        (["--window", "5s"], "of a stream whose --window is '60s', and not '5s'"),
        (["--pairs"], "of a stream whose --pairs is False, and not True"),
        (["--feedback", "implicit"], "the events are implicit feedback, and what"),
        (["--source", "nowhere"], "nowhere"),
        (["--output", "events/live"], "lies in the input"),
        (["--runner", "DirectRunner"], "leave out --runner"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    changed: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    add_file(tmp_path / "events", "1.csv", [("user-00001", "drama-001", 4.0, 1)])
    command("stream", *flags(trained, tmp_path))
    before = contents(str(tmp_path / "live"))
    assert cli.main(["stream", *flags(trained, tmp_path), *changed]) == 2
    assert message in capsys.readouterr().err
    assert set(contents(str(tmp_path / "live"))) == set(before)


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stream", "--output", str(tmp_path / "live"), "--data", "data"]) == 2
    assert "--source and --model missing" in capsys.readouterr().err
    assert not (tmp_path / "live").exists()


def test_overwrite_begins_anew(trained: Trained, tmp_path: Path) -> None:
    add_file(tmp_path / "events", "1.csv", [("user-00001", "drama-001", 4.0, 1)])
    command("stream", *flags(trained, tmp_path))
    with sole_writer(str(tmp_path / "live")):
        assert cli.main(["stream", *flags(trained, tmp_path), "--overwrite"]) == 2
    assert lists(tmp_path / "live")
    command("stream", *flags(trained, tmp_path), "--overwrite", "--window", "1h")
    assert [os.path.basename(path) for path in (tmp_path / "live").glob("windows/*")] == ["2023-11-14T22-00-00Z"]
