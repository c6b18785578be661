import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsparse_stream.kernels import Transposed, decode_at, encode
from nnsparse_stream.rows import SparseRows


@st.composite
def blocks(draw):
    """Blocks as data sets hold them: columns ascend within a row; rows may be empty, values exactly 0.0."""
    num_columns = draw(st.integers(1, 12))
    lists = draw(st.lists(st.lists(st.integers(0, num_columns - 1), unique=True), min_size=1, max_size=6))
    columns = [sorted(columns) for columns in lists]
    values = [draw(st.sampled_from([0.0, 1.0, -2.5, 0.1])) for row in columns for _ in row]
    offsets = torch.tensor([0, *[len(row) for row in columns]]).cumsum(0)
    flat = torch.tensor([column for row in columns for column in row], dtype=torch.int32)
    return SparseRows(offsets, flat, torch.tensor(values, dtype=torch.float64), num_columns)


@settings(deadline=None, max_examples=60)
@given(rows=blocks(), seed=st.integers(0, 99))
def test_forward_and_gradients_equal_those_of_dense_layers(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    weight, decoder = (
        torch.randn(rows.num_columns, 3, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2)
    )
    bias = torch.randn(rows.num_columns, dtype=torch.float64, generator=generator, requires_grad=True)
    weights_of_outputs = torch.randn(rows.num_entries, dtype=torch.float64, generator=generator)
    row, column = rows.row_indices().long(), rows.columns.long()

    transposed = Transposed.of(rows) if rows.num_entries else None
    sparse = decode_at(torch.tanh(encode(weight, rows, transposed)), decoder, bias, rows, transposed)
    sparse_gradients = (
        torch.autograd.grad((sparse * weights_of_outputs).sum(), (weight, decoder, bias)) if len(sparse) else None
    )

    dense = (torch.tanh(rows.to_dense() @ weight) @ decoder.t() + bias)[row, column]
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)
    if sparse_gradients is not None:
        dense_gradients = torch.autograd.grad((dense * weights_of_outputs).sum(), (weight, decoder, bias))
        for ours, reference in zip(sparse_gradients, dense_gradients, strict=True):
            assert ours.is_sparse
            assert ours._indices()[0].tolist() == sorted(set(rows.columns.tolist()))
            torch.testing.assert_close(ours.to_dense(), reference, rtol=0, atol=1e-12)


def test_gradcheck_of_the_codes():
    rows = SparseRows.from_dense(torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 0], [0, 3, 0, 4]], dtype=torch.float64))
    code = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    decoder, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda code: decode_at(code, decoder, bias, rows), (code,))


def test_a_million_columns_cost_no_more_memory_than_their_entries():
    rows = SparseRows(torch.tensor([0, 2]), torch.tensor([5, 999_999]), torch.ones(2), 1_000_000)
    weight = torch.zeros(1_000_000, 2, requires_grad=True)
    encode(weight, rows).sum().backward()
    assert weight.grad._values().shape == (2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_without_entries(dtype):
    rows = SparseRows(torch.tensor([0, 0, 0]), torch.tensor([], dtype=torch.int32), torch.tensor([], dtype=dtype), 4)
    code = encode(torch.ones(4, 3, dtype=dtype), rows)
    assert code.tolist() == [[0.0] * 3] * 2
    assert decode_at(code, torch.ones(4, 3, dtype=dtype), torch.ones(4, dtype=dtype), rows).shape == (0,)
