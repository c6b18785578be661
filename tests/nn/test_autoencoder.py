import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder, _shares
from nnsparse_stream.sparse.rows import SparseRows

RATINGS = SparseRows.from_rows(
    [
        (torch.tensor([0, 2, 5]), torch.tensor([5.0, 3.0, 4.0])),
        (torch.tensor([], dtype=torch.int64), torch.tensor([])),
        (torch.tensor([1]), torch.tensor([2.0])),
    ],
    num_columns=8,
)


def make_model(hidden=(6,), seen=range(7), **fields):
    config = AutoencoderConfig(8, hidden, mean=3.5, unit=2.0, rating_min=1.0, rating_max=5.0, **fields)
    model = RatingAutoencoder(config, torch.Generator().manual_seed(3))
    model.column_counts[list(seen)] = 1
    return model


def test_predictions_at_entries_equal_those_for_all_columns():
    for hidden in ((6,), (6, 4), (6, 4, 3)):
        model = make_model(hidden, activation="selu", output_activation="identity")
        at = SparseRows.from_rows([(torch.tensor([1, 7]), torch.zeros(2))] * 3, num_columns=8)
        dense = model.predict(RATINGS)
        torch.testing.assert_close(
            model.predict_at(RATINGS, at), dense[at.row_indices().long(), at.columns.long()], rtol=1e-6, atol=1e-6
        )


def test_hidden_layers_mirror_each_other():
    model = make_model((6, 4, 3))
    assert [tuple(layer.weight.shape) for layer in model.inner] == [(4, 6), (3, 4), (4, 3), (6, 4)]


def test_the_pass_equals_the_formula():
    model = make_model((6, 4))
    x = torch.zeros(3, 8)
    x[0, [0, 2, 5]] = torch.tensor([5.0, 3.0, 4.0]) - 4.0
    code = torch.tanh(x / 2 @ model.encoder + model.encoder_bias)
    code = torch.tanh(code @ model.inner[0].weight.t() + model.inner[0].bias)
    code = torch.tanh(code @ model.inner[1].weight.t() + model.inner[1].bias)
    output = torch.tanh(code @ model.decoder.t() + model.decoder_bias)
    output[:, 7] = 0  # never trained
    expected = output * 2 + torch.tensor([[4.0], [3.5], [2.0]])
    torch.testing.assert_close(model.predict(RATINGS, clip=False), expected)


def test_a_model_that_is_not_mirrored_decodes_its_last_layer_and_may_read_the_ratings_themselves():
    model = make_model(
        (6, 4), mirrored=False, raw_input=True, input_scale=3.0, activation="shifted_sigmoid", output_activation="tanh"
    )
    x = torch.zeros(3, 8)
    x[0, [0, 2, 5]] = torch.tensor([5.0, 3.0, 4.0]) / 2 * 3 / 3**0.5
    x[2, 1] = 2.0 / 2 * 3
    code = torch.sigmoid(x @ model.encoder + model.encoder_bias) - 0.5
    code = torch.sigmoid(code @ model.inner[0].weight.t() + model.inner[0].bias) - 0.5
    output = torch.tanh(code @ model.decoder.t() + model.decoder_bias)
    output[:, 7] = 0  # never trained
    expected = output * 2 + torch.tensor([[4.0], [3.5], [2.0]])
    torch.testing.assert_close(model.predict(RATINGS, clip=False), expected)


def test_inner_layers_may_begin_with_a_deviation_of_their_own():
    config = AutoencoderConfig(8, (300, 400), mirrored=False)
    model = RatingAutoencoder(config, torch.Generator().manual_seed(1), initial_std=0.02, inner_gain=4.0)
    assert float(model.inner[0].weight.detach().std()) == pytest.approx(4 / 300**0.5, rel=0.02)
    assert float(model.decoder.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_features_of_rows_are_added_to_the_first_layer():
    model = make_model(output_activation="identity", num_features=4, feature_scale=3.0)
    assert model.reads_features
    torch.testing.assert_close(model.predict(RATINGS), make_model(output_activation="identity").predict(RATINGS))
    torch.nn.init.normal_(model.features, generator=torch.Generator().manual_seed(1))
    held = SparseRows.from_rows([(torch.tensor([0, 3]), torch.ones(2)), (torch.tensor([2]), torch.ones(1))], 4)
    features = SparseRows(torch.tensor([0, 2, 3, 3]), held.columns, held.values, 1000)
    rows = SparseRows(RATINGS.offsets, RATINGS.columns, RATINGS.values, 8, features)
    sums = 3 * torch.stack([(model.features[0] + model.features[3]) / 2**0.5, model.features[2], torch.zeros(6)])
    inputs = model.residuals(rows, model.row_means(rows))
    x = inputs.to_dense(0.0) @ model.encoder + model.encoder_bias + sums
    torch.testing.assert_close(model.code(inputs), torch.tanh(x))
    assert not torch.equal(model.predict(rows)[1], model.predict(RATINGS)[1])
    torch.testing.assert_close(model.predict(rows)[2], model.predict(RATINGS)[2])


def test_a_row_is_expected_to_have_the_mean_that_its_features_foretell():
    model = make_model(num_features=2, feature_scale=2.0, mean_damping=2.0)
    model.feature_means.data = torch.tensor([[0.5], [-0.25]])
    features = SparseRows.from_rows([(torch.tensor([0]), torch.ones(1)), (torch.tensor([1]), torch.ones(1))], 2)
    rows = SparseRows(RATINGS.offsets[:3], RATINGS.columns[:3], RATINGS.values[:3], 8, features)
    assert model.expected_means(rows).tolist() == [4.5, 3.0]
    assert model.row_means(rows).tolist() == pytest.approx([(12 + 2 * 4.5) / 5, 3.0])
    assert model.expected_means(RATINGS).tolist() == [3.5] * 3


def test_cold_rows_and_unseen_columns_fall_back_and_are_never_nan():
    model = make_model(seen=[0])
    predicted = model.predict(RATINGS)
    assert not predicted.isnan().any()
    assert predicted[1, 1:].tolist() == [3.5] * 7  # a row without ratings: the mean training rating
    assert predicted[0, 1:].tolist() == [4.0] * 7  # columns never trained: the row's mean


def test_the_mean_of_millions_of_equal_ratings_is_that_rating():
    many = 2_000_000
    model = RatingAutoencoder(AutoencoderConfig(1, (1,), mean_damping=1.0, mean=4.7, input_scale=1.0))
    ratings = SparseRows(
        torch.tensor([0, many, many]), torch.zeros(many, dtype=torch.int32), torch.full((many,), 4.7), 1
    )
    assert model.row_means(ratings).tolist() == pytest.approx([4.7, 4.7], rel=1e-6)


def test_a_row_of_more_entries_than_float32_counts_has_their_number():
    many = (1 << 24) + (1 << 20)
    rows = SparseRows(torch.tensor([0, many]), torch.zeros(many, dtype=torch.int32), torch.zeros(many), 1)
    for visible in (None, torch.ones(1, dtype=torch.bool).expand(many)):
        assert float(_shares(rows, visible)[-1]) == pytest.approx(many**-0.5, rel=1e-6)


def test_predictions_are_clipped_to_the_rating_range():
    model = make_model()
    with torch.no_grad():
        model.decoder_bias.fill_(10.0)
    assert model.predict(RATINGS).max() == 5.0
    assert model.predict(RATINGS, clip=False).max() > 5.0


@given(k=st.integers(1, 10), tile=st.integers(1, 9), seed=st.integers(0, 50))
def test_top_k_equals_a_full_sort_whatever_the_tiles(k, tile, seed):
    model = make_model()
    with torch.no_grad():
        model.decoder.normal_(generator=torch.Generator().manual_seed(seed))
    columns, scores = model.top_k(RATINGS, k, tile_columns=tile)
    dense = model.predict(RATINGS, clip=False)
    for row in range(3):
        taboo = {7, *RATINGS[row].columns.tolist()}
        expected = sorted((c for c in range(8) if c not in taboo), key=lambda c: -dense[row, c].item())[:k]
        missing = min(k, 8) - len(expected)
        assert columns[row].tolist() == expected + [-1] * missing
        torch.testing.assert_close(scores[row, : len(expected)], dense[row, expected])
        assert (scores[row, len(expected) :] == -torch.inf).all()


def test_top_k_orders_equal_scores_by_column():
    model = make_model()
    with torch.no_grad():
        model.decoder.zero_()
        model.decoder_bias.zero_()
    for tile in (1, 3, 8):
        for k in (2, 7):
            columns, _ = model.top_k(RATINGS, k, tile_columns=tile)
            assert columns[1].tolist() == list(range(k))


def test_configurations_that_make_no_model_are_refused():
    with pytest.raises(ValueError, match="no activation 'tan'"):
        make_model(activation="tan")
    with pytest.raises(ValueError, match="at least one layer"):
        make_model(())
    with pytest.raises(ValueError, match="9 columns, but the model has 8"):
        make_model().predict(SparseRows.from_dense(torch.ones(1, 9)))


def test_inputs_are_scaled_by_their_visible_entries_and_rows_have_offsets():
    model = make_model(input_scale=3.0, row_offset=True, mean_damping=2.0, output_activation="identity")
    with torch.no_grad():
        model.row_offset.normal_(generator=torch.Generator().manual_seed(1))
    means = model.row_means(RATINGS)
    torch.testing.assert_close(means, torch.tensor([(12 + 2 * 3.5) / 5, 3.5, (2 + 2 * 3.5) / 3]))
    residuals = model.residuals(RATINGS, means)
    visible = torch.tensor([True, False, True, True])
    hidden = residuals.with_values(residuals.values * visible)
    estimates = model.estimate(hidden, residuals, visible).values
    dense = hidden.to_dense() * 3 / torch.tensor([2.0, 1.0, 1.0]).sqrt()[:, None]
    code = torch.tanh(dense @ model.encoder + model.encoder_bias)
    output = code @ model.decoder.t() + model.decoder_bias + (code @ model.row_offset)[:, None]
    torch.testing.assert_close(estimates, output[residuals.row_indices().long(), residuals.columns.long()])
    every = SparseRows.from_dense(torch.ones(3, 8))
    torch.testing.assert_close(
        model.predict_at(RATINGS, every).view(3, 8), model.predict(RATINGS), rtol=1e-6, atol=1e-6
    )


def test_a_bfloat16_model_predicts_as_its_widened_weights_do():
    narrow = RatingAutoencoder(AutoencoderConfig(9, (4,), storage="bfloat16"), torch.Generator().manual_seed(1))
    wide = RatingAutoencoder(AutoencoderConfig(9, (4,)))
    wide.load_state_dict(narrow.state_dict())
    for model in (narrow, wide):
        model.column_counts.fill_(1)
    rows = SparseRows.from_rows(
        [(torch.tensor([1, 4]), torch.tensor([0.5, -1.0])), (torch.tensor([8]), torch.ones(1))], 9
    )
    torch.testing.assert_close(narrow.predict(rows), wide.predict(rows))
    torch.testing.assert_close(narrow.predict_at(rows, rows), wide.predict_at(rows, rows))
    assert narrow.encoder.dtype == torch.bfloat16


def test_presence_adds_the_visible_columns_own_rows_over_the_root_of_their_number():
    generator = torch.Generator().manual_seed(1)
    model = RatingAutoencoder(
        AutoencoderConfig(9, (4,), activation="identity", presence=True, input_scale=3.0), generator
    )
    values, columns = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([1, 4, 6])
    rows = SparseRows.from_rows([(columns, values)], 9)
    visible = torch.tensor([True, True, False])
    found = model.code(rows, visible)[0]
    kept = columns[:2]
    expected = model.encoder_bias + 2**-0.5 * (
        model.presence[kept].sum(0) + 3.0 * (values[:2, None] * model.encoder[kept]).sum(0)
    )
    torch.testing.assert_close(found, expected)
