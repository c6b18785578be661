import pytest
import torch
from backend_cases import ON_CPU
from strategies import random_rows
from torch.nn.functional import normalize

from nnsparse_stream.kernels.backends import using
from nnsparse_stream.kernels.operations import transpose
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.nn.ranking_losses import LOSSES, Negatives
from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.sparse.rows import SparseRows

COLUMNS = 12
SAMPLED = torch.tensor([0, 3, 4, 8, 11], dtype=torch.int32)
KINDS = {
    "linear": {"code_power": 0.25},
    "tied": {"code_power": 0.5, "tied": True},
    "cosine": {"tied": True, "temperature": 3.0},
    "popularity": {"tied": True, "temperature": 3.0, "popularity_power": 0.5},
    "linear popularity": {"code_power": 0.25, "popularity_power": 0.5},
}
COUNTS = torch.tensor([4, 1, 9, 2, 2, 8, 7, 3, 1, 1, 5, 6])
EACH = pytest.mark.parametrize("kind", KINDS)


def model_of(kind):
    config = RankingConfig(COLUMNS, 7, 4, **KINDS[kind])
    model = RankingAutoencoder(config, torch.Generator().manual_seed(1), 0.5).double()
    with torch.no_grad():
        model.decoder_bias.normal_(generator=torch.Generator().manual_seed(2))
        if model.config.temperature is not None:  # by float64 numbers
            model.encoder.copy_(normalize(model.encoder))
    if model.config.popularity_power:
        model.column_counts.copy_(COUNTS)
    return model


def minibatch():
    """Five rows of three entries, one of one, and an empty one."""
    empty = SparseRows.from_dense(torch.zeros(1, COLUMNS, dtype=torch.float64))
    rows = SparseRows.concatenate([random_rows(5, COLUMNS, 3), random_rows(1, COLUMNS, 1), empty])
    return rows.with_values(torch.ones_like(rows.values))


def score_without(model, held):
    """The score of all columns for a row, densely, from what it has: bool (columns,)."""
    encoder = model.encoder
    shares = held.double()
    if model.config.popularity_power:
        shares = shares * model.column_counts.double() ** -model.config.popularity_power
    if model.config.temperature is not None:
        encoder = normalize(encoder)
        return model.config.temperature * normalize(shares @ encoder, dim=0) @ encoder.t() + model.decoder_bias
    code = shares @ encoder * held.double().sum().clamp(min=1) ** -model.config.code_power
    return code @ model.output_matrix.t() + model.decoder_bias


def dense_estimates(model, rows, visible):
    held = rows.with_values(visible.double()).to_dense().bool()
    row, column = rows.row_indices().tolist(), rows.columns.tolist()
    observed = []
    for r, c in zip(row, column, strict=True):
        others = held[r].clone()
        others[c] = False
        observed.append(score_without(model, others)[c])
    return torch.stack(observed), torch.stack([score_without(model, h) for h in held])[:, SAMPLED.long()]


def dense_loss(name, observed, sampled, rows, weights):
    losses = []
    has = rows.to_dense().bool()
    for r in range(rows.num_rows):
        own = observed[rows.row_indices() == r]
        share = weights[rows.row_indices() == r]
        free = [i for i, c in enumerate(SAMPLED.tolist()) if not has[r, c]]
        others = sampled[r, free]
        times = (COLUMNS - len(own)) / len(free)
        if name == "squared":
            loss = (share * (1 - own) ** 2).sum() + times * (others**2).sum()
        elif name == "logistic":
            loss = -(share * own.sigmoid().log()).sum() - times * (1 - others.sigmoid()).log().sum()
        else:
            loss = -(share * (own.exp() / (own.exp().sum() + times * others.exp().sum())).log()).sum()
        losses.append(loss)
    return torch.stack(losses)


@EACH
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("hidden", [False, True])
def test_losses_and_gradients_equal_those_of_each_row_without_its_entry(kind, loss, name, hidden):
    model, rows = model_of(kind), minibatch()
    weights = torch.linspace(0.5, 2, rows.num_entries, dtype=torch.float64)
    visible = torch.arange(rows.num_entries) % 3 > 0 if hidden else torch.ones(rows.num_entries, dtype=torch.bool)
    of_rows = torch.linspace(1, 2, rows.num_rows, dtype=torch.float64)
    with using(name):
        transposed = transpose(rows)
        estimates = model.estimate(rows, SAMPLED, transposed, visible if hidden else None)
        observed, sampled = dense_estimates(model, rows, visible)
        torch.testing.assert_close(estimates.observed, observed)
        torch.testing.assert_close(estimates.sampled, sampled)
        losses = LOSSES[loss](estimates, weights, Negatives(rows, transposed, SAMPLED, COLUMNS))
        gradients = torch.autograd.grad((losses * of_rows).sum(), model.parameters())
        expected = dense_loss(loss, observed, sampled, rows, weights)
        torch.testing.assert_close(losses, expected)
        references = torch.autograd.grad((expected * of_rows).sum(), model.parameters())
        for (parameter, _), ours, reference in zip(model.named_parameters(), gradients, references, strict=True):
            assert isinstance(ours, RowGradient)
            dense = ours.to_dense()
            # What the optimiser leaves of it for rows of norm 1.
            if model.config.temperature is not None and parameter == "encoder":
                dense -= (dense * model.encoder).sum(1, keepdim=True) * model.encoder
            torch.testing.assert_close(dense, reference)


@EACH
def test_sampled_columns_are_scored_in_less_precision_and_entries_are_not(kind):
    model, rows = model_of(kind).float(), minibatch()
    rows = rows.with_values(rows.values.float())

    def found(precision):
        estimates = model.estimate(rows, SAMPLED, transpose(rows), precision=precision)
        loss = estimates.observed.square().sum() + estimates.sampled.square().sum()
        return estimates, [gradient.to_dense() for gradient in torch.autograd.grad(loss, model.parameters())]

    (ours, gradients), (exact, references) = found("bfloat16"), found("float32")
    assert torch.equal(ours.observed, exact.observed)
    assert not torch.equal(ours.sampled, exact.sampled)
    for low, high in zip((ours.sampled, *gradients), (exact.sampled, *references), strict=True):
        assert low.dtype == torch.float32
        assert (low - high).abs().max() <= 2**-5 * high.abs().max()


@EACH
def test_lists_are_ordered_by_the_scores_of_the_whole_row(kind):
    model, rows = model_of(kind), minibatch()
    model.column_counts += 1
    dense = torch.stack([score_without(model, row) for row in rows.to_dense().bool()])
    torch.testing.assert_close(model.tiles(rows)(0, COLUMNS), dense)


@EACH
def test_a_cold_row_has_the_biases_and_a_column_never_trained_the_lowest(kind):
    model = model_of(kind)
    model.column_counts[:3] = 0
    model.column_counts[3:] = 2
    biases = model.decoder_bias.detach().clone()
    biases[:3] = biases[3:].min()
    cold = minibatch()[-1:]
    assert not cold.num_entries
    torch.testing.assert_close(model.tiles(cold)(0, COLUMNS)[0], biases)
    assert model.at_unknown(cold).tolist() == [biases.min()]


def test_one_entry_is_foretold_by_nothing_in_float32_too():
    """The code without it is 0, of which rounding must not make a direction."""
    model = model_of("cosine").float()
    rows = random_rows(1, COLUMNS, 1, dtype=torch.float32)
    observed = model.estimate(rows, SAMPLED, transpose(rows)).observed
    assert torch.equal(observed, model.decoder_bias[rows.columns.long()])


def test_cosines_need_one_matrix():
    with pytest.raises(ValueError, match=r"temperature must be positive and the model tied, got 3\.0, False"):
        RankingConfig(5, 2, 4, temperature=3.0)


@EACH
def test_contributions_of_known_entries_and_the_bias_add_up_to_the_score(kind):
    model, rows = model_of(kind), minibatch()
    model.column_counts.fill_(1)
    columns = torch.arange(21).view(7, 3) % COLUMNS
    columns[2, 1] = -1
    found = model.contributions(rows, columns)
    sums = found.new_zeros(7, 3).index_add_(0, rows.row_indices().long(), found)
    scores = model.tiles(rows)(0, COLUMNS).gather(1, columns.clamp(min=0))
    expected = (scores - model.decoder_bias[columns]).masked_fill(columns < 0, 0.0)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-12)
    parts = model.tiles(rows)(0, COLUMNS)[0] - model.decoder_bias  # row 0 has several entries: none gives all
    assert not torch.allclose(found[0], parts[columns[0]])
