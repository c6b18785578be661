"""Random corruption of values: Gaussian noise, salt and pepper, hiding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Corruption:
    """How likely a value is corrupted, and how; each value by at most one of the three ways.

    Attributes:
        hide_ratio: probability of becoming 0.
        noise_ratio: probability of Gaussian noise being added.
        noise_mean: mean of that noise.
        noise_std: standard deviation of that noise.
        flip_ratio: probability of becoming either end of ``flip_range``, each with probability 1/2.
        flip_range: lowest and highest value.

    Raises:
        ValueError: a ratio is outside of [0, 1], their sum is greater than 1, ``noise_std`` is negative, or there is a
            ``flip_ratio`` without a ``flip_range``.
    """

    hide_ratio: float = 0.0
    noise_ratio: float = 0.0
    noise_mean: float = 0.0
    noise_std: float = 0.2
    flip_ratio: float = 0.0
    flip_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Checks the ratios."""
        ratios = {"hide_ratio": self.hide_ratio, "noise_ratio": self.noise_ratio, "flip_ratio": self.flip_ratio}
        for name, ratio in ratios.items():
            if not 0 <= ratio <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {ratio}")
        if sum(ratios.values()) > 1 + 1e-9:  # 0.7 + 0.2 + 0.1 must pass, whatever rounding makes of it
            raise ValueError(f"the sum of hide_ratio, noise_ratio and flip_ratio must not exceed 1, got {ratios}")
        if self.noise_std < 0:
            raise ValueError(f"noise_std must not be negative, got {self.noise_std}")
        if self.flip_ratio and self.flip_range is None:
            raise ValueError(f"flip_ratio is {self.flip_ratio}, but there is no flip_range to flip to, such as (-1, 1)")

    def __call__(self, values: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Corrupts values of any shape; the input stays as it is.

        Args:
            values: float tensor.
            generator: draws on its own device, so that one on the CPU gives the same draws whatever the values'
                device; by default torch's global one of the values' device.

        Returns:
            The corrupted values, and a bool tensor of which were.
        """
        device = values.device if generator is None else generator.device
        draw = torch.rand(values.shape, generator=generator, device=device).to(values.device)
        noise_end = self.noise_ratio
        flip_end = noise_end + self.flip_ratio
        hide_end = flip_end + self.hide_ratio
        corrupted = torch.where((draw >= flip_end) & (draw < hide_end), 0.0, values)
        if self.flip_range is not None:
            # Where the draw lies within its interval decides the end: no second draw.
            middle = noise_end + self.flip_ratio / 2
            corrupted = torch.where((draw >= noise_end) & (draw < middle), self.flip_range[0], corrupted)
            corrupted = torch.where((draw >= middle) & (draw < flip_end), self.flip_range[1], corrupted)
        if self.noise_ratio:
            noise = torch.randn(values.shape, generator=generator, device=device, dtype=values.dtype)
            noisy = values + (noise.to(values.device) * self.noise_std + self.noise_mean)
            corrupted = torch.where(draw < noise_end, noisy, corrupted)
        return corrupted, draw < hide_end
