"""A model in parts: what each holds, that they make the model again, and what a reader says of a damaged one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from by_rounds import train_in_rounds
from example_models import COLUMNS, VARIANTS
from hypothesis import given
from hypothesis import strategies as st
from in_parts import in_parts
from peak_memory import memory, needs_new_peak
from runs import request
from samples import Trained

from nnsparse_stream.checkpoints.checkpoint import copy_model, load_optimizer, load_tensors, remove_checkpoint
from nnsparse_stream.checkpoints.parts import num_parts, part_name, part_range, part_tensors, read_part, write_part
from nnsparse_stream.checkpoints.state import read_state, tensors_of, write_state
from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.objectives.objective import make_optimizer
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.rounds.round_worker import HELD


@given(st.integers(0, 10**7), st.integers(1, 200))
def test_ranges_are_one_after_the_other_and_nearly_as_long(num_columns: int, parts: int) -> None:
    ranges = [part_range(num_columns, parts, p) for p in range(parts)]
    assert [held.start for held in ranges] == [0, *(held.stop for held in ranges[:-1])]
    assert ranges[-1].stop == num_columns
    lengths = {held.stop - held.start for held in ranges}
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(0, 10**7), st.integers(1, 2**24), st.booleans(), st.integers(1, 1000))
def test_a_part_takes_64_mib_or_one_column_at_the_most(num_columns: int, units: int, tied: bool, workers: int) -> None:
    with torch.device("meta"):
        model = RankingAutoencoder(RankingConfig(num_columns, 1, units, tied))
    parts = num_parts(model, workers)
    assert 1 <= parts <= max(num_columns, 1)
    longest = math.ceil(num_columns / parts)
    assert longest <= 1 or longest * (units * 4 * (1 if tied else 2) + 4 + 8) <= 64 << 20


@pytest.mark.parametrize(
    ("columns", "workers", "parts"),
    [
        (1, 64, 1),  # nothing to divide
        (27_000, 1, 2),  # 111 MB: no part has more than 64 MiB
        (27_000, 2, 2),
        (27_000, 3, 3),  # one for each who merges
        (140_000, 4, 12),  # 575 MB are nine parts, and no worker merges one more than others
        (27_000, 1000, 26),  # and none has less than 4 MiB
    ],
)
def test_all_workers_have_as_many_parts_to_merge(columns: int, workers: int, parts: int) -> None:
    with torch.device("meta"):
        model = RankingAutoencoder(RankingConfig(columns, columns, 512))
    assert num_parts(model, workers) == parts
    sizes = [sum(held.nbytes for held in part_tensors(model, p, parts).values()) for p in range(parts)]
    assert max(sizes) < 65 << 20
    assert sum(sizes) == sum(held.nbytes for held in model.state_dict().values())


@pytest.mark.parametrize("parts", [1, 2, COLUMNS])
@pytest.mark.parametrize("name", VARIANTS)
def test_parts_make_the_model_again(tmp_path: Path, name: str, parts: int) -> None:
    model = VARIANTS[name](1)
    model.column_counts.copy_(torch.arange(COLUMNS))
    base = in_parts(str(tmp_path), model, parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == [part_name(p, parts) for p in range(parts)]
    loaded = load_tensors(base).model
    for name, held in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], held)
    for p in range(parts):
        found, rows = read_part(base, p), part_range(COLUMNS, parts, p)
        assert found.keys() == (model.state_dict().keys() if p == 0 else model.column_tensors)
        for name, held in found.items():
            whole = model.state_dict()[name]
            assert torch.equal(held, whole[rows] if name in model.column_tensors else whole)


@needs_new_peak
def test_reading_parts_takes_no_second_copy(tmp_path: Path) -> None:
    model = RankingAutoencoder(RankingConfig(4096, 1, 1024))
    base, size = in_parts(str(tmp_path), model, 3), 2 * 4096 * 1024 * 4
    before = memory()
    loaded = load_tensors(base)
    assert memory("VmHWM") - before < 1.3 * size
    assert torch.equal(loaded.model.state_dict()["encoder"], model.encoder)


DAMAGES = {
    "missing": (Path.unlink, "no such file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged: it ends early"),
    "altered": (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "was altered"),
    "another": (lambda path: shutil.copy(path.with_name(part_name(2, 3)), path), "was altered"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named(tmp_path: Path, damage: str) -> None:
    base = in_parts(str(tmp_path), VARIANTS["autoencoder"](1), 3)
    path = tmp_path / part_name(1, 3)
    do, message = DAMAGES[damage]
    do(path)
    for read in (load_tensors, lambda checkpoint: read_part(checkpoint, 1)):
        with pytest.raises(InputError, match=message) as error:
            read(base)
        assert str(path) in str(error.value)
    read_part(base, 2)


def test_no_memory_is_taken_for_a_model_that_its_parts_are_not_of(tmp_path: Path) -> None:
    base = in_parts(str(tmp_path), VARIANTS["ranking"](1), 3)
    base.state["model"]["units"] = 10**14
    with pytest.raises(InputError, match=r"model-00000-of-00003.safetensors is damaged or of another model"):
        load_tensors(base)


def test_a_copy_has_all_parts_and_cannot_be_trained_on(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    last = read_state(str(run))
    model = load_tensors(last).model
    files = [write_part(last.url, model, p, 3) for p in range(3)]
    write_state(last.url, {**last.state, "tensors": tensors_of(files, last.optimizer_files)})
    copy_model(read_state(str(run)), str(tmp_path / "copy"))
    copied = read_state(str(tmp_path / "copy"))
    assert copied.model_files == files
    assert sorted(path.name for path in Path(copied.url).iterdir()) == [
        *(part_name(p, 3) for p in range(3)),
        "state.json",
    ]
    assert torch.equal(load_tensors(copied).model.encoder, model.encoder)
    groups = [{"params": list(model.parameters()), "weight_decay": 0.0}]
    with pytest.raises(InputError, match="cannot be trained on: it has no state of the optimiser"):
        load_optimizer(copied, make_optimizer(recipe("best-user"), groups), model)
    # What an attempt with another number of parts has left goes, too.
    remove_checkpoint(last.url)
    assert not Path(last.url).exists()


@pytest.fixture(scope="module")
def begun(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a run of two workers, after the first of three rounds of an epoch."""
    run = tmp_path_factory.mktemp("begun") / "run"
    small = recipe("best-user", hidden=(2,), epochs=1)
    train_in_rounds(request(trained, run, recipe=small, workers=2, rounds=3), until=1)
    HELD.forget(str(run))
    return read_state(str(run)).state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"rounds": {"done": 0, "told": []}, "sums": {"entries": 0, "rows": 0, "batches": 0}}, None),
        ({"rounds": {"done": 0, "told": []}}, "cursor, sums and rounds do not agree"),
        ({"sums": {"rows": 0}}, "cursor, sums and rounds do not agree"),
        ({"cursor": [0, 1]}, "cursor, sums and rounds do not agree"),
        ({"rounds": {"workers": 0}}, "is out of range"),
        ({"rounds": {"done": 4}}, "is out of range"),
        ({"rounds": {"of_epoch": 0, "done": 0}}, "is out of range"),
        ({"rounds": {"entries": [6000]}}, "not one element a worker"),
        ({"rounds": {"at": []}}, "not one element a worker"),
        ({"rounds": {"told": []}}, "not one element a round"),
        ({"rounds": {"entries": [2, 5000]}}, "a worker of rounds.at is out of range"),
        ({"rounds": {"at": [{"cursor": [0, -1], "step": 1, "entries": 0}] * 2}}, "a worker of rounds.at"),
        ({"rounds": {"at": [{"cursor": [0], "step": 1, "entries": 0}] * 2}}, r"rounds.at\[0\].cursor is \[0\]"),
        ({"rounds": {"seed": 1}}, "rounds.seed is not known"),
        ({"tensors": {"optimizer": [{"bytes": 8, "sha256": ""}]}}, "there are 1 files of optimisers"),
        ({"tensors": {"model": []}}, "the model is in 0 parts"),
        ({"tensors": {"model": [{"bytes": 8, "sha256": ""}] * 100}}, "the model is in 100 parts"),
    ],
)
def test_a_state_of_rounds_that_does_not_fit_is_damaged(
    begun: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str | None
) -> None:
    changed = {name: {**begun[name], **held} if isinstance(held, dict) else held for name, held in change.items()}
    state = {**begun, **changed}
    write_state(str(tmp_path), state)
    if message is None:
        assert read_state(str(tmp_path)).state["rounds"] == state["rounds"]
        return
    with pytest.raises(InputError, match=f"state.json is damaged: .*{message}"):
        read_state(str(tmp_path))
