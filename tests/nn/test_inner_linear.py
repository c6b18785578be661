from __future__ import annotations

import pytest
import torch

from nnsparse_stream.kernels.dense import PRECISIONS
from nnsparse_stream.nn.inner_linear import InnerLinear


def outputs(precision: str) -> tuple[torch.Tensor, ...]:
    """Output and gradients of a layer whose weights are the same for every precision."""
    generator = torch.Generator().manual_seed(1)
    layer = InnerLinear(300, 200, precision)
    x = torch.randn(50, 300, generator=generator, requires_grad=True)
    with torch.no_grad():
        layer.weight.normal_(0, 0.1, generator=generator)
        layer.bias.normal_(generator=generator)
    output = layer(x)
    (output * torch.randn(50, 200, generator=generator)).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    return output.detach(), x.grad, layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_a_layer_gives_is_float32_and_near_the_exact_product(precision: str) -> None:
    # A bfloat16 has 8 bits of mantissa, TF32 has 11; both with the one that is not stored.
    tolerance = {"float32": 1e-6, "tf32": 2**-9, "bfloat16": 2**-6}[precision]
    for ours, exact in zip(outputs(precision), outputs("float32"), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).abs().max() <= tolerance * exact.abs().max()
    if precision == "bfloat16":
        assert not torch.equal(outputs(precision)[0], outputs("float32")[0])
    if precision == "tf32" and not torch.cuda.is_available():
        torch.testing.assert_close(outputs(precision), outputs("float32"), rtol=0, atol=1e-4)
