"""Steps of all objectives: they never wait for a GPU, and two runs on one are equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch
from elsewhere import DEVICE, elsewhere
from steps import CASES, minibatch, tensors_of, trainer_of
from torch import Tensor
from waits import never_waiting

from nnsparse_stream.kernels.backends import using
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.objectives.rating_recipe import RatingRecipe

EACH = pytest.mark.parametrize("case", CASES)
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
#: Fields that are no matter of a step.
_OF_RUNS = {"batch_rows", "batch_entries", "epochs", "schedule", "learning_rate_decay", "warmup"}


@pytest.mark.parametrize("kind", [RatingRecipe, RankingRecipe])
def test_the_cases_have_every_field_and_every_choice(kind: type[RatingRecipe | RankingRecipe]) -> None:
    recipes = [plan for plan, _ in CASES.values() if isinstance(plan, kind)]
    for field in fields(kind):
        if field.name not in _OF_RUNS:
            values = {getattr(plan, field.name) for plan in recipes}
            assert values - {field.default}, f"no case has another {field.name} than by default"
            assert values >= set(kind.choices.get(field.name, ())), field.name


@EACH
def test_no_step_waits_or_adds_up_in_any_order_and_padding_changes_nothing(case: str) -> None:
    batches = [minibatch(seed) for seed in range(3)]
    ours, reference = (trainer_of(case, torch.device("cpu")) for _ in range(2))
    with never_waiting():
        sums = [ours.train_batch(batch, 0.01, 0.2) for batch in batches]
    with using("reference"):
        expected = [reference.train_batch(batch, 0.01, 0.2) for batch in batches]
    assert sums == expected
    assert all(value.dtype == torch.float64 and value.dim() == 0 for terms in sums for value in terms.values())
    assert all(map(torch.equal, tensors_of(ours), tensors_of(reference)))
    assert not all(map(torch.equal, tensors_of(ours), tensors_of(trainer_of(case, torch.device("cpu")))))


@EACH
def test_a_step_keeps_to_its_device(case: str) -> None:
    with elsewhere(waits=True):
        trainer, batch = trainer_of(case, DEVICE), minibatch(0).to(DEVICE)
    with elsewhere():
        sums = trainer.train_batch(batch, 0.01, 0.2)
    assert {tensor.device for tensor in (*tensors_of(trainer), *sums.values())} == {DEVICE}


@contextmanager
def _refusing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@ON_GPU
@EACH
def test_no_step_waits_for_a_gpu_and_two_runs_on_it_are_equal(case: str) -> None:
    batches = [minibatch(seed).to("cuda") for seed in range(4)]

    def run() -> list[Tensor]:
        trainer = trainer_of(case, torch.device("cuda"))
        trainer.train_batch(batches[0], 0.01, 0.2)  # which compiles kernels, and makes the optimiser's state
        with _refusing_waits():
            sums = [trainer.train_batch(batch, 0.01, 0.2) for batch in batches[1:]]
        return [*tensors_of(trainer), *(value for terms in sums for value in terms.values())]

    assert all(map(torch.equal, run(), run()))
