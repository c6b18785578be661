"""Corruption: ratios, the three ways, and where draws come from."""

from __future__ import annotations

import pytest
import torch

from nnsparse_stream.nn.corruption import Corruption

N = 100_000
VALUES = torch.linspace(1, 2, N, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def about(ratio: float) -> object:
    """Within four standard deviations of a binomial draw."""
    return pytest.approx(ratio, abs=4 * (ratio * (1 - ratio) / N) ** 0.5 + 1e-12)


def test_each_way_has_its_ratio_and_excludes_the_others():
    corruption = Corruption(0.25, 0.2, noise_mean=50.0, noise_std=0.5, flip_ratio=0.15, flip_range=(-0.1, 0.1))
    values, corrupted = corruption(VALUES, seeded())
    hidden, low, high, noisy = values == 0, values == -0.1, values == 0.1, values > 40
    assert hidden.double().mean().item() == about(0.25)
    assert low.double().mean().item() == about(0.075)
    assert high.double().mean().item() == about(0.075)
    assert noisy.double().mean().item() == about(0.2)
    assert torch.equal(corrupted, hidden | low | high | noisy)
    assert torch.equal(values[~corrupted], VALUES[~corrupted])


def test_noise_has_its_mean_and_standard_deviation():
    values, corrupted = Corruption(noise_ratio=1.0, noise_mean=0.1, noise_std=0.5)(VALUES, seeded())
    noise = values - VALUES
    assert corrupted.all()
    assert noise.mean().item() == pytest.approx(0.1, abs=0.01)
    assert noise.std().item() == pytest.approx(0.5, abs=0.01)


def test_ratios_of_0_and_1_are_exact():
    values, corrupted = Corruption()(VALUES, seeded())
    assert torch.equal(values, VALUES)
    assert not corrupted.any()
    values, corrupted = Corruption(hide_ratio=1.0)(VALUES, seeded())
    assert not values.any()
    assert corrupted.all()
    values, corrupted = Corruption(flip_ratio=1.0, flip_range=(5, 6))(VALUES, seeded())
    assert set(values.tolist()) == {5.0, 6.0}


def test_draws_follow_the_generator_and_not_the_dtype():
    corruption = Corruption(hide_ratio=0.5)
    _, first = corruption(VALUES, seeded(1))
    assert torch.equal(first, corruption(VALUES.float(), seeded(1))[1])
    assert not torch.equal(first, corruption(VALUES, seeded(2))[1])
    torch.manual_seed(3)
    _, globally = corruption(VALUES)
    torch.manual_seed(3)
    assert torch.equal(globally, corruption(VALUES)[1])
    assert corruption(VALUES.float(), seeded())[0].dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_draws_on_a_gpu():
    corruption = Corruption(0.2, 0.2, flip_ratio=0.2, flip_range=(-1, 1))
    values, corrupted = corruption(VALUES, seeded())
    on_gpu, corrupted_on_gpu = corruption(VALUES.cuda(), seeded())
    assert torch.equal(corrupted, corrupted_on_gpu.cpu())
    torch.testing.assert_close(values, on_gpu.cpu())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hide_ratio": 1.5}, "hide_ratio must lie between 0 and 1, got 1.5"),
        ({"noise_ratio": -0.1}, "noise_ratio must lie between 0 and 1"),
        ({"hide_ratio": 0.6, "noise_ratio": 0.6}, "must not exceed 1"),
        ({"noise_std": -1.0}, "noise_std must not be negative"),
        ({"flip_ratio": 0.3}, r"flip_ratio is 0.3, but there is no flip_range to flip to, such as \(-1, 1\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Corruption(**arguments)


def test_ratios_may_sum_to_1_whatever_rounding_makes_of_it():
    Corruption(hide_ratio=0.7, noise_ratio=0.2, flip_ratio=0.1, flip_range=(0, 1))
    Corruption(hide_ratio=0.1, noise_ratio=0.2, flip_ratio=0.7, flip_range=(0, 1))
