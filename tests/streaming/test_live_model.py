"""The newest model: exchanged while it is used, and the old one kept where the new one cannot be."""

from __future__ import annotations

import gc
import logging
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_runs import add_checkpoint, begun_run
from samples import Trained, command

from nnsparse_stream.checkpoints.state import checkpoints_of
from nnsparse_stream.errors import InputError
from nnsparse_stream.streaming.live_model import Current, LiveModel

HOUR = 3600.0


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> str:
    return begun_run(trained.run, tmp_path)


@pytest.fixture
def live(trained: Trained, run: str) -> Iterator[LiveModel]:
    """Of a run that goes on; it looks only when it is told to."""
    model = LiveModel(run, trained.data, "cpu", HOUR)
    yield model
    model.close()


def until(live: LiveModel, step: int, seconds: float) -> Current:
    """The model of a step, once it is in use."""
    end = time.monotonic() + seconds
    while (current := live.get()).step != step:
        assert time.monotonic() < end, f"step {current.step} is still in use"
        time.sleep(0.02)
    return current


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_thread_takes_a_newer_checkpoint(trained: Trained, run: str) -> None:
    live = LiveModel(run, trained.data, "cpu", 0.2)
    first = live.get()
    add_checkpoint(run)
    second = until(live, first.step + 10, seconds=60)
    assert second.fingerprint != first.fingerprint
    assert second.checkpoint.vocabulary is first.checkpoint.vocabulary  # held once
    live.close()


def test_the_thread_ends_when_nobody_holds_the_model(trained: Trained, run: str) -> None:
    live = LiveModel(run, trained.data, "cpu", HOUR)
    live.get()
    stopped, held = live._stopped, weakref.ref(live)
    del live
    gc.collect()
    assert held() is None
    assert stopped.is_set()


def test_the_old_model_is_let_go_when_its_last_user_is_done(live: LiveModel, run: str) -> None:
    in_use = live.get()
    old = weakref.ref(in_use.checkpoint.model)
    add_checkpoint(run)
    assert live.look()
    gc.collect()
    assert old() is not None  # a call still scores with it
    del in_use
    gc.collect()
    assert old() is None


def test_what_is_in_use_already_is_not_read_again(live: LiveModel) -> None:
    current = live.get()
    assert not live.look()
    assert live.get() is current


def test_an_unfinished_checkpoint_is_not_looked_at(live: LiveModel, run: str, caplog: pytest.LogCaptureFixture) -> None:
    first = live.get()
    url = Path(add_checkpoint(run))
    state = (url / "state.json").read_bytes()
    (url / "state.json").unlink()
    assert not live.look()
    assert (live.get(), live.refusals, warnings(caplog)) == (first, 0, [])
    (url / "state.json").write_bytes(state)
    assert live.look()


@pytest.mark.parametrize("name", ["state.json", "model-00000-of-00001.safetensors"])
def test_a_damaged_checkpoint_is_refused_once_and_the_old_one_goes_on(
    live: LiveModel, run: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = live.get()
    path = Path(add_checkpoint(run)) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert [live.look(), live.look(), live.look()] == [False] * 3
    assert live.get() is first
    assert live.refusals == 1
    (message,) = warnings(caplog)
    assert "the model is not exchanged" in message
    assert str(path) in message
    shutil.rmtree(path.parent)
    add_checkpoint(run, steps=20)
    assert live.look()
    assert live.get().step == first.step + 20


def test_a_process_that_begins_at_a_damaged_checkpoint_takes_the_one_before(
    live: LiveModel, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    (before,) = checkpoints_of(run)
    (Path(add_checkpoint(run)) / "model-00000-of-00001.safetensors").write_bytes(b"no tensors")
    assert live.get().checkpoint.url == before
    assert not live.look()
    assert live.refusals == len(warnings(caplog)) == 1


def test_a_model_of_fewer_columns_serves_a_data_set_that_goes_on_from_its_own(trained: Trained, tmp_path: Path) -> None:
    """As an earlier night's does that is published again."""
    later, log = str(tmp_path / "later"), tmp_path / "log.csv"
    log.write_text("user,item,rating\n" + "".join(f"u{n},new{n % 5},{n % 4 + 1}\n" for n in range(40)))
    flags = ["--axis", "user", "--vocabulary", trained.data]
    command("prepare", "--input", str(log), "--output", later, *flags)
    current = LiveModel(trained.run, later, "cpu", HOUR).get()
    assert len(current.checkpoint.vocabulary) == current.checkpoint.model.num_columns


def test_a_model_of_another_vocabulary_is_refused(
    trained: Trained, run: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other, log = str(tmp_path / "other"), tmp_path / "log.csv"
    log.write_text("user,item,rating\n" + "".join(f"u{n},thing{n % 5},{n % 4 + 1}\n" for n in range(40)))
    command("prepare", "--input", str(log), "--output", other, "--axis", "user")
    with pytest.raises(InputError, match=rf"another vocabulary than {other}, and does not extend it: train it on this"):
        LiveModel(run, other, "cpu", HOUR).get()
    pointer = tmp_path / "model.txt"
    pointer.write_text(run)
    live = LiveModel(str(pointer), trained.data, "cpu", HOUR)
    first = live.get()
    command("train", "--data", other, "--output", str(tmp_path / "its"), "--hidden", "4", "--epochs", "1")
    pointer.write_text(str(tmp_path / "its"))
    assert [live.look(), live.look()] == [False, False]
    assert live.get() is first
    assert live.refusals == 1
    (message,) = warnings(caplog)
    assert "does not extend it" in message


def test_a_model_of_the_other_axis_is_refused(trained: Trained, item_side: Trained) -> None:
    with pytest.raises(InputError, match=r"has rows by user, but the model in .* was trained on rows by item"):
        LiveModel(item_side.run, trained.data, "cpu", HOUR).get()


def test_a_model_whose_vocabulary_extends_the_data_set_s_is_taken(trained: Trained, run: str, tmp_path: Path) -> None:
    log, grown, pointer = tmp_path / "log.csv", str(tmp_path / "grown"), tmp_path / "model.txt"
    log.write_text("user,item,rating\n" + "".join(f"new{n},item{n % 9},3\nnew{n},unheard-of,5\n" for n in range(40)))
    command("prepare", "--input", str(log), "--output", grown, "--axis", "user", "--vocabulary", trained.data)
    command("train", "--data", grown, "--output", str(tmp_path / "its"), "--hidden", "4", "--epochs", "1")
    pointer.write_text(f"{run}\n")
    live = LiveModel(str(pointer), trained.data, "cpu", HOUR)
    columns = len(live.get().checkpoint.vocabulary)
    pointer.write_text(str(tmp_path / "its"))
    assert live.look()
    assert len(live.get().checkpoint.vocabulary) > columns
    assert live.refusals == 0


def test_a_pointer_names_a_run_or_a_checkpoint(trained: Trained, run: str, tmp_path: Path) -> None:
    (first,) = checkpoints_of(run)
    second = add_checkpoint(run)
    pointer = tmp_path / "model.txt"
    for text, url in ((first, first), (f"{run}\n", second)):
        pointer.write_text(text)
        live = LiveModel(str(pointer), trained.data, "cpu", HOUR)
        assert live.get().checkpoint.url == url
    for text in ("", f"{first}\n{second}\n"):
        pointer.write_text(text)
        assert not live.look()
        with pytest.raises(InputError, match=r"model\.txt is a file, and names no model"):
            LiveModel(str(pointer), trained.data, "cpu", HOUR).get()
    assert live.refusals == 1


def test_a_run_that_is_gone_or_a_store_that_fails_ends_nothing(
    live: LiveModel, run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = live.get()
    shutil.rmtree(run)
    assert not live.look()
    assert live.get() is first
    (message,) = warnings(caplog)
    assert "neither a training run's directory nor a checkpoint's" in message


def test_of_a_run_that_has_ended_it_is_the_model_that_is_scored_with(trained: Trained) -> None:
    from nnsparse_stream.checkpoints.state import read_state

    live = LiveModel(trained.run, trained.data, "cpu", HOUR)
    assert live.get().checkpoint.url == read_state(trained.run).url
    assert live.get().step == read_state(trained.run).state["step"]
