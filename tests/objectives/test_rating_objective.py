"""The objective `rating`: what a step does, option by option."""

import math

import pytest
import torch

from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.rating_objective import RatingObjective
from nnsparse_stream.sparse.rows import SparseRows

ROWS = SparseRows.from_rows(
    [
        (torch.tensor([0, 3, 7]), torch.tensor([5.0, 3.0, 4.0]).double()),
        (torch.tensor([3, 6]), torch.tensor([1.0, 2.0]).double()),
    ],
    num_columns=8,
)


def test_a_step_of_two_layers_on_raw_ratings_equals_dense_autograd():
    plan = recipe(
        "deep", hidden=(4, 3), optimizer="sgd", momentum=0.0, hide_ratio=0.4, encoder_rate=0.5, weight_decay=0.2,
        decoder_weight_decay=0.3, decay_ramp=0.5, decay_by_count=False,
    )  # fmt: skip
    config = AutoencoderConfig(
        8, (4, 3), False, plan.activation, "identity", mean=3.0, mean_damping=1.0, raw_input=True, input_scale=12.0
    )
    model = RatingAutoencoder(config, torch.Generator().manual_seed(1), 0.1, plan.inner_gain).double()
    model.column_counts.fill_(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = RatingObjective(model, plan, torch.Generator().manual_seed(2), None)
    for group in objective.optimizer.param_groups:
        group["lr"] = 0.1 * group["rate"]
    objective.train_batch(ROWS, progress=0.2)

    dense = {name: value.clone().requires_grad_() for name, value in before.items() if value.is_floating_point()}
    rows, columns = ROWS.row_indices().long(), ROWS.columns.long()
    hidden = objective.criterion.corrupted
    assert 0 < int(hidden.sum()) < 5
    x = torch.zeros(2, 8, dtype=torch.float64)
    scale = 12 / torch.tensor([3.0, 2.0]).double().sqrt()
    x[rows, columns] = torch.where(hidden, 0.0, ROWS.values / 0.6 * scale[rows])
    code = torch.sigmoid(x @ dense["encoder"] + dense["encoder_bias"]) - 0.5
    code = torch.sigmoid(code @ dense["inner.0.weight"].t() + dense["inner.0.bias"]) - 0.5
    estimates = (code @ dense["decoder"].t() + dense["decoder_bias"])[rows, columns]
    targets = ROWS.values - torch.tensor([(12 + 3) / 4, (3 + 3) / 3]).double()[rows]
    ((estimates - targets) ** 2).mean().backward()
    touched = torch.zeros(8, dtype=torch.bool)
    touched[columns] = True
    share = 0.4 / math.sqrt(16)  # of the ramp, and by the training entries
    decays = {"encoder": 0.2, "inner.0.weight": 0.2, "decoder": 0.3}
    for name, value in before.items():
        if name == "column_counts":
            continue
        rate = 0.05 if name == "encoder" else 0.1
        updated = value - rate * (dense[name].grad + decays.get(name, 0.0) * share * value)
        if name in ("encoder", "decoder"):
            updated = torch.where(touched[:, None], updated, value)
        torch.testing.assert_close(model.state_dict()[name], updated, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)])
def test_l2_rises_over_its_ramp(progress, share):
    assert recipe("deep", decay_ramp=0.5).decay_share_at(progress) == pytest.approx(share)
    assert recipe("deep", decay_ramp=0.0).decay_share_at(progress) == 1.0


@pytest.mark.parametrize("by_count", [False, True])
def test_l2_is_that_of_minibatches_of_decay_rows(by_count):
    plan = recipe("best", hidden=(4,), presence=True, batch_rows=50, decay_rows=5, decay_by_count=by_count)
    model = RatingAutoencoder(AutoencoderConfig(4, (4,), presence=True, row_offset=True, num_rows=100))
    model.column_counts.copy_(torch.tensor([0, 1, 10, 100]))
    groups = RatingObjective(model, plan, torch.Generator(), None).optimizer.param_groups
    scales = {id(group["params"][0]): group["decay_scales"] for group in groups}
    found = [scales.pop(id(matrix)) for matrix in (model.encoder, model.presence, model.decoder)]
    assert set(scales.values()) == {None}

    # A row is in an epoch's minibatch of n rows with probability n / 100; a column is, unless all its entries are not.
    few, many = ([1 - (1 - rows / 100) ** count for count in (1, 10, 100)] for rows in (5, 50))
    wanted = [small / large for small, large in zip(few, many, strict=True)]
    if by_count:
        wanted = [math.sqrt(ratio * sum(few) / sum(many)) for ratio in wanted]
    for scale in found:
        torch.testing.assert_close(scale[1:], torch.tensor(wanted))
        assert scale.isfinite().all()


def test_without_decay_rows_l2_has_no_scale():
    model = RatingAutoencoder(AutoencoderConfig(4, (4,), num_rows=100))
    groups = RatingObjective(model, recipe("best", hidden=(4,)), torch.Generator(), None).optimizer.param_groups
    assert {group["decay_scales"] for group in groups} == {None}
