"""Training in rounds that is killed between any two changes of a file, and attempts of a round beside each other."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from by_rounds import end_of_epoch, merge_of, one_round, told, train_in_rounds
from killing import before_changes
from runs import assert_same_run, request
from samples import Trained, contents

from nnsparse_stream.checkpoints import parts
from nnsparse_stream.checkpoints.state import read_state, write_state
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.rounds.round_worker import HELD, RoundWorker, train_round
from nnsparse_stream.rounds.rounds import complete_rounds, finish_round, last_done
from nnsparse_stream.training.run import TrainingRequest

_SMALL = recipe("best-user", hidden=(6,), batch_rows=16, epochs=2)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of 60 columns in several parts."""
    monkeypatch.setattr(parts, "_PART_BYTES", 1200)


def in_rounds(trained: Trained, output: Path, **fields: Any) -> TrainingRequest:
    return request(trained, output, **{"recipe": _SMALL, "workers": 2, "rounds": 2, "keep_checkpoints": 1, **fields})


@pytest.fixture(scope="module")
def moments(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """An undisturbed run, and copies of it as kills would have left it: before each change of a file, by its kind.

    Of each kind the last, which is behind most of the run; all of them where NNSPARSE_STREAM_KILLS is set.
    """
    where = tmp_path_factory.mktemp("moments")
    run, copies = where / "run", {}
    several = "NNSPARSE_STREAM_KILLS" in os.environ
    count = 0

    def note(change: str, name: str) -> None:
        nonlocal count
        count += 1
        kind = f"{change} {name if several else re.sub('[0-9]+', '#', name)}" + (f" {count}" if several else "")
        copy = where / re.sub("[^a-z0-9#]+", "-", kind)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        copies[kind] = copy

    with pytest.MonkeyPatch.context() as patch:
        small_parts.__wrapped__(patch)  # type: ignore[attr-defined]
        before_changes(run, patch, note)
        train_in_rounds(in_rounds(trained, run))
    return run, copies


def test_a_run_that_was_killed_before_any_change_of_a_file_goes_on(
    trained: Trained, moments: tuple[Path, dict[str, Path]]
) -> None:
    whole, copies = moments
    assert {kind.split("/")[-1] for kind in copies} >= {
        "optimizer-#-of-#.safetensors", "change-#-#.safetensors", "model-#-of-#.safetensors", "state.json",
    } or "NNSPARSE_STREAM_KILLS" in os.environ  # fmt: skip
    for kind, run in copies.items():
        train_in_rounds(in_rounds(trained, run, resume=True), job="two")
        try:
            assert_same_run(run, whole)
            # Nothing is left that the undisturbed run has not.
            assert contents(str(run)).keys() == contents(str(whole)).keys()
        except AssertionError as error:
            raise AssertionError(f"killed before: {kind}") from error


@pytest.fixture(scope="module")
def whole(moments: tuple[Path, dict[str, Path]]) -> Path:
    return moments[0]


def test_workers_of_one_process_train_side_by_side(trained: Trained, tmp_path: Path) -> None:
    alone, side_by_side = (in_rounds(trained, tmp_path / name, workers=4) for name in ("alone", "side by side"))
    train_in_rounds(alone)
    train_in_rounds(side_by_side, until=0)
    with ThreadPoolExecutor(8) as pool:
        for number in range(1, 5):
            # Each is trained twice at the same time: by an attempt that the engine has given up, and by the next one.
            begun = [pool.submit(train_round, side_by_side, number, worker, "one") for worker in (*range(4), *range(4))]
            trained_ = [told(each.result()) for each in begun]
            merged = [merge_of(side_by_side, number, part, trained_[:4], "one") for part in range(len(parts_of(alone)))]
            finish_round(side_by_side, number, merged, "one")
            if number % 2 == 0:
                end_of_epoch(side_by_side, number, "one")
    # The attempt that ended the last epoch was killed before it wrote its metrics; another found the epoch ended.
    (tmp_path / "side by side" / "metrics.jsonl").unlink()
    complete_rounds(side_by_side, "one")
    assert_same_run(tmp_path / "side by side", tmp_path / "alone")


def parts_of(asked: TrainingRequest) -> list[Any]:
    return list(read_state(asked.output).state["tensors"]["model"])


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Has something happen once while a worker trains."""
    steps, waiting = RoundWorker._steps, []

    def with_others(self: RoundWorker, *args: Any) -> None:
        steps(self, *args)
        if waiting:
            waiting.pop()()

    monkeypatch.setattr(RoundWorker, "_steps", with_others)
    yield waiting.append
    assert not waiting


def test_an_attempt_that_is_late_writes_nothing(
    trained: Trained, whole: Path, tmp_path: Path, during: Callable[[Callable[[], None]], None]
) -> None:
    asked = in_rounds(trained, tmp_path / "run")
    train_in_rounds(asked, until=1)
    left = {}

    def others() -> None:
        one_round(asked, 2, "one")
        left.update(contents(asked.output))

    during(others)
    assert train_round(asked, 2, 0, "one") is None
    assert contents(asked.output) == left
    train_in_rounds(asked)
    assert_same_run(tmp_path / "run", whole)


def test_an_attempt_of_a_job_that_lost_its_run_writes_nothing(
    trained: Trained, tmp_path: Path, during: Callable[[Callable[[], None]], None]
) -> None:
    asked, other = (in_rounds(trained, tmp_path / "run", seed=seed, overwrite=True) for seed in (0, 1))
    train_in_rounds(asked, until=1)
    left = {}

    def others() -> None:
        train_in_rounds(other, job="two", until=2)
        left.update(contents(other.output))

    during(others)
    with pytest.raises(InputError, match="taken up, or removed, by another job"):
        train_round(asked, 2, 0, "one")
    assert contents(other.output) == left


def test_a_worker_that_is_held_is_not_taken_for_another_run_at_the_same_place(trained: Trained, tmp_path: Path) -> None:
    """Without momentum the states of all optimisers are equal: there is nothing in them."""
    plain = recipe("cfn", hidden=(6,), epochs=1, momentum=0.0)
    asked, other = (in_rounds(trained, tmp_path / "run", recipe=plain, seed=seed, overwrite=True) for seed in (0, 1))
    train_in_rounds(asked, until=1)
    stale = {key: held for key, held in HELD._held.items() if key[0] == asked.output}
    assert len(stale) == 2
    assert len({held.fingerprint for held in stale.values()}) == 1
    train_in_rounds(other, job="two", until=1)
    HELD._held.update(stale)  # this process has not seen the first round of the other run
    train_in_rounds(other, job="two")
    undisturbed = in_rounds(trained, tmp_path / "undisturbed", recipe=plain, seed=1)
    train_in_rounds(undisturbed)
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_an_end_of_an_epoch_that_is_lost_is_made_again(trained: Trained, whole: Path, tmp_path: Path) -> None:
    """An attempt to finish a round that was given up may write its state once more, after the epoch has ended."""
    asked = in_rounds(trained, tmp_path / "run")
    train_in_rounds(asked, until=1)
    one_round(asked, 2, "one")
    state = read_state(asked.output)
    end_of_epoch(asked, 2, "one")
    write_state(state.url, state.state)
    with pytest.raises(InputError, match="round 3 cannot begin, since the epoch before it has not ended"):
        train_round(asked, 3, 0, "one")
    train_in_rounds(asked)
    assert last_done(asked.output) == 4
    assert_same_run(tmp_path / "run", whole)
