import math

import pytest
import safetensors.torch
import torch
from formulas import change
from strategies import random_rows
from torch import nn

from nnsparse_stream.kernels.operations import decode_at, encode, transpose
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.nn.optimisers import RowAdagrad, RowAdam, RowSGD, clip_grad_norm_
from nnsparse_stream.sparse.rows import SparseRows

COLUMNS, UNITS = 40, 6
DECAY = {"weight_decay": 0.02}
BY_COUNT = {"weight_decay": 0.02, "decay_by_count": True}
OPTIMISERS = [
    (RowSGD, {"lr": 0.02, **DECAY}),
    (RowSGD, {"lr": 0.005, "momentum": 0.9, **BY_COUNT}),
    (RowAdagrad, {"lr": 0.1, **DECAY}),
    (RowAdam, {"lr": 0.01, **BY_COUNT}),
    (RowAdam, {"lr": 0.01, "betas": (0.9, 0.99), "second_moment": "row", **BY_COUNT}),
]
NAMES = ["sgd", "momentum", "adagrad", "adam", "row_adam"]
EACH = pytest.mark.parametrize(("kind", "options"), OPTIMISERS, ids=NAMES)


class Autoencoder(nn.Module):
    """Two large matrices, a hidden bias and an inner layer; `encoder` (columns, units), `decoder` likewise."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(4)

        def draw(*shape):
            return nn.Parameter(torch.randn(*shape, dtype=torch.float64, generator=generator) / 2)

        self.encoder, self.hidden = draw(COLUMNS, UNITS), draw(UNITS)
        self.inner = draw(UNITS, UNITS)
        self.decoder, self.bias = draw(COLUMNS, UNITS), draw(COLUMNS)

    def forward(self, rows):
        by = transpose(rows)
        code = torch.tanh(torch.tanh(encode(self.encoder, rows, by) + self.hidden) @ self.inner)
        return decode_at(code, self.decoder, self.bias, rows, by)

    def dense(self, rows):
        """All outputs, of the densified rows."""
        code = torch.tanh(nn.functional.linear(rows.to_dense(), self.encoder.t(), self.hidden))
        return nn.functional.linear(torch.tanh(code @ self.inner), self.decoder, self.bias)


def minibatches(steps):
    """Of different sizes; every fifth is a single entry, one is empty; low columns are more frequent."""
    for step in range(steps):
        if step == 7:
            yield random_rows(3, COLUMNS, 4)[:0]
        elif step % 5 == 4:
            yield random_rows(1, COLUMNS, 1, seed=step)
        else:
            rows = random_rows(3 + step % 4, COLUMNS // 2, 5, seed=step)
            yield SparseRows(rows.offsets, rows.columns * (1 + step % 2), rows.values, COLUMNS)


def train(model, optimizer, batches, clip=None):
    for rows in batches:
        optimizer.zero_grad()
        (model(rows) - rows.values).square().sum().backward()
        if clip is not None:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


class Reference:
    """The documented formulas, row by row, after dense autograd."""

    def __init__(self, optimizer):
        (self.group,) = optimizer.param_groups
        self.optimizer, self.state = optimizer, {}

    def step(self, name, parameter, gradient, counts):
        touched = range(len(parameter)) if counts is None else counts.nonzero().flatten().tolist()
        mean = 1.0 if counts is None or not touched else counts[counts > 0].double().mean()
        for index in touched:
            row = parameter[index : index + 1].view(-1)
            factor = 1.0
            if counts is not None and self.group["decay_by_count"]:
                factor = math.sqrt(counts[index] / mean)
            g = gradient[index : index + 1].reshape(-1) + self.group["weight_decay"] * factor * row
            shapes = self.optimizer.state_shapes(row[None], self.group)
            zeros = {label: torch.zeros(shape[1:] or 1, dtype=row.dtype) for label, shape in shapes.items()}
            row -= change(self.optimizer.rule(self.group), g, self.state.setdefault((name, index), zeros))


@EACH
@pytest.mark.parametrize("clip", [None, 1.0])
def test_20_steps_equal_dense_layers_a_masked_loss_and_the_formulas(kind, options, clip):
    ours, dense = Autoencoder(), Autoencoder()
    optimizer = kind(ours.parameters(), **options)
    reference = Reference(optimizer)
    train(ours, optimizer, minibatches(20), clip)
    for rows in minibatches(20):
        mask = rows.with_values(torch.ones_like(rows.values)).to_dense()
        dense.zero_grad()
        ((dense.dense(rows) - rows.to_dense()) * mask).square().sum().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(dense.parameters(), clip)
        counts = torch.bincount(rows.columns, minlength=COLUMNS)
        with torch.no_grad():
            for label, parameter in dense.named_parameters():
                large = label in ("encoder", "decoder", "bias")
                reference.step(label, parameter, parameter.grad, counts if large else None)
    for label, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, dict(dense.named_parameters())[label], rtol=0, atol=1e-10)


@EACH
def test_without_row_gradients_they_are_the_optimisers_of_torch(kind, options):
    options = {name: value for name, value in options.items() if name != "decay_by_count"}
    if options.pop("second_moment", None):
        return
    theirs = {RowSGD: torch.optim.SGD, RowAdagrad: torch.optim.Adagrad, RowAdam: torch.optim.Adam}[kind]
    results = []
    for make in (kind, theirs):
        parameters = [nn.Parameter(torch.arange(6.0, dtype=torch.float64).view(3, 2)), nn.Parameter(torch.tensor(2.0))]
        optimizer = make(parameters, **options)
        for _ in range(5):
            optimizer.zero_grad()
            (parameters[0].sin().square().sum() * parameters[1]).backward()
            optimizer.step()
        results.append([parameter.detach() for parameter in parameters])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6 if ours.dtype == torch.float32 else 1e-12, atol=1e-12)


@EACH
def test_state_goes_through_safetensors_and_training_continues_bit_by_bit(kind, options, tmp_path):
    batches = list(minibatches(20))
    whole, broken = Autoencoder().float(), Autoencoder().float()
    batches = [rows.to(dtype=torch.float32) for rows in batches]
    train(whole, kind(whole.parameters(), **options), batches)

    first = kind(broken.parameters(), **options)
    train(broken, first, batches[:11])
    saved = first.state_dict()
    tensors = {f"{number}.{name}": t for number, state in saved["state"].items() for name, t in state.items()}
    safetensors.torch.save_file(tensors, tmp_path / "state.safetensors")
    loaded = {number: {} for number in saved["state"]}
    for key, tensor in safetensors.torch.load_file(tmp_path / "state.safetensors").items():
        number, name = key.split(".")
        loaded[int(number)][name] = tensor

    resumed = Autoencoder().float()
    resumed.load_state_dict(broken.state_dict())
    optimizer = kind(resumed.parameters(), **{**options, "lr": 77.0})
    optimizer.load_state_dict({"state": loaded, "param_groups": saved["param_groups"]})
    for number, state in optimizer.state_dict()["state"].items():
        assert state.keys() == saved["state"][number].keys()
        assert all(torch.equal(state[name], saved["state"][number][name]) for name in state)
    train(resumed, optimizer, batches[11:])
    for ours, reference in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, reference)


def test_one_second_moment_a_row_halves_the_state():
    model = Autoencoder()
    optimizer = RowAdam(model.parameters(), second_moment="row")
    train(model, optimizer, minibatches(1))
    shapes = {name: tuple(value.shape) for name, value in optimizer.state[model.encoder].items()}
    assert shapes == {"first": (COLUMNS, UNITS), "second": (COLUMNS, 1), "updates": (COLUMNS,)}
    assert {tuple(value.shape) for value in optimizer.state[model.bias].values()} == {(COLUMNS,), (COLUMNS, 1)}


def test_groups_have_coefficients_of_their_own():
    model = Autoencoder()
    frozen = model.decoder.detach().clone()
    optimizer = RowSGD([{"params": [model.encoder], "lr": 0.1}, {"params": [model.decoder], "lr": 0.0}], lr=5.0)
    train(model, optimizer, minibatches(1))
    assert torch.equal(model.decoder, frozen)


def test_clipping_gives_the_norm_before_and_leaves_small_gradients_alone():
    model = Autoencoder()
    rows = random_rows(4, COLUMNS, 5)
    model(rows).square().sum().backward()
    dense = [p.grad.to_dense() if isinstance(p.grad, RowGradient) else p.grad.clone() for p in model.parameters()]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in dense))
    assert float(clip_grad_norm_(model.parameters(), 1e9)) == pytest.approx(norm, rel=1e-12)
    assert torch.equal(model.encoder.grad.to_dense(), dense[0])
    assert float(clip_grad_norm_(model.parameters(), 0.5)) == pytest.approx(norm, rel=1e-12)
    assert float(clip_grad_norm_(model.parameters(), 0.5)) == pytest.approx(0.5, rel=1e-5)
    model.hidden.grad.fill_(float("nan"))
    assert clip_grad_norm_(model.parameters(), 0.5).isnan()
    assert model.encoder.grad.to_dense()[rows.columns.long()].isnan().all()
    assert clip_grad_norm_([nn.Parameter(torch.ones(1))], 1.0) == 0


def test_a_closure_is_called_with_gradients():
    parameter = nn.Parameter(torch.ones(2))

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert RowSGD([parameter], lr=0.1).step(closure) == 2
    torch.testing.assert_close(parameter.detach(), torch.full((2,), 0.8))


def test_what_cannot_be_meant_is_refused():
    parameter = nn.Parameter(torch.ones(3, 2))
    for kind, options, message in (
        (RowSGD, {"lr": -1.0}, "lr must not be negative"),
        (RowSGD, {"lr": 1.0, "momentum": -0.1}, "momentum must not be negative"),
        (RowAdagrad, {"weight_decay": -1.0}, "weight_decay must not be negative"),
        (RowAdam, {"eps": -1.0}, "eps must not be negative"),
        (RowAdam, {"betas": (0.9, 1.0)}, "betas must lie between 0 and 1"),
        (RowAdam, {"second_moment": "column"}, "second_moment must be 'element' or 'row', got 'column'"),
    ):
        with pytest.raises(ValueError, match=message):
            kind([parameter], **options)
    parameter.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (3, 2))
    with pytest.raises(ValueError, match=r"dense or by rows, got one of layout torch\.sparse_coo"):
        RowSGD([parameter], lr=0.1).step()


@EACH
def test_bfloat16_storage_stays_near_float32_training(kind, options):
    """After 20 steps the two large matrices differ by less than 1 % of what float32 training makes of them."""
    models = {}
    for storage in (torch.float32, torch.bfloat16):
        model = Autoencoder().float()
        for matrix in (model.encoder, model.decoder):
            matrix.data = matrix.data.bfloat16().to(storage)
        optimizer = kind(model.parameters(), **options)
        optimizer.generator = torch.Generator().manual_seed(2)
        for rows in minibatches(20):
            rows = rows.to(dtype=torch.float32)
            optimizer.zero_grad()
            (model(rows) - rows.values).square().sum().backward()
            optimizer.step()
        assert all(value.dtype == torch.float32 for state in optimizer.state.values() for value in state.values())
        models[storage] = model
    for wide, narrow in zip(*(model.state_dict().values() for model in models.values()), strict=True):
        assert float((narrow.float() - wide).norm() / wide.norm()) < 0.01
    for name in ("encoder", "decoder"):
        wide, narrow = (getattr(model, name) for model in models.values())
        assert (wide.dtype, narrow.dtype) == (torch.float32, torch.bfloat16)


def test_updates_below_the_distance_of_two_bfloat16_numbers_are_not_lost():
    """1000 updates of 1e-4 at 1.0, where bfloat16 has steps of 0.004: the mean moves by 0.1; a seed repeats it."""
    moved = []
    for _ in range(2):
        weight = nn.Parameter(torch.ones(1, 4096, dtype=torch.bfloat16))
        optimizer = RowSGD([weight], lr=1e-4)
        optimizer.generator = torch.Generator().manual_seed(3)
        for _ in range(1000):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved.append(weight.detach().float())
    assert float(moved[0].mean()) == pytest.approx(0.9, abs=0.003)
    assert torch.equal(*moved)


@EACH
def test_a_state_of_another_shape_is_refused_before_the_loops_write_beyond_it(kind, options):
    weight = nn.Parameter(torch.zeros(COLUMNS, UNITS))
    optimiser = kind([weight], **options)
    rows = random_rows(3, COLUMNS, 5, dtype=torch.float32)
    encode(weight, rows).sum().backward()
    optimiser.step()
    for name, value in optimiser.state[weight].items():
        optimiser.state[weight][name] = value[:2]
        with pytest.raises(ValueError, match=r"the state of a parameter of shape \(40, 6\) is"):
            optimiser.step()
        optimiser.state[weight][name] = value


@EACH
def test_decays_are_scaled_by_row_and_unit_rows_keep_their_norm(kind, options):
    start = nn.functional.normalize(torch.randn(COLUMNS, UNITS, generator=torch.Generator().manual_seed(3)).double())
    scales = torch.linspace(0, 3, COLUMNS, dtype=torch.float64)
    options = {key: value for key, value in options.items() if key != "decay_by_count"}
    weights = []
    for unit_rows in (False, True):
        by_rows, dense = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        for weight in (by_rows, dense):
            group = {"params": [weight], "decay_scales": scales, "unit_rows": unit_rows}
            optimizer = kind([group], **options)
            for step in range(3):
                optimizer.zero_grad()
                rows = random_rows(30, COLUMNS, 20, seed=step)  # touches every column
                (encode(weight, rows) if weight is by_rows else rows.to_dense() @ weight).sin().sum().backward()
                assert isinstance(weight.grad, RowGradient) == (weight is by_rows)
                optimizer.step()
        torch.testing.assert_close(by_rows, dense, rtol=0, atol=1e-10)
        weights.append(by_rows.detach())
    free, unit = weights
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(COLUMNS, dtype=torch.float64))
    assert (free - unit).abs().min() > 0


def test_the_formulas_of_scaled_decay_and_unit_rows():
    row, gradient = torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, -2.0]])
    scaled, unit = nn.Parameter(row.clone()), nn.Parameter(row.clone())
    scaled.grad, unit.grad = gradient.clone(), gradient.clone()
    RowSGD([{"params": [scaled], "decay_scales": torch.tensor([3.0])}], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(scaled.detach(), row - 0.5 * (gradient + 0.3 * row))
    RowSGD([{"params": [unit], "unit_rows": True}], lr=0.5).step()
    moved = row - 0.5 * (gradient - (gradient * row).sum() * row)
    torch.testing.assert_close(unit.detach(), moved / moved.norm())


def test_the_state_that_is_still_to_come_is_told_in_bytes():
    weight, bias = nn.Parameter(torch.ones(30, 4)), nn.Parameter(torch.ones(5))
    optimizer = RowAdam([weight, bias], second_moment="row")
    assert optimizer.missing_state_bytes() == 4 * (30 * 4 + 30 + 30 + 5 + 5 + 5)
    weight.sum().backward()
    optimizer.step()
    assert optimizer.missing_state_bytes() == 4 * 15
