"""Changes and their merge, against means in float64 of all that the workers have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from example_models import COLUMNS, VARIANTS
from hypothesis import given
from hypothesis import strategies as st
from in_parts import in_parts
from peak_memory import memory, needs_new_peak
from torch import Tensor

from nnsparse_stream.checkpoints.changes import change_name, changes_directory, merge_part, write_change
from nnsparse_stream.checkpoints.checkpoint import load_tensors
from nnsparse_stream.checkpoints.parts import part_name
from nnsparse_stream.checkpoints.state import CheckpointState, tensors_of
from nnsparse_stream.checkpoints.tensor_files import TensorFile, write_tensors
from nnsparse_stream.errors import InputError
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig


class Work(NamedTuple):
    """A worker's model after its round, and how often it touched which rows."""

    model: Model
    touches: dict[str, Tensor]


def work(base: Model, seed: int, share: float, rows_of: frozenset[str]) -> Work:
    """A model that differs from the base in the rows that it touched, and in all that is not counted by rows."""
    random = torch.Generator().manual_seed(seed)
    model = type(base)(base.config)
    model.load_state_dict(base.state_dict())
    touches = {}
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=random)
        if name in rows_of:
            times = torch.randint(1, 4, parameter.shape[:1], generator=random, dtype=torch.int32)
            touches[name] = times * (torch.rand(len(times), generator=random) < share)
            drawn *= (touches[name] > 0).view(-1, *[1] * (drawn.dim() - 1))
        parameter.data.copy_(parameter.detach().float() + drawn)
        if name in model.unit_row_tensors:
            parameter.data.copy_(torch.nn.functional.normalize(parameter.detach()))
    return Work(model, touches)


def merged(
    where: Path, base: Model, works: Sequence[Work], parts: int, order: Callable = list, seed: int = 0, step: int = 0
) -> tuple[Model, list[TensorFile]]:
    """The model that a merge of all parts makes, and its files; parts and workers come in an order."""
    start = in_parts(str(where / "base"), base, parts)
    start.state["step"] = step
    folder, target = changes_directory(str(where), step + 1), str(where / "target")
    noted: dict[tuple[int, int], tuple[str, TensorFile]] = {}
    for k in order(range(len(works))):
        for p in order(range(parts)):
            file = write_change(folder, k, p, parts, works[k].model, works[k].touches)
            noted[p, k] = f"{folder}/{change_name(k, p)}", file
    files = {
        p: merge_part(start, p, [noted[p, k] for k in range(len(works))], target, seed) for p in order(range(parts))
    }
    found = [files[p] for p in range(parts)]
    state = {**start.state, "tensors": tensors_of(found, [])}
    return load_tensors(CheckpointState(target, state)).model, found


def reference(base: Model, works: Sequence[Work]) -> dict[str, Tensor]:
    """The same in float64, with no rounding at the end."""
    found = {}
    for name, held in base.state_dict().items():
        values = torch.stack([one.model.state_dict()[name].double() for one in works])
        counted = [one.touches[name] for one in works if name in one.touches]
        weights = torch.stack(counted or [torch.ones(held.shape[:1])] * len(works)).double()
        weights = weights.view(*weights.shape, *[1] * (held.dim() - 1))
        total = weights.sum(0)
        mean = (values * weights).sum(0) / total.clamp(min=1)
        if name in base.unit_row_tensors:
            mean = torch.nn.functional.normalize(mean)
        found[name] = torch.where(total > 0, mean, held.double())
    return found


def parameters(model: Model) -> dict[str, Tensor]:
    return {name: held.detach() for name, held in model.named_parameters()}


def equal(ours: Model, theirs: Model) -> bool:
    """Whether two models have the same bits."""
    other = theirs.state_dict()
    return all(torch.equal(held, other[name]) for name, held in ours.state_dict().items())


@given(
    name=st.sampled_from(sorted(VARIANTS)),
    seed=st.integers(0, 2**31),
    workers=st.integers(1, 4),
    parts=st.integers(1, 3),
    share=st.floats(0, 1),
)
def test_a_merge_is_the_mean_by_touches(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, workers: int, parts: int, share: float
) -> None:
    base = VARIANTS[name](seed)
    base.column_counts.copy_(torch.arange(COLUMNS))
    rows_of = base.column_tensors | {"features"}  # which are not of columns, and lie in the first part
    works = [work(base, seed + k, share, rows_of) for k in range(workers)]
    model, _ = merged(tmp_path_factory.mktemp("merge"), base, works, parts)
    expected = reference(base, works)
    for held_name, held in model.state_dict().items():
        # A bfloat16 is one of the two next to the value.
        rounding = 2.0**-7 if held.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(held.double(), expected[held_name], rtol=rounding, atol=1e-30)
        counted = [one.touches[held_name] > 0 for one in works if held_name in one.touches]
        if not counted:
            continue
        touched = torch.stack(counted)
        nobody = touched.sum(0) == 0
        assert torch.equal(held[nobody], base.state_dict()[held_name][nobody])
        for k, one in enumerate(works):
            alone = touched[k] & (touched.sum(0) == 1)
            assert torch.equal(held[alone], one.model.state_dict()[held_name][alone])
    assert torch.equal(model.column_counts, base.column_counts)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_merge_depends_on_no_order_of_arrival(tmp_path: Path, name: str) -> None:
    base = VARIANTS[name](1)
    works = [work(base, seed, 0.6, base.column_tensors) for seed in range(3)]
    one, files = merged(tmp_path / "one", base, works, 2)
    other, others = merged(tmp_path / "other", base, works, 2, lambda numbers: list(numbers)[::-1])
    assert files == others
    assert equal(one, other)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_merge_of_one_worker_is_its_model_and_of_none_that_touched_anything_the_base(
    tmp_path: Path, name: str
) -> None:
    base = VARIANTS[name](1)
    alone = work(base, 5, 1.0, base.column_tensors)
    assert equal(merged(tmp_path / "alone", base, [alone], 3)[0], alone.model)
    idle = Work(base, {name: torch.zeros(COLUMNS, dtype=torch.int32) for name in parameters(base)})
    idle = idle._replace(touches={name: idle.touches[name] for name in base.column_tensors & idle.touches.keys()})
    # What is not counted by rows is the mean of three equal numbers, and keeps its bits as well.
    assert equal(merged(tmp_path / "idle", base, [idle] * 3, 3)[0], base)


def test_parameters_of_columns_that_are_not_trained_are_the_bases(tmp_path: Path) -> None:
    base = VARIANTS["autoencoder"](1)
    works = [work(base, seed, 0.6, base.column_tensors) for seed in range(2)]
    works = [one._replace(touches={"decoder": one.touches["decoder"]}) for one in works]
    model = merged(tmp_path, base, works, 2)[0].state_dict()
    for name in ("encoder", "decoder_bias"):
        assert torch.equal(model[name], base.state_dict()[name])
    assert not torch.equal(model["decoder"], base.state_dict()["decoder"])


def test_the_mean_of_bfloat16_is_kept_on_average_and_drawn_anew_in_each_step_and_part(tmp_path: Path) -> None:
    size = {"hidden": (2048,), "mirrored": False, "storage": "bfloat16"}
    base = VARIANTS["autoencoder"](1)
    config = type(base.config)(**{**vars(base.config), **size, "num_columns": 2})
    works = []
    for value in (1.0, 1 + 2**-7):  # neighbours in bfloat16
        model = type(base)(config)
        model.encoder.data.fill_(value)
        works.append(Work(model, {"encoder": torch.tensor([3, 3], dtype=torch.int32)}))
    found = {
        step: merged(tmp_path / str(step), type(base)(config), works, 2, step=step)[0].state_dict()["encoder"].float()
        for step in (0, 1)
    }
    for drawn in found.values():
        assert set(drawn.unique().tolist()) == {1.0, 1 + 2**-7}
        # Within four standard deviations.
        assert abs(float((drawn - 1).mean()) / 2**-7 - 0.5) < 4 * 0.5 / drawn.numel() ** 0.5
    assert len({tuple(row.tolist()) for drawn in found.values() for row in drawn}) == 4


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["encoder", "inner.0.weight"])
def test_what_is_not_finite_is_said_to_have_diverged(tmp_path: Path, name: str, value: float) -> None:
    base = VARIANTS["autoencoder"](1)
    works = [work(base, seed, 1.0, base.column_tensors) for seed in range(3)]
    works[1].model.get_parameter(name).data[1, 2] = value
    with pytest.raises(InputError, match=f"training diverged in round 8: worker 1 left values of {name} that are not"):
        merged(tmp_path, base, works, 2, step=7)


def whole_change(tmp_path: Path) -> tuple[CheckpointState, Path, TensorFile, dict[str, Tensor]]:
    """A base in one part, and a change to it."""
    base = VARIANTS["ranking"](1)
    made = work(base, 1, 0.6, base.column_tensors)
    file = write_change(str(tmp_path), 0, 0, 1, made.model, made.touches)
    tensors = {}
    for name, held in parameters(made.model).items():
        rows = made.touches[name].nonzero()[:, 0]
        tensors |= {
            f"{name}.rows": rows.int(),
            f"{name}.values": held[rows],
            f"{name}.touches": made.touches[name][rows],
        }
    return in_parts(str(tmp_path / "base"), base, 1), tmp_path / change_name(0, 0), file, tensors


DAMAGES = {
    "missing": (Path.unlink, "no such file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged: it ends early"),
    "altered": (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"), "was altered"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path: Path, damage: str) -> None:
    base, path, file, _ = whole_change(tmp_path)
    do, message = DAMAGES[damage]
    target = tmp_path / "target"
    for damaged in (path, Path(base.url, part_name(0, 1))):
        good = damaged.read_bytes()
        do(damaged)
        with pytest.raises(InputError, match=message) as error:
            merge_part(base, 0, [(str(path), file)], str(target), 0)
        assert str(damaged) in str(error.value)
        damaged.write_bytes(good)
    assert not target.exists()
    merge_part(base, 0, [(str(path), file)], str(target), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder.rows": None},
        {"encoder.touches": None},
        {"encoder.rows": lambda rows: rows.flip(0)},
        {"encoder.rows": lambda rows: rows * 0},
        {"encoder.rows": lambda rows: rows - 5},
        {"encoder.rows": lambda rows: rows + 5},
        {"encoder.rows": lambda rows: rows[1:]},
        {"encoder.touches": lambda touches: touches[1:]},
        {"encoder.touches": lambda touches: touches * 0},
        {"encoder.values": lambda values: values[:, :2].contiguous()},
        {"encoder.values": lambda values: values.double()},
        {"more": lambda _: torch.zeros(1)},
    ],
)
def test_a_change_that_fits_its_checksum_and_not_the_model_is_damaged(
    tmp_path: Path, change: dict[str, Callable[[Tensor | None], Tensor] | None]
) -> None:
    base, path, file, tensors = whole_change(tmp_path)
    assert write_tensors(str(path), tensors) == file
    for name, do in change.items():
        held = tensors.pop(name, None)
        if do is not None:
            tensors[name] = do(held)
    forged = write_tensors(str(path), tensors)
    with pytest.raises(InputError, match=f"{path} is damaged"):
        merge_part(base, 0, [(str(path), forged)], str(tmp_path / "target"), 0)


def test_changes_of_other_parameters_do_not_go_together(tmp_path: Path) -> None:
    base = VARIANTS["ranking"](1)
    works = [work(base, seed, 0.6, base.column_tensors) for seed in range(2)]
    works[1].touches.pop("decoder")
    with pytest.raises(InputError, match=r"change-00001-00000.safetensors is damaged: it is of other parameters"):
        merged(tmp_path, base, works, 1)


@needs_new_peak
def test_a_merge_takes_the_memory_of_a_part_a_few_times(tmp_path: Path) -> None:
    base = RankingAutoencoder(RankingConfig(4096, 1, 512))
    size, parts = 2 * 4096 * 512 * 4, 2
    start = in_parts(str(tmp_path / "base"), base, parts)
    touches = {name: torch.ones(4096, dtype=torch.int32) for name in parameters(base)}
    change = f"{tmp_path}/{change_name(0, 0)}", write_change(str(tmp_path), 0, 0, parts, base, touches)
    before = memory()
    merge_part(start, 0, [change] * 4, str(tmp_path / "target"), 0)
    # The sums take two, and what is read one; blocks of this small a part count, too.
    assert memory("VmHWM") - before < 6 * size / parts
