"""What `train` shows of a run in this process: a bar while an epoch goes on, a line when it has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from nnsparse_stream.training.progress import Progress, epoch_line, recipe_line, sums_text
from nnsparse_stream.training.recipe import Recipe


class Shown(Progress):
    """Shows a bar on standard error where that is a terminal, and prints a line an epoch.

    Args:
        output: URL of the run's directory.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._bar: tqdm | None = None

    def begun(self, preset: str | None, recipe: Recipe, device: str) -> None:
        """Prints the recipe that is used."""
        print(recipe_line(preset, recipe, device), flush=True)

    def epoch_begun(self, epoch: int, entries: int, total: int) -> None:
        """Opens a bar."""
        if sys.stderr and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=entries, unit=" ratings", unit_scale=True, desc=f"epoch {epoch}", leave=False
            )

    def batch_trained(self, sums: dict[str, Any], figures: Callable[[], dict[str, float]]) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(sums["entries"] - self._bar.n)
            # The first minibatch's at once, the others' when the bar is drawn next.
            self._bar.set_postfix_str(sums_text(sums, figures()), refresh=sums["batches"] == 1)

    def epoch_ended(self, metrics: dict[str, Any], epochs: int) -> None:
        """Prints the epoch's line."""
        self.close()
        print(epoch_line(metrics, epochs), flush=True)

    def already_over(self) -> None:
        """Prints so."""
        print(f"{self._output} has ended; there is nothing to resume", flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
