"""Losses at the observed entries, plain and denoising."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnsparse_stream.kernels.operations import at_entries, row_sums
from nnsparse_stream.nn.corruption import Corruption
from nnsparse_stream.sparse.rows import SparseRows

ElementwiseLoss = Callable[[Tensor, Tensor], Tensor]
Input = TypeVar("Input", Tensor, SparseRows)


def prepare_input(criterion: Any, rows: Input) -> Input:
    """The input that a network gets under this criterion: corrupted by a denoising one, else ``rows`` itself."""
    prepare = getattr(criterion, "prepare_input", None)
    return rows if prepare is None else prepare(rows)


class _Criterion(nn.Module):
    """An elementwise loss, and what its sum is divided by."""

    averages: tuple[str, ...] = ("observed", "all", "none")

    def __init__(self, criterion: ElementwiseLoss, average: str) -> None:
        super().__init__()
        if average not in self.averages:
            raise ValueError(f"average must be one of {', '.join(self.averages)}, got {average!r}")
        self.criterion = _without_reduction(criterion)
        self.average = average

    def _losses(self, estimate: Tensor, target: Tensor) -> Tensor:
        """The loss of each element.

        Raises:
            ValueError: the wrapped criterion does not give one loss for each element.
        """
        losses = self.criterion(estimate, target)
        if not isinstance(losses, Tensor) or losses.shape != target.shape:
            raise ValueError(f"the criterion must give one loss for each element, as nn.MSELoss does: {self.criterion}")
        return losses

    def _averaged(self, losses: Tensor, num_observed: int, num_all: int) -> Tensor:
        # No entries, no loss: 0 rather than 0 / 0.
        return losses.sum() / max({"observed": num_observed, "all": num_all, "none": 1}[self.average], 1)


class SparseCriterion(_Criterion):
    """A loss over the observed entries of the target only."""

    def __init__(self, criterion: ElementwiseLoss = F.mse_loss, average: str = "observed") -> None:
        """Makes the criterion.

        Args:
            criterion: elementwise torch loss, a module or a function; a copy of it is used without reduction.
            average: divide the sum by the number of observed entries, of all elements (rows x columns), or not at all.

        Raises:
            ValueError: there is no such average.
        """
        super().__init__(criterion, average)

    def forward(self, estimate: Tensor | SparseRows, target: SparseRows) -> Tensor:
        """The loss, 0-d; 0 if there are no entries.

        Args:
            estimate: dense ``(rows, columns)``, or sparse rows with the entries of the target. A dense one gets a
                gradient of 0 at the other entries; with a sparse one nothing of size rows x columns is made.
            target: sparse rows.

        Raises:
            ValueError: the estimate does not fit the target.
        """
        losses = self._losses(_at_entries(estimate, target), target.values)
        return self._averaged(losses, target.num_entries, target.num_rows * target.num_columns)


class DenoisingCriterion(_Criterion):
    """What the denoising criteria share: corrupted values weigh alpha in the loss, the others beta.

    ``prepare_input`` corrupts a batch and remembers which values; the following ``forward`` compares the network's
    output with the clean batch.

    Attributes:
        corrupted: bool, which values the last ``prepare_input`` corrupted (one per entry, or per element of a dense
            input); may be set by hand.
        alpha, beta: the weights; may be changed between steps.
        generator: what ``prepare_input`` draws from.
    """

    default_average = "observed"

    def __init__(
        self,
        criterion: ElementwiseLoss = F.mse_loss,
        alpha: float = 1.0,
        beta: float = 0.0,
        hide_ratio: float = 0.0,
        noise_ratio: float = 0.0,
        noise_mean: float = 0.0,
        noise_std: float = 0.2,
        flip_ratio: float = 0.0,
        flip_range: tuple[float, float] | None = None,
        average: str | None = None,
        generator: torch.Generator | int | None = None,
    ) -> None:
        """Makes the criterion.

        Args:
            criterion: elementwise torch loss, a module or a function; a copy of it is used without reduction.
            alpha: weight of the corrupted values.
            beta: weight of the others; the default, the original's, leaves them out.
            hide_ratio: see ``Corruption``, as for the next five.
            noise_ratio: see ``Corruption``.
            noise_mean: see ``Corruption``.
            noise_std: see ``Corruption``.
            flip_ratio: see ``Corruption``.
            flip_range: see ``Corruption``.
            average: what the sum is divided by: the number of ``"observed"`` entries, that of ``"all"`` elements, or
                ``"none"``; each class has its default.
            generator: a generator (it draws on its own device) or a seed for one on the CPU; by default torch's
                global one.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__(criterion, average or self.default_average)
        self.alpha = alpha
        self.beta = beta
        self.corruption = Corruption(hide_ratio, noise_ratio, noise_mean, noise_std, flip_ratio, flip_range)
        self.generator = torch.Generator().manual_seed(generator) if isinstance(generator, int) else generator
        self.corrupted: Tensor | None = None

    def _weighted_losses(self, estimate: Tensor, target: Tensor) -> Tensor:
        if self.corrupted is None or self.corrupted.shape != target.shape:
            raise ValueError("which values are corrupted is not known: call prepare_input with this batch first")
        losses = self._losses(estimate, target)
        return torch.where(self.corrupted, losses * self.alpha, losses * self.beta)


class SDAECriterion(DenoisingCriterion):
    """The denoising loss of dense batches, where every element is observed; by default the mean over all of them."""

    averages = ("all", "none")
    default_average = "all"

    def prepare_input(self, x: Tensor) -> Tensor:
        """A corrupted copy of a dense batch of any shape."""
        corrupted, self.corrupted = self.corruption(x, self.generator)
        return corrupted

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """The loss, 0-d, of an estimate for a clean batch of the same shape.

        Raises:
            ValueError: the shapes differ, or ``prepare_input`` did not see this batch.
        """
        if estimate.shape != target.shape:
            raise ValueError(f"the estimate has shape {tuple(estimate.shape)}, the target {tuple(target.shape)}")
        losses = self._weighted_losses(estimate, target)
        return self._averaged(losses, losses.numel(), losses.numel())


class SDAESparseCriterion(DenoisingCriterion):
    """The denoising loss of sparse rows; by default the sum over the entries divided by their number.

    A hidden entry stays stored, with value 0.
    """

    def prepare_input(self, rows: SparseRows) -> SparseRows:
        """Rows of the same structure with corrupted values.

        Raises:
            ValueError: ``rows`` are no sparse rows.
        """
        if not isinstance(rows, SparseRows):
            raise ValueError(f"{type(self).__name__} takes SparseRows, got {type(rows).__name__}: sparsify it first")
        values, self.corrupted = self.corruption(rows.values, self.generator)
        return rows.with_values(values)

    def forward(self, estimate: Tensor | SparseRows, target: SparseRows) -> Tensor:
        """The loss, 0-d, of an estimate for the clean rows; arguments as in ``SparseCriterion``.

        Raises:
            ValueError: the estimate does not fit the target, or ``prepare_input`` did not see these rows.
        """
        losses = self._weighted_losses(_at_entries(estimate, target), target.values)
        return self._averaged(losses, target.num_entries, target.num_rows * target.num_columns)


class MaskCriterion(SDAESparseCriterion):
    """``SDAESparseCriterion`` that never corrupts all entries of a row, and by default divides by rows x columns.

    A row whose every entry was drawn is left as it is: the network always sees something of it.
    """

    default_average = "all"

    def prepare_input(self, rows: SparseRows) -> SparseRows:
        """Rows of the same structure with corrupted values, but for rows that were to lose all of them.

        Raises:
            ValueError: ``rows`` are no sparse rows.
        """
        prepared = super().prepare_input(rows)
        corrupted = self.corrupted
        assert corrupted is not None  # prepare_input has just set it
        kept = row_sums(rows, (~corrupted).to(rows.dtype))
        self.corrupted = corrupted & (at_entries(rows, kept) > 0)
        return rows.with_values(torch.where(self.corrupted, prepared.values, rows.values))


def _at_entries(estimate: Tensor | SparseRows, target: SparseRows) -> Tensor:
    """The estimate at the target's entries, ``(entries,)``."""
    if isinstance(estimate, SparseRows):
        same_structure = estimate.num_columns == target.num_columns and all(
            ours is theirs or torch.equal(ours, theirs)
            for ours, theirs in ((estimate.offsets, target.offsets), (estimate.columns, target.columns))
        )
        if not same_structure:
            raise ValueError(f"the estimate {estimate} has not the entries of the target {target}")
        return estimate.values
    if estimate.shape != target.shape:
        raise ValueError(f"the estimate has shape {tuple(estimate.shape)}, the target {target.shape}")
    return estimate[target.row_indices(), target.columns]


def _without_reduction(criterion: ElementwiseLoss) -> ElementwiseLoss:
    """A copy of a loss that gives one number for each element; the caller's own keeps its reduction."""
    if isinstance(criterion, nn.Module):
        elementwise: Any = copy.deepcopy(criterion)
        elementwise.reduction = "none"
        return elementwise
    if isinstance(criterion, type):
        raise ValueError(f"the criterion must be a loss, not a class: write {criterion.__name__}()")
    function: Callable[..., Tensor] = criterion
    return partial(function, reduction="none") if "reduction" in signature(function).parameters else function
