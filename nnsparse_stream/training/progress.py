"""What a training run tells: to a listener while it goes on, a line an epoch, and the report."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnsparse_stream.objectives.presets import PRESETS
from nnsparse_stream.objectives.recipe import Recipe
from nnsparse_stream.training import report


class Progress:
    """Is told by a run what has been done; this one does nothing. A subclass overrides what it wants to hear."""

    def begun(self, preset: str | None, recipe: Recipe, device: str) -> None:
        """A run is begun, or goes on, with this recipe, made of a preset, on a device of torch."""

    def began_from(self, began: dict[str, Any], columns: int) -> None:
        """The run began from an earlier model.

        Args:
            began: what the run's state says of that.
            columns: of the run's own.
        """

    def cache_chosen(self, size: int, told: str) -> None:
        """Where the training fold, of so many bytes, stays after the first epoch, in words."""

    def epoch_begun(self, epoch: int, entries: int, total: int) -> None:
        """An epoch, from 1, is trained on; so many of its `total` ratings were before the run was resumed."""

    def batch_trained(self, sums: dict[str, Any], figures: Callable[[], dict[str, float]]) -> None:
        """A minibatch was trained on.

        Args:
            sums: over the epoch so far: `entries`, `rows`, `batches`, `seconds`, and of these those that were `waited`
                for minibatches.
            figures: gives what the objective tells of the epoch so far, by name, and `fill`, rows of a minibatch by
                those that it may have.
        """

    def epoch_ended(self, metrics: dict[str, Any], epochs: int) -> None:
        """An epoch of so many has ended and its checkpoint is written; `metrics` are its line of metrics.jsonl."""

    def already_over(self) -> None:
        """The run that was to be resumed has ended before."""


class Told(Progress):
    """Tells the recipe that is used, where the data stays, and each epoch, in a line each.

    Args:
        tell: takes a line.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    def begun(self, preset: str | None, recipe: Recipe, device: str) -> None:
        """Tells the recipe."""
        self._tell(recipe_line(preset, recipe, device))

    def began_from(self, began: dict[str, Any], columns: int) -> None:
        """Tells the model."""
        self._tell(began_line(began, columns))

    def cache_chosen(self, size: int, told: str) -> None:
        """Tells the place."""
        self._tell(cache_line(size, told))

    def epoch_ended(self, metrics: dict[str, Any], epochs: int) -> None:
        """Tells the epoch's figures."""
        self._tell(epoch_line(metrics, epochs))


def peak_memory() -> int:
    """The process's peak resident memory in bytes."""
    if sys.platform == "linux":  # where ru_maxrss counts the parent's memory, too
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def recipe_line(preset: str | None, recipe: Recipe, device: str) -> str:
    """What a run does, as a line: the preset, and what of the recipe is not the preset's; see `Progress.begun`."""
    usual = (PRESETS[preset] if preset in PRESETS else type(recipe)()).to_json()
    other = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in recipe.to_json().items()
        if value != usual.get(name)
    ]
    return f"recipe {preset or recipe.objective}{' with ' if other else ''}{', '.join(other)}; on {device}"


def began_line(began: dict[str, Any], columns: int) -> str:
    """What model a run began from, as a line; see `Progress.began_from`."""
    state = "goes on" if began["optimizer"] else "begins anew"
    new = columns - began["columns"]
    return f"from {began['url']}: {began['columns']:,} columns are known, {new:,} new; the optimiser's state {state}"


def cache_line(size: int, told: str) -> str:
    """Where the training fold stays, as a line; see `Progress.cache_chosen`."""
    return f"training fold of {size / 1e6:,.0f} MB: {told}"


def sums_text(sums: dict[str, Any], figures: dict[str, float]) -> str:
    """An epoch so far, in words; see `Progress.batch_trained`."""
    told = "".join(f"{name} {value:.4f}, " for name, value in figures.items() if name != "fill")
    return (
        f"{told}fill {figures['fill']:.0%}, "
        f"waiting {sums['waited'] / max(sums['seconds'], 1e-9):.0%}, {peak_memory() / 1e6:,.0f} MB"
    )


def epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    """An epoch that has ended, as a line; see `Progress.epoch_ended`."""
    trained = "  ".join(f"{name} {value:.4f}" for name, value in metrics["train"].items())
    validation = " ".join(f"{name} {value:.4f}" for name, value in (metrics["validation"] or {}).items())
    judged = f"validation {validation}  " if validation else ""
    stage = f"layer {metrics['layer']}  " if metrics["layer"] else ""
    return (
        f"epoch {metrics['epoch']:>3}/{epochs}  {stage}{trained}  {judged}"
        f"{metrics['seconds']:.1f} s  {metrics['ratings_per_second']:,} ratings/s  "
        f"waiting {metrics['waiting_for_data']:.0%}  peak {metrics['peak_memory_bytes'] / 1e6:,.0f} MB"
    )


def round_line(told: dict[str, Any]) -> str:
    """A round that has ended, as a line; `told` is of a checkpoint's state."""
    trained = "  ".join(f"{name} {value:.4f}" for name, value in told["train"].items())
    return (
        f"round {told['round']:>3} of epoch {told['epoch']}  {trained}  {told['seconds']:.1f} s  "
        f"{told['ratings_per_second']:,} ratings/s  (worker {told['slowest_worker']} {told['slowest_seconds']:.1f} s, "
        f"median {told['median_seconds']:.1f} s, merging {told['merging_seconds']:.1f} s, "
        f"{told['change_bytes'] / 1e6:,.0f} MB)"
    )


def run_report(history: list[dict[str, Any]], recipe: Recipe, lead: str) -> str:
    """The learning curve and the recipe as an HTML page; `lead` says which run it is."""
    names = dict.fromkeys(name for line in history for name in [*line["train"], *(line["validation"] or {})])
    fields = [(name, str(value)) for name, value in recipe.to_json().items()]
    parts = [
        report.section("Learning curves"),
        *(report.line_chart(_series(history, name), "epoch", name, f"{name} by epoch.") for name in names),
        *_rounds_charts([told for line in history for told in line.get("rounds", ())]),
        report.section("Recipe"),
        report.table(("field", "value"), fields),
    ]
    return report.page("Training run", lead, parts)


def _rounds_charts(rounds: list[dict[str, Any]]) -> list[str]:
    """How long rounds took, and what they achieved; nothing of a run of one worker."""
    if not rounds:
        return []
    numbers = [told["round"] for told in rounds]

    def series(label: str, name: str) -> report.Series:
        return report.Series(label, numbers, [told[name] for told in rounds])

    seconds = [series("slowest worker", "slowest_seconds"), series("median", "median_seconds"),
               series("merging", "merging_seconds")]  # fmt: skip
    rates = [series("all workers", "ratings_per_second")]
    return [
        report.section("Rounds"),
        report.line_chart(rates, "round", "ratings/s", "Ratings a second of all workers by round, all counted."),
        report.line_chart(seconds, "round", "seconds", "Steps of the slowest worker and the median one; merging."),
    ]


def _series(history: list[dict[str, Any]], name: str) -> list[report.Series]:
    """What is known of a figure, in training and in validation, epoch by epoch."""
    lines = []
    for where, part in (("training", "train"), ("validation", "validation")):
        told = [(line["epoch"], line[part][name]) for line in history if name in (line[part] or {})]
        if told:
            epochs, values = zip(*told, strict=True)
            lines.append(report.Series(where, list(epochs), list(values)))
    return lines
