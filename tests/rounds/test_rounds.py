"""Training in rounds: what a round is a function of, and that work which is made again changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from by_rounds import end_of_epoch, merge_of, one_round, told, train_in_rounds
from runs import assert_same_run, request
from samples import Trained, contents

from nnsparse_stream.checkpoints import parts
from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.checkpoints.state import checkpoints_of, read_state
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.rounds.round_worker import HELD, train_round
from nnsparse_stream.rounds.rounds import begin_rounds, finish_round, last_done, open_rounds, survey_rows
from nnsparse_stream.training.run import TrainingRequest
from nnsparse_stream.training.start import train

_SMALL = recipe("best-user", hidden=(6,), batch_rows=16, epochs=2)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of 60 columns in several parts."""
    monkeypatch.setattr(parts, "_PART_BYTES", 1200)


def in_rounds(trained: Trained, output: Path, **fields: Any) -> TrainingRequest:
    return request(trained, output, **{"recipe": _SMALL, "workers": 3, "rounds": 2, **fields})


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        small_parts.__wrapped__(patch)  # type: ignore[attr-defined]
        summary = train_in_rounds(in_rounds(trained, run))
    assert summary["epochs"], summary["steps"] == (2, 4)
    return run


def test_a_run_is_whole_and_its_model_is_as_any_other(trained: Trained, whole: Path) -> None:
    checkpoint = load_model(str(whole))
    state = checkpoint.state
    assert len(checkpoint.model_files) == len(state["tensors"]["optimizer"]) == 3
    assert int(checkpoint.model.column_counts.sum()) == sum(state["rounds"]["entries"])
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [one["round"] for line in lines for one in line["rounds"]] == [1, 2, 3, 4]
    for line in lines:
        assert line["ratings"] == sum(state["rounds"]["entries"]) == sum(one["ratings"] for one in line["rounds"])
        assert line["validation"].keys() == {"rmse", "mae"}
    assert lines[1]["validation"]["rmse"] < lines[0]["validation"]["rmse"] < 1.2
    # Of the last two rounds, the checkpoints are kept; of what workers leave for each other, nothing.
    names = contents(str(whole))
    assert [Path(url).name for url in checkpoints_of(str(whole))] == ["step-000000003", "step-000000004"]
    assert not [name for name in names if name.startswith(("_rounds", ".", "_"))]
    assert {name.split("/")[1] for name in names if name.startswith("checkpoints/")} == {
        "step-000000003",
        "step-000000004",
    }


@pytest.mark.parametrize(
    "disturbed", [{"order": lambda numbers: list(numbers)[::-1]}, {"forget": True}], ids=["other order", "no memory"]
)
def test_a_run_depends_neither_on_who_is_first_nor_on_what_a_process_keeps(
    trained: Trained, whole: Path, tmp_path: Path, disturbed: dict[str, Any]
) -> None:
    train_in_rounds(in_rounds(trained, tmp_path / "run"), **disturbed)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_a_run_goes_on_from_its_last_whole_round(trained: Trained, whole: Path, tmp_path: Path, done: int) -> None:
    run = tmp_path / "run"
    train_in_rounds(in_rounds(trained, run), until=done)
    HELD.forget(str(run))
    if done < 4:
        with pytest.raises(InputError, match="holds a run that did not finish; pass `resume`"):
            open_rounds(in_rounds(trained, run), "two")
        train_in_rounds(in_rounds(trained, run, resume=True), job="two")
        with pytest.raises(InputError, match="taken up, or removed, by another job"):
            train_round(in_rounds(trained, run), 1, 0, "one")
    assert_same_run(run, whole)


def test_an_epoch_that_was_not_judged_is_judged_when_the_run_goes_on(
    trained: Trained, whole: Path, tmp_path: Path
) -> None:
    asked = in_rounds(trained, tmp_path / "run")
    train_in_rounds(asked, until=1)
    one_round(asked, 2, "one")
    assert read_state(asked.output).state["epoch"] == 0
    train_in_rounds(in_rounds(trained, tmp_path / "run", resume=True), job="two")
    assert_same_run(tmp_path / "run", whole)


def test_work_that_is_made_again_writes_the_same_or_finds_that_it_is_done(
    trained: Trained, whole: Path, tmp_path: Path
) -> None:
    asked = in_rounds(trained, tmp_path / "run")
    train_in_rounds(asked, until=1)
    first = [told(train_round(asked, 2, worker, "one")) for worker in range(3)]
    written = contents(asked.output)
    # The process that made it still has a worker that is a round ahead.
    again = [told(train_round(asked, 2, worker, "one")) for worker in range(3)]
    assert [one["changes"] for one in again] == [one["changes"] for one in first]
    assert contents(asked.output) == written
    merged = [merge_of(asked, 2, part, first, "one") for part in range(3)]
    assert [merge_of(asked, 2, part, again, "one")["file"] for part in range(3)] == [one["file"] for one in merged]
    finish_round(asked, 2, merged, "one")
    ended = contents(asked.output)
    # A region of the job is made again from its beginning, after all of it is done.
    assert (train_round(asked, 1, 0, "one"), train_round(asked, 2, 0, "one")) == (None, None)
    assert merge_of(asked, 2, 0, first, "one") is None
    finish_round(asked, 2, [None], "one")
    begin_rounds(asked, [survey_rows(asked, worker, "one") for worker in range(3)], "one")
    assert contents(asked.output) == ended
    end_of_epoch(asked, 2, "one")
    end_of_epoch(asked, 2, "one")
    train_in_rounds(asked)
    assert_same_run(tmp_path / "run", whole)


def test_a_run_without_patience_left_makes_no_more_rounds(trained: Trained, tmp_path: Path) -> None:
    worse = recipe("best-user", hidden=(6,), batch_rows=16, epochs=4, learning_rate=1e-12, initial_std=0.0)
    run = tmp_path / "run"
    summary = train_in_rounds(in_rounds(trained, run, recipe=worse, patience=1, rounds=1))
    best = summary["best"]["epoch"]
    assert last_done(str(run)) == best + 1 < 4
    assert summary["checkpoint"] == f"checkpoints/step-{best:09d}"


def test_one_worker_in_one_round_an_epoch_trains_as_a_run_without_rounds(trained: Trained, tmp_path: Path) -> None:
    plain, alone = tmp_path / "plain", tmp_path / "alone"
    train(request(trained, plain, recipe=_SMALL))
    train_in_rounds(in_rounds(trained, alone, workers=1, rounds=1))
    ours, theirs = load_model(str(alone)).model.state_dict(), load_model(str(plain)).model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "plan",
    [
        recipe("cfn-stacked", hidden=(6, 4), pretrain_epochs=1, epochs=1),
        recipe("best-user", hidden=(6,), epochs=1, storage="bfloat16", presence=True),
        recipe("ranking-sparse", units=6, sampled_columns=20, epochs=2),
        recipe("ranking-dense", units=6, sampled_columns=20, epochs=2, optimizer="adagrad"),
    ],
    ids=["layer by layer", "bfloat16", "ranking-sparse", "ranking-dense"],
)
def test_every_kind_of_training_goes_in_rounds_and_goes_on(trained: Trained, tmp_path: Path, plan: Any) -> None:
    one, other = (in_rounds(trained, tmp_path / name, recipe=plan, workers=2) for name in ("one", "other"))
    train_in_rounds(one)
    train_in_rounds(other, until=3)
    HELD.forget(other.output)
    train_in_rounds(other)
    assert_same_run(tmp_path / "one", tmp_path / "other")
    model = load_model(one.output).model
    for name in model.unit_row_tensors:
        norms = model.state_dict()[name][model.column_counts > 0].norm(dim=1)
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)


def _train(asked: TrainingRequest, job: str) -> None:
    train(asked, job=job)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": 2}, "cannot be resumed with other settings: workers was 3, is 2"),
        ({"rounds": 3}, "cannot be resumed with other settings: rounds was 2, is 3"),
        ({"workers": 1, "rounds": None}, "cannot be resumed with other settings: workers was 3, is 1"),
    ],
)
def test_a_run_goes_on_as_it_was_begun(trained: Trained, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    run = tmp_path / "run"
    train_in_rounds(in_rounds(trained, run), until=1)
    asked = in_rounds(trained, run, resume=True, **fields)
    go_on = open_rounds if asked.in_rounds else _train
    with pytest.raises(InputError, match=message):
        go_on(asked, "two")


def test_a_worker_that_diverges_ends_the_run_with_what_to_do(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training diverged in .*lower `learning_rate`"):
        train_in_rounds(in_rounds(trained, tmp_path / "run", recipe=recipe("cfn", hidden=(6,), learning_rate=1e30)))


def test_more_workers_than_rows_are_refused_before_anything_is_written(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`workers` is 401 and the data set has"):
        open_rounds(in_rounds(trained, tmp_path / "run", workers=401), "one")
    assert not (tmp_path / "run").exists()
