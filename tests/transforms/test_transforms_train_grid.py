"""TrainGrid: each run is the one that `train` makes, fails alone, and goes on where work is made again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from runs import assert_same_run, request
from samples import Trained, contents
from shuffles import coders_of_shuffles, falls_back

import nnsparse_stream.transforms.coders
from nnsparse_stream.errors import InputError
from nnsparse_stream.grids.grid import grid_runs
from nnsparse_stream.grids.grid_comparison import Member, Outcome
from nnsparse_stream.grids.grid_members import run_url
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.pipelines.running import IN_PROCESS_RUNNER, run_pipeline
from nnsparse_stream.training.progress import Progress
from nnsparse_stream.training.start import train
from nnsparse_stream.transforms import TrainGrid, train_grid

GRID = [{"learning_rate": [0.06, 1e38]}, {"preset": "linear"}, {"seed": 1}]
GOOD, DIVERGES, LINEAR, OTHER = "learning_rate_0.06", "learning_rate_1e38", "linear", "seed_1"


def members_of(trained: Trained, output: Path) -> list[Member]:
    found = []
    for run in grid_runs(GRID, "grid.json"):
        fields = dict(run.fields)
        small = {} if fields.get("preset") == "linear" else {"hidden": (8,), "epochs": 2}
        asked = {name: fields.pop(name) for name in ("preset", "seed") if name in fields}
        held = recipe(asked.pop("preset", "cfn"), **small, **fields)
        found.append(Member(run, request(trained, run_url(str(output), run.name), recipe=held, **asked)))
    return found


def model_of(run: Path) -> dict[str, bytes]:
    return {name: held for name, held in contents(str(run)).items() if name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def grid(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid's directory, as an undisturbed pipeline leaves it."""
    output = tmp_path_factory.mktemp("grid") / "grid"
    run_pipeline(lambda pipeline: pipeline | TrainGrid(members_of(trained, output), str(output)), [])
    return output


def test_a_run_is_the_one_that_train_makes(trained: Trained, grid: Path, tmp_path: Path) -> None:
    for member in members_of(trained, tmp_path):
        if member.run.name != DIVERGES:
            train(member.request)
            alone = tmp_path / "runs" / member.run.name
            assert model_of(alone)
            assert model_of(grid / "runs" / member.run.name) == model_of(alone)


def test_a_run_that_diverges_fails_alone(trained: Trained, grid: Path) -> None:
    found = json.loads((grid / "grid.json").read_text())
    failed = {run["name"]: run["failed"] for run in found["runs"]}
    assert list(failed) == [GOOD, DIVERGES, LINEAR, OTHER]
    assert failed.pop(DIVERGES).startswith("training diverged in epoch 1, at a learning rate of ")
    assert set(failed.values()) == {None}
    assert [best["run"] for best in found["best"]] == [min(
        (run["value"], run["name"]) for run in found["runs"] if run["name"] in (GOOD, OTHER)
    )[1]]  # fmt: skip
    assert sorted(path.name for path in grid.iterdir()) == ["grid.json", "report.html", "runs", "table.csv"]
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):  # when it is built
        _ = beam.Pipeline() | TrainGrid(members_of(trained, grid), str(grid))


class Killed(BaseException):
    """What ends an attempt as the end of its process would."""


class Killing(Progress):
    """Ends a run after so many minibatches of all its attempts, and counts them."""

    def __init__(self, after: int) -> None:
        self.after, self.trained = after, 0

    def batch_trained(self, sums: dict[str, Any], figures: Any) -> None:
        self.trained += 1
        if self.trained == self.after:
            raise Killed


def test_work_that_is_made_again_goes_on(
    trained: Trained, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies after the first epoch of a run, and at the end of the pipeline all is made again."""
    steps = json.loads((grid / "runs" / GOOD / "run.json").read_text())["steps"]
    progress, process, begin = Killing(steps - 3), train_grid._Train.process, train_grid._Begin.process

    def killed(self: Any, name: str) -> Iterator[bytes]:
        with monkeypatch.context() as patch:
            if name == GOOD:
                patch.setattr(train_grid, "Told", lambda _: progress)
                with pytest.raises(Killed):
                    list(process(self, name))
            first = list(process(self, name))
            assert list(process(self, name)) == first
        yield from first

    def begun_twice(self: Any, element: str) -> Iterator[str]:
        list(begin(self, element))
        yield from begin(self, element)

    finish = train_grid._finish

    def finished_twice(*args: Any) -> dict[str, Any]:
        assert finish(*args) == finish(*args)
        return finish(*args)

    monkeypatch.setattr(train_grid._Train, "process", killed)
    monkeypatch.setattr(train_grid._Begin, "process", begun_twice)
    monkeypatch.setattr(train_grid, "_finish", finished_twice)
    output = tmp_path / "grid"
    (output / "runs" / "old" / "checkpoints" / "step-000000007").mkdir(parents=True)
    (output / "runs" / "old" / "checkpoints" / "step-000000007" / "state.json").write_text("{}")
    (output / "_unfinished.json").write_text("{}")
    members = members_of(trained, output)
    run_pipeline(lambda pipeline: pipeline | TrainGrid(members, str(output), overwrite=True), [])
    assert not (output / "runs" / "old").exists()
    for name in (GOOD, OTHER):
        assert_same_run(output / "runs" / name, grid / "runs" / name)
    # Its first epoch was trained once.
    assert steps < progress.trained < 2 * steps - 3


def test_no_shuffled_element_falls_back_to_pickle(trained: Trained, tmp_path: Path) -> None:
    nnsparse_stream.transforms.coders.register()
    pipeline = beam.Pipeline(IN_PROCESS_RUNNER)
    _ = pipeline | TrainGrid(members_of(trained, tmp_path / "grid"), str(tmp_path / "grid"))
    assert coders_of_shuffles(pipeline)
    assert not [label for label, parts in coders_of_shuffles(pipeline).items() if falls_back(parts)]


def test_a_process_trains_one_run_at_a_time(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its threads an engine gives a bundle."""
    started, active, together = threading.Event(), [], []

    def train_member(member: Member, **_: Any) -> Outcome:
        active.append(member.run.name)
        started.wait(0.1)  # until the other thread is there, too, if it may be
        together.append(len(active))
        active.remove(member.run.name)
        return Outcome(member.run.name)

    monkeypatch.setattr("nnsparse_stream.grids.grid_members.train_member", train_member)
    do = train_grid._Train(members_of(trained, tmp_path), False, "job")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda name: list(do.process(name)), (GOOD, OTHER)))
    assert together == [1, 1]
