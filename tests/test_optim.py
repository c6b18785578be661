import pytest
import torch

from nnsparse_stream.optim import RowSGD


def test_dense_gradients_are_updated_as_torch_sgd_does():
    ours, reference = (torch.nn.Parameter(torch.arange(6.0).view(3, 2)) for _ in range(2))
    for parameter, optimizer in (
        (ours, RowSGD([ours], lr=0.1, weight_decay=0.5)),
        (reference, torch.optim.SGD([reference], lr=0.1, weight_decay=0.5)),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, reference)


def test_sparse_gradients_touch_and_decay_only_their_rows():
    parameter = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = RowSGD([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = torch.sparse_coo_tensor([[1, 3]], torch.tensor([[1.0, 2.0], [0.0, 0.0]]), (4, 2))
    optimizer.step()
    expected = torch.tensor([[1.0, 1.0], [0.95 - 0.1, 0.95 - 0.2], [1.0, 1.0], [0.95, 0.95]])
    torch.testing.assert_close(parameter.detach(), expected)


def test_negative_coefficients_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        RowSGD([torch.nn.Parameter(torch.ones(1))], lr=-1.0)
