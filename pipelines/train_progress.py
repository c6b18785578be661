"""What `train` shows of a run in this process: where its data stays, a bar while an epoch goes on, a line after it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from nnsparse_stream.training.progress import Told, sums_text

# Seconds between two drawings of the bar, each of which reads losses from the device, at least.
_INTERVAL = 0.1


def _print(line: str) -> None:
    print(line, flush=True)


class Shown(Told):
    """Shows a bar on standard error where that is a terminal; prints where the data stays, and a line an epoch.

    Args:
        output: URL of the run's directory.
    """

    def __init__(self, output: str) -> None:
        super().__init__(_print)
        self._output = output
        self._bar: tqdm | None = None
        self._drawn_at = -math.inf

    def epoch_begun(self, epoch: int, entries: int, total: int) -> None:
        """Opens a bar."""
        if sys.stderr and sys.stderr.isatty():
            # Drawn at each update: there are none in between.
            self._bar = tqdm(
                total=total, initial=entries, unit=" ratings", unit_scale=True, desc=f"epoch {epoch}", leave=False,
                mininterval=0, miniters=0,
            )  # fmt: skip
            self._drawn_at = -math.inf

    def batch_trained(self, sums: dict[str, Any], figures: Callable[[], dict[str, float]]) -> None:
        """Moves the bar, where it is time to draw it anew."""
        if self._bar is not None and time.monotonic() - self._drawn_at >= _INTERVAL:
            self._bar.set_postfix_str(sums_text(sums, figures()), refresh=False)
            self._bar.update(sums["entries"] - self._bar.n)
            self._drawn_at = time.monotonic()

    def epoch_ended(self, metrics: dict[str, Any], epochs: int) -> None:
        """Prints the epoch's line."""
        self.close()
        super().epoch_ended(metrics, epochs)

    def already_over(self) -> None:
        """Prints so."""
        _print(f"{self._output} has ended; there is nothing to resume")

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
