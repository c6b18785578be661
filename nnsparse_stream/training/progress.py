"""What a training run tells: to a listener while it goes on, a line an epoch, and the report."""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path
from typing import Any

from nnsparse_stream.training import report
from nnsparse_stream.training.recipe import Recipe


class Progress:
    """Is told by a run what has been done; this one does nothing. A subclass overrides what it wants to hear."""

    def epoch_begun(self, epoch: int, entries: int, total: int) -> None:
        """An epoch, from 1, is trained on; so many of its `total` ratings were before the run was resumed."""

    def batch_trained(self, sums: dict[str, Any], recipe: Recipe) -> None:
        """A minibatch was trained on.

        Args:
            sums: over the epoch so far: `entries`, `rows`, `batches`, `loss`, `squared` (errors), `seconds`, and of
                these those that were `waited` for minibatches.
            recipe: of the run.
        """

    def epoch_ended(self, metrics: dict[str, Any], epochs: int) -> None:
        """An epoch of so many has ended and its checkpoint is written; `metrics` are its line of metrics.jsonl."""

    def already_over(self) -> None:
        """The run that was to be resumed has ended before."""


def peak_memory() -> int:
    """The process's peak resident memory in bytes."""
    if sys.platform == "linux":  # where ru_maxrss counts the parent's memory, too
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def sums_text(sums: dict[str, Any], recipe: Recipe) -> str:
    """An epoch so far, in words; see `Progress.batch_trained`."""
    return (
        f"loss {sums['loss'] / sums[recipe.loss_average]:.4f}, "
        f"rmse {math.sqrt(sums['squared'] / sums['entries']):.4f}, "
        f"fill {sums['rows'] / sums['batches'] / recipe.batch_rows:.0%}, "
        f"waiting {sums['waited'] / max(sums['seconds'], 1e-9):.0%}, {peak_memory() / 1e6:,.0f} MB"
    )


def epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    """An epoch that has ended, as a line; see `Progress.epoch_ended`."""
    validation = metrics["validation"]
    judged = f"validation RMSE {validation['rmse']:.4f} MAE {validation['mae']:.4f}  " if validation else ""
    stage = f"layer {metrics['layer']}  " if metrics["layer"] else ""
    trained = "" if metrics["train_rmse"] is None else f"train RMSE {metrics['train_rmse']:.4f}  "
    return (
        f"epoch {metrics['epoch']:>3}/{epochs}  {stage}loss {metrics['loss']:.4f}  "
        f"{trained}{judged}{metrics['seconds']:.1f} s  {metrics['ratings_per_second']:,} ratings/s  "
        f"waiting {metrics['waiting_for_data']:.0%}  peak {metrics['peak_memory_bytes'] / 1e6:,.0f} MB"
    )


def run_report(history: list[dict[str, Any]], recipe: Recipe, lead: str) -> str:
    """The learning curve and the recipe as an HTML page; `lead` says which run it is."""
    trained = [line for line in history if line["train_rmse"] is not None]
    judged = [line for line in history if line["validation"]]
    lines = [
        report.Series(
            "training, corrupted input", [line["epoch"] for line in trained], [line["train_rmse"] for line in trained]
        )
    ]
    if judged:
        lines.append(
            report.Series(
                "validation", [line["epoch"] for line in judged], [line["validation"]["rmse"] for line in judged]
            )
        )
    curve = [report.line_chart(lines, "epoch", "RMSE", "RMSE by epoch, in rating units.")] if history else []
    fields = [(name, str(value)) for name, value in recipe.to_json().items()]
    parts = [
        report.section("Learning curve"),
        *curve,
        report.section("Recipe"),
        report.table(("field", "value"), fields),
    ]
    return report.page("Training run", lead, parts)
