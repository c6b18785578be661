"""Sums over an epoch's steps: counted on the host, and what the steps return added up where they were computed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.sparse.rows import SparseRows

#: Steps after which losses are read from the device, at the latest. A reading waits until all steps before are done,
#: and the device then waits for the next one: often enough to hear of a divergence, too seldom to be noticed.
READ_STEPS = 50


class StepSums:
    """Adds up steps.

    Attributes:
        sums: `entries`, `rows`, `batches`, and `terms` as they were when they were read.
    """

    def __init__(self, sums: dict[str, Any], device: torch.device) -> None:
        """Goes on from sums, which are changed in place; terms are added up on the device."""
        self.sums = sums
        self._terms: dict[str, Tensor] = {
            name: torch.tensor(term, dtype=torch.float64, device=device) for name, term in sums["terms"].items()
        }

    def add(self, rows: SparseRows, terms: dict[str, Tensor]) -> None:
        """Adds a step on a minibatch, and what it returned."""
        for name, value in (("entries", rows.num_entries), ("rows", rows.num_rows), ("batches", 1)):
            self.sums[name] += value
        for name, term in terms.items():
            self._terms[name] = self._terms[name] + term if name in self._terms else term

    def read(self) -> bool:
        """Reads the terms from the device; whether all are finite."""
        if self._terms:
            values = torch.stack([*self._terms.values()]).tolist()
            self.sums["terms"] = dict(zip(self._terms, values, strict=True))
        return all(map(math.isfinite, self.sums["terms"].values()))


def diverged(dataset: Dataset, recipe: StepRecipe, epoch: int, learning_rate: float) -> InputError:
    """What is to be said where an epoch's figures, or its weights, are not finite."""
    ratings, hint = dataset.manifest.ratings, ""
    if "implicit" not in recipe.feedback:  # other objectives do not read the values
        hint = (
            f", or look for extreme ratings (those of {dataset.url} lie between {ratings['min']:g} and "
            f"{ratings['max']:g})"
        )
    return InputError(
        f"training diverged in epoch {epoch}, at a learning rate of {learning_rate:g}: lower `learning_rate`{hint}"
    )
