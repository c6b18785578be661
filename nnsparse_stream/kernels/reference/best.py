"""The k best columns of each row, by torch operations on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from nnsparse_stream.sparse.rows import SparseRows


class ReferenceBest:
    """The best columns of tiles of scores; see `kernels.backend.Best`."""

    def __init__(self, rated: SparseRows, eligible: Tensor, k: int) -> None:
        self._eligible, self._k = eligible, k
        self._columns, order = rated.columns.long().sort(stable=True)
        self._rows = rated.row_indices().long()[order]
        self._scores = rated.values.new_empty(rated.num_rows, 0)
        self._best = torch.empty(rated.num_rows, 0, dtype=torch.int64, device=rated.device)

    def add(self, start: int, stop: int, scores: Tensor) -> None:
        """See `Best.add`."""
        scores.masked_fill_(~self._eligible[start:stop] | scores.isnan(), -torch.inf)
        here = slice(*torch.searchsorted(self._columns, self._columns.new_tensor([start, stop])).tolist())
        scores[self._rows[here], self._columns[here] - start] = -torch.inf
        highest = _highest(scores, min(self._k, stop - start))
        # A stable sort: among equal scores the columns of earlier tiles come first, and they are the lower ones.
        joined, place = torch.cat([self._scores, scores.gather(1, highest)], 1).sort(
            stable=True, dim=1, descending=True
        )
        self._best = torch.cat([self._best, highest + start], 1).gather(1, place[:, : self._k])
        self._scores = joined[:, : self._k]

    def result(self) -> tuple[Tensor, Tensor]:
        """See `Best.result`."""
        # Tiles that were passed over may have been too few for k.
        missing = self._k - self._best.shape[1]
        best, scores = (
            torch.nn.functional.pad(part, (0, missing), value=value)
            for part, value in ((self._best, -1), (self._scores, -torch.inf))
        )
        return best.masked_fill(scores == -torch.inf, -1), scores


def _highest(scores: Tensor, k: int) -> Tensor:
    """The columns of the k highest scores of each row, int64 (rows, k), ascending; among equal scores the first."""
    if k == scores.shape[1]:
        return torch.arange(k, device=scores.device).expand(len(scores), -1)
    values, columns = scores.topk(k, dim=1, sorted=False)
    threshold = values.amin(1, keepdim=True)
    # Where more columns than fit in have the k-th highest score, `topk` chooses among them as it likes.
    tied = ((scores >= threshold).sum(1) > k) & (threshold[:, 0] > -torch.inf)
    if tied.any():
        columns[tied] = _first_of_ties(scores[tied], threshold[tied], k)
    return columns.sort(dim=1).values


def _first_of_ties(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    above, equal = scores > threshold, scores == threshold
    kept = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
    return kept.nonzero()[:, 1].view(-1, k)
