"""What every kind of model keeps to; a new kind has an example in example_models.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from example_models import COLUMNS, EXAMPLES, VARIANTS
from torch.utils._python_dispatch import TorchDispatchMode

from nnsparse_stream.nn.model import FactorModel, Model
from nnsparse_stream.nn.models import MODELS
from nnsparse_stream.sparse.rows import SparseRows

#: Two rows, one of them cold, and one with nearly all columns.
KNOWN = SparseRows.from_rows(
    [
        (torch.tensor([1, 4, 6]), torch.tensor([5.0, 1.0, 3.0])),
        (torch.zeros(0, dtype=torch.int64), torch.zeros(0)),
        (torch.tensor([0, 1, 2, 3, 4, 5, 7]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 4.0, 3.0])),
    ],
    COLUMNS,
)
#: Column 8 has no training entry.
COUNTS = torch.tensor([3, 2, 2, 1, 4, 1, 1, 2, 0])


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    found = EXAMPLES[request.param]()
    assert found.kind == request.param
    found.column_counts.copy_(COUNTS)
    return found.eval()


def dense(model: Model) -> torch.Tensor:
    return model.tiles(KNOWN)(0, COLUMNS)


def test_scores_at_entries_are_those_of_the_tiles(model: Model) -> None:
    every = SparseRows.from_dense(torch.ones(3, COLUMNS))
    whole = dense(model)
    assert whole.isfinite().all()
    torch.testing.assert_close(model.predict_at(KNOWN, every, clip=False).view(3, COLUMNS), whole)
    tile = model.tiles(KNOWN)
    parts = torch.cat([tile(start, min(start + 4, COLUMNS)) for start in range(0, COLUMNS, 4)], 1)
    torch.testing.assert_close(parts, whole)


def test_the_caller_may_write_to_a_tile(model: Model) -> None:
    whole, tile = dense(model), model.tiles(KNOWN)
    tile(0, COLUMNS).fill_(torch.nan)
    torch.testing.assert_close(tile(0, COLUMNS), whole)


def test_lists_hold_the_best_columns_that_a_row_lacks_and_training_knows(model: Model) -> None:
    columns, scores = model.top_k(KNOWN, 4)
    allowed = dense(model)
    allowed[:, 8] = -torch.inf
    allowed[KNOWN.row_indices().long(), KNOWN.columns.long()] = -torch.inf
    expected = allowed.sort(dim=1, descending=True, stable=True)
    there = expected.values[:, :4] > -torch.inf
    assert torch.equal(columns, torch.where(there, expected.indices[:, :4], -1))
    torch.testing.assert_close(scores, expected.values[:, :4])
    assert columns[2].tolist() == [6, -1, -1, -1]


def test_columns_that_nobody_knows_have_a_score(model: Model) -> None:
    assert model.at_unknown(KNOWN).shape == (3,)
    assert model.at_unknown(KNOWN).isfinite().all()


def test_blocks_that_do_not_fit_are_refused(model: Model) -> None:
    with pytest.raises(ValueError, match=f"rows have 5 columns, but the model has {COLUMNS}"):
        model.top_k(SparseRows.from_dense(torch.ones(1, 5)), 2)
    with pytest.raises(ValueError, match="3 rows of ratings, but entries of 1 rows"):
        model.predict_at(KNOWN, SparseRows.from_dense(torch.ones(1, COLUMNS)))


def test_weights_and_configuration_are_the_whole_model(model: Model) -> None:
    with torch.device("meta"):
        again = type(model)(model.config_type(**{**model.config.to_json(), **tuples(model)}))
    again.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(dense(again.eval()), dense(model))


def tuples(model: Model) -> dict[str, object]:
    """The fields of a configuration that JSON makes lists of."""
    return {name: value for name, value in vars(model.config).items() if isinstance(value, tuple)}


def test_codes_decode_to_the_scores(model: Model) -> None:
    if not isinstance(model, FactorModel):
        pytest.skip("no factor model")
    codes = model.codes(KNOWN)
    assert codes.shape == (3, model.code_units)
    some = torch.tensor([7, 0, 8])
    torch.testing.assert_close(model.decode(codes, some), dense(model)[:, some])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_tensors_of_columns_are_those_that_grow_with_the_columns(name: str) -> None:
    model = VARIANTS[name](1)
    with torch.device("meta"):
        larger = type(model)(replace(model.config, num_columns=COLUMNS + 1)).state_dict()
    held = model.state_dict()
    shapes = {name: (tensor.shape, larger[name].shape) for name, tensor in held.items()}
    grown = {name for name, (before, after) in shapes.items() if before != after}
    assert model.column_tensors == grown
    assert all(shapes[name][0][0] == COLUMNS for name in grown)
    parameters = {name for name, _ in model.named_parameters()}
    assert model.unit_row_tensors <= parameters & grown
    for name in parameters & grown:
        norms = held[name].float().view(COLUMNS, -1).norm(dim=1)
        assert bool(((norms - 1).abs() < 1e-6).all()) == (name in model.unit_row_tensors)


class Drawn(TorchDispatchMode):
    """Whether something was drawn from a normal distribution."""

    normal = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.normal |= "normal" in str(func)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_without_memory_draws_nothing_from_a_normal_distribution(name: str) -> None:
    """On the device "meta", torch imports 150 MB for it."""
    model = VARIANTS[name](1)
    with Drawn() as found, torch.device("meta"):
        type(model)(model.config)
    assert not found.normal
