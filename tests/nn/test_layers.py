"""SparseLinearBatch, Densify, Sparsifier against torch's dense layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from strategies import sparse_rows
from torch import nn

from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.nn.layers import Densify, SampledLinear, SparseLinearBatch, Sparsifier
from nnsparse_stream.sparse.rows import SparseRows

ODD = SparseRows.from_rows([([4, 1, 4], [1.0, 0.0, -2.0]), ([], []), ([0], [0.5])], 5, torch.float64)


@given(sparse_rows(num_columns=5))
def test_output_is_that_of_the_dense_layer(rows):
    for sparse in (False, True):
        layer = SparseLinearBatch(5, 3, sparse=sparse).double()
        dense = torch.from_numpy(rows.to_scipy().toarray())  # duplicates summed
        torch.testing.assert_close(layer(rows), layer.to_linear()(dense), rtol=1e-12, atol=1e-12)


@given(sparse_rows(num_columns=5))
def test_gradients_are_those_of_the_dense_layer(rows):
    linear = nn.Linear(5, 3).double()
    linear(torch.from_numpy(rows.to_scipy().toarray())).square().sum().backward()
    for sparse in (False, True):
        layer = SparseLinearBatch.from_linear(linear, sparse=sparse)
        layer(rows).square().sum().backward()
        weight_grad, expected = layer.weight.grad, linear.weight.grad.t()
        assert isinstance(weight_grad, RowGradient) is sparse
        weight_grad = weight_grad.to_dense() if sparse else weight_grad
        torch.testing.assert_close(weight_grad, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.bias.grad, linear.bias.grad, rtol=1e-12, atol=1e-12)


def test_a_heavy_row_is_added_up_exactly():
    many = 2_000_000
    layer = SparseLinearBatch(1, 1, bias=False, input_grad=True)
    rows = SparseRows(
        torch.tensor([0, many]), torch.zeros(many, dtype=torch.int32), torch.full((many,), 4.7, requires_grad=True), 1
    )
    output = layer(rows) / layer.weight
    assert output.item() == pytest.approx(4.7 * many, rel=1e-4)  # a float32 sum of all is a tenth off
    output.backward()
    assert float(rows.values.grad[-1]) == pytest.approx(1.0)


def test_gradcheck_of_weight_bias_and_input():
    layer = SparseLinearBatch(5, 3, input_grad=True).double()

    def run(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (ODD.with_values(values),))

    assert torch.autograd.gradcheck(run, (ODD.values.clone().requires_grad_(), layer.weight, layer.bias))


def test_the_gradient_reaches_the_input_only_when_asked():
    for input_grad in (False, True):
        values = ODD.values.clone().requires_grad_()
        SparseLinearBatch(5, 3, input_grad=input_grad).double()(ODD.with_values(values)).sum().backward()
        assert (values.grad is not None) is input_grad


def test_an_empty_row_gives_the_bias():
    layer = SparseLinearBatch(5, 3).double()
    assert torch.equal(layer(ODD)[1], layer.bias)
    assert torch.equal(layer(ODD[1]), layer.bias[None])
    assert layer(ODD[:0]).shape == (0, 3)
    assert not SparseLinearBatch(5, 3, bias=False).double()(ODD)[1].any()


@pytest.mark.parametrize("bias", [False, True])
def test_parameters_convert_to_and_from_linear(bias):
    linear = nn.Linear(4, 3, bias=bias).double()
    layer = SparseLinearBatch.from_linear(linear)
    back = layer.to_linear()
    assert layer.weight.shape == (4, 3)
    assert layer.weight.is_contiguous()
    assert torch.equal(back.weight, linear.weight)
    assert (back.bias is None) is not bias
    assert not bias or torch.equal(back.bias, linear.bias)
    with torch.no_grad():
        layer.weight.zero_()
    assert linear.weight.any()
    assert back.weight.any()


def test_initial_weights_are_drawn_like_those_of_linear():
    torch.manual_seed(0)
    layer = SparseLinearBatch(400, 50)
    assert 0.049 < layer.weight.abs().max() <= 0.05
    assert abs(layer.weight.std() - 0.05 / 3**0.5) < 1e-3
    assert layer.bias.abs().max() <= 0.05


def test_an_index_out_of_range_names_row_and_column():
    rows = SparseRows(torch.tensor([0, 1, 2]), torch.tensor([0, 5]), torch.ones(2), 5)
    for layer in (SparseLinearBatch(5, 3), SparseLinearBatch(5, 3, sparse=True)):
        with pytest.raises(ValueError, match="row 1 holds column 5, but there are 5 columns"):
            layer(rows)
    with pytest.raises(ValueError, match="the rows have 5 columns, but the layer takes 6"):
        SparseLinearBatch(6, 3)(ODD)
    with pytest.raises(ValueError, match="exclude each other"):
        SparseLinearBatch(5, 3, input_grad=True, sparse=True)


@given(sparse_rows(num_columns=5))
def test_sampled_outputs_and_gradients_are_those_of_the_dense_layer(rows):
    x = torch.randn(rows.num_rows, 3, dtype=torch.float64)
    for bias in (False, True):
        linear = nn.Linear(3, 5, bias=bias).double()
        dense_x = x.clone().requires_grad_()
        expected = linear(dense_x)[rows.row_indices().long(), rows.columns.long()]
        expected.square().sum().backward()
        for sparse in (False, True):
            layer = SampledLinear(3, 5, bias=bias, sparse=sparse).double()
            layer.load_state_dict(linear.state_dict())
            our_x = x.clone().requires_grad_()
            output = layer(our_x, rows)
            torch.testing.assert_close(output.values, expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(output.columns, rows.columns)
            output.values.square().sum().backward()
            torch.testing.assert_close(our_x.grad, dense_x.grad, rtol=1e-12, atol=1e-12)
            for ours, reference in zip(layer.parameters(), linear.parameters(), strict=True):
                assert isinstance(ours.grad, RowGradient) is sparse
                gradient = ours.grad.to_dense() if sparse else ours.grad
                torch.testing.assert_close(gradient, reference.grad, rtol=1e-12, atol=1e-12)


def test_sampled_linear_starts_like_linear_and_names_what_is_out_of_range():
    torch.manual_seed(0)
    layer = SampledLinear(400, 50)
    assert 0.049 < layer.weight.abs().max() <= 0.05
    assert layer.bias.abs().max() <= 0.05
    assert repr(layer) == "SampledLinear(in_features=400, out_features=50, bias=True, sparse=False)"
    rows = SparseRows(torch.tensor([0, 1]), torch.tensor([5]), torch.ones(1), 5)
    with pytest.raises(ValueError, match="row 0 holds column 5, but there are 5 columns"):
        SampledLinear(3, 5)(torch.ones(1, 3), rows)


def test_densify_fills_and_passes_the_gradient():
    assert Densify(6, 7.0)(ODD)[1].tolist() == [7.0] * 6
    assert torch.autograd.gradcheck(
        lambda values: Densify(6)(ODD.with_values(values)), ODD.values.clone().requires_grad_()
    )
    with pytest.raises(ValueError, match="row 0 holds column 4, but there are 4 columns"):
        Densify(4)(ODD)


def test_sparsifier_shifts_columns():
    x = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    rows = Sparsifier(offset=3)(x)
    assert rows.shape == (2, 5)
    assert torch.equal(Densify(5)(rows)[:, 3:], x)


def test_layers_show_their_arguments():
    assert repr(SparseLinearBatch(5, 3)) == (
        "SparseLinearBatch(in_features=5, out_features=3, bias=True, input_grad=False, sparse=False)"
    )
    assert repr(Densify(5)) == "Densify(num_columns=5, fill=0.0)"
    assert repr(Sparsifier(2)) == "Sparsifier(offset=2)"
