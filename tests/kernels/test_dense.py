from __future__ import annotations

import threading

import pytest
import torch

from nnsparse_stream.kernels.dense import PRECISIONS, product, tf32
from nnsparse_stream.objectives import recipe

HELD = torch.backends.cuda.matmul


def test_recipes_know_the_same_precisions() -> None:
    assert recipe.PRECISIONS == PRECISIONS


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_keeps_its_dtype_and_adds_the_bias_as_it_is(precision: str, dtype: torch.dtype) -> None:
    left, right = torch.full((2, 3), 1 + 2**-9, dtype=dtype), torch.ones(3, 4, dtype=dtype)
    bias = torch.full((4,), 2**-9, dtype=dtype)
    # A bfloat16 has no place for 2^-9 beside 1.
    expected = 3.0 if precision == "bfloat16" else 3 + 3 * 2**-9
    for found, wanted in (
        (product(left, right, precision), expected),
        (product(left, right, precision, bias), expected + 2**-9),
    ):
        assert torch.equal(found, torch.full((2, 4), wanted, dtype=dtype))


@pytest.mark.parametrize("before", ["ieee", "tf32"])
def test_the_setting_of_the_process_stays_as_it_was_where_threads_overlap(before: str) -> None:
    entered, release = threading.Event(), threading.Event()

    def other() -> None:
        with tf32():
            entered.set()
            release.wait()

    found, HELD.fp32_precision = HELD.fp32_precision, before
    try:
        thread = threading.Thread(target=other)
        with tf32():
            assert HELD.fp32_precision == "tf32"
            thread.start()
            assert not entered.wait(0.05)  # it waits for this one's end
        assert entered.wait()
        release.set()
        thread.join()
        assert HELD.fp32_precision == before
    finally:
        release.set()
        HELD.fp32_precision = found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_tf32_rounds_and_the_setting_stays() -> None:
    before = HELD.fp32_precision
    factors = [torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)).cuda() for seed in (1, 2)]
    rounded, exact = (product(*factors, precision) for precision in ("tf32", "float32"))
    assert HELD.fp32_precision == before
    assert 0 < (rounded - exact).abs().max() <= 2**-9 * exact.abs().max()
