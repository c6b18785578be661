"""The backends that this machine can run, and the blocks and dense sums that they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.kernels.backend import Backend
from nnsparse_stream.kernels.backends import gpu_backend
from nnsparse_stream.kernels.cpu.backend import CpuBackend
from nnsparse_stream.kernels.reference.backend import ReferenceBackend
from nnsparse_stream.sparse.rows import SparseRows

#: The backends that take tensors of the CPU, by which `backends.using` knows them.
ON_CPU = ("cpu", "reference")
HAS_GPU = torch.cuda.is_available()


class Case(NamedTuple):
    """A backend, where its tensors lie, and how its matrices are stored."""

    backend: Backend
    device: str
    storage: torch.dtype

    def __str__(self) -> str:
        return f"{self.backend.name}-{self.device}-{str(self.storage).removeprefix('torch.')}"

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors, weights, state and results."""
        return torch.float32 if self.storage == torch.bfloat16 else self.storage

    @property
    def tolerance(self) -> float:
        """By how much a sum may differ, as a share of the sum of its terms' sizes: TF32 would be far above it."""
        return 1e-13 if self.dtype == torch.float64 else 2e-6

    @property
    def is_interpreted(self) -> bool:
        """Whether each program of a kernel takes some ten milliseconds."""
        return self.backend.name == "gpu" and self.device == "cpu"

    def multiplies(self, rows: SparseRows) -> bool:
        """Whether it has products at these entries.

        On a GPU torch's product at the entries of a CSR matrix takes only columns that ascend within a row.
        """
        if self.backend.name != "reference" or self.device == "cpu":
            return True
        return torch.equal(rows.sort_by_column().columns, rows.columns)


def _cases() -> list[Case]:
    found = [(CpuBackend(), "cpu"), (ReferenceBackend(), "cpu")]
    if HAS_GPU:
        found.append((ReferenceBackend(), "cuda"))
    if not isinstance(gpu := gpu_backend(), str):
        found.append((gpu, "cuda" if HAS_GPU else "cpu"))  # on the CPU by Triton's interpreter: see conftest.py
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    return [Case(*backend, dtype) for backend in found for dtype in dtypes if dtype in backend[0].dtypes]


#: What this machine can run.
CASES = _cases()
#: Those of which a kernel takes microseconds.
FAST = [case for case in CASES if not case.is_interpreted]
#: All, but by the interpreter in one storage only, where others show what another storage does.
LIGHT = [case for case in CASES if not case.is_interpreted or case.storage != torch.bfloat16]


def block(rows: Sequence[Sequence[int]], num_columns: int, case: Case, seed: int = 0) -> SparseRows:
    """A block of rows with these columns, in this order, and normal values."""
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    columns = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *map(np.asarray, rows)]).astype(np.int32))
    values = torch.randn(len(columns), dtype=case.dtype, generator=torch.Generator().manual_seed(seed))
    return SparseRows(offsets.int(), columns, values, num_columns).to(case.device)


class Draw:
    """Normal numbers of a case, one draw after the other."""

    def __init__(self, case: Case, seed: int) -> None:
        self._case, self._generator = case, torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        drawn = torch.randn(*shape, dtype=torch.float64, generator=self._generator)
        return drawn.to(dtype or self._case.dtype).to(self._case.device)

    def matrix(self, *shape: int) -> Tensor:
        """In the case's storage."""
        return self(*shape, dtype=self._case.storage)


class Sums(NamedTuple):
    """A result in float64, and the sum of its terms' sizes, which its error is a share of."""

    exact: Tensor
    size: Tensor

    def check(self, found: Tensor, case: Case) -> None:
        """Fails where a result is not this one, or is of another shape, dtype or device."""
        assert found.shape == self.exact.shape
        assert found.dtype == case.dtype
        assert found.device.type == case.device
        excess = (exact(found) - self.exact).abs() - case.tolerance * self.size
        assert not excess.numel() or excess.max() <= 0, f"off by {excess.max():g} more than {case.tolerance:g} allows"


def exact(tensor: Tensor) -> Tensor:
    """A tensor in float64 on the CPU."""
    return tensor.detach().cpu().double()


def segment_sums(segments: Tensor, count: int, terms: Tensor) -> Sums:
    """The sums of the terms (n, ...) of each of `count` segments, which `segments` (n,) names."""

    def added(of: Tensor) -> Tensor:
        return torch.zeros(count, *terms.shape[1:], dtype=torch.float64).index_add(0, segments, of)

    return Sums(added(terms), added(terms.abs()))
