"""What is particular to Triton's kernels: that they compile, how long sums are cut, how bfloat16 is rounded.

Without a GPU they run by Triton's interpreter, on the CPU. What every backend must do is tested for all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from poison import Poisoned

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.rules import SGD
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows

backend_module = pytest.importorskip("nnsparse_stream.kernels.gpu.backend", reason="triton cannot be imported")
from nnsparse_stream.kernels.gpu import segments  # noqa: E402

GPU = backend_module.GpuBackend()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PIECE = 8


@pytest.fixture
def pieces(monkeypatch):
    """Segments are cut at a few places, so that small ones show it."""
    monkeypatch.setattr(segments, "PIECE", PIECE)
    monkeypatch.setattr(segments, "PIECE_OF_ONE_UNIT", PIECE)


@pytest.fixture(autouse=True)
def _poison():
    """Memory that a kernel does not write is NaN."""
    with Poisoned():
        yield


@pytest.mark.parametrize(("capability", "units"), [(80, 1), (90, 512)])
def test_every_kernel_compiles_for_gpus_without_spills_and_once(capability, units):
    """Offline, as it is launched: sizes and learning rates compile nothing anew."""
    script = Path(__file__).with_name("compiling.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, script, str(capability), str(units)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    *kernels, last = map(json.loads, done.stdout.splitlines())
    assert last == {"recompiled": 0}
    assert {kernel["kernel"] for kernel in kernels} == {
        *("_sum_pieces", "_store_sums_False", "_store_sums_True", "_products_at", "_own_products", "_row_sums"),
        *("_store_rows", "_store_places", "_update_sgd", "_update_momentum", "_update_adagrad", "_update_adam"),
        *(["_update_row_adam"] if units > 1 else []),
    }
    assert not [kernel for kernel in kernels if kernel["spilled"]]
    if units > 1:
        of_matrices = ("_sum", "_store_sums", "_products", "_own", "_update")
        assert not [kernel for kernel in kernels if kernel["kernel"].startswith(of_matrices) and not kernel["wide"]]


# Around the length that is cut, and multiples of it: alone, side by side, at a piece's start and one before and behind.
LENGTHS = [
    [PIECE - 1, PIECE, PIECE + 1],
    [2 * PIECE, 2 * PIECE - 1, 2 * PIECE + 1, 3 * PIECE + 3],
    [PIECE, PIECE + 1, 0, PIECE + 1, 0, 0, 5 * PIECE, 1],
    [1, PIECE + 2, PIECE - 3, 4 * PIECE, 2],
    [6 * PIECE + 1],
    [0, PIECE - 1, 4 * PIECE],
]


def tensors(lengths: list[int], units: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Offsets, columns, weights and a matrix of halves, which add up exactly in any order."""
    generator = torch.Generator().manual_seed(len(lengths) * units)
    offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    columns = torch.randint(11, (sum(lengths),), generator=generator, dtype=torch.int32)
    weights = torch.randint(-8, 9, columns.shape, generator=generator) / 2
    matrix = torch.randint(-8, 9, (11, units), generator=generator) / 2
    return offsets.to(DEVICE), columns.to(DEVICE), weights.to(DEVICE), matrix.to(DEVICE)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_segments_of_any_length_are_summed_from_their_pieces(pieces, lengths, units):
    offsets, columns, weights, matrix = tensors(lengths, units)
    products = weights[:, None] * matrix[columns.long()]
    expected = torch.stack([products[start:end].sum(0) for start, end in pairwise(offsets)])
    rows = SparseRows(offsets, columns, weights, 11)
    assert torch.equal(GPU.weighted_sums(rows, weights, matrix), expected)

    # The same segments as the columns of a transpose, whose entries lie in another order.
    order = torch.randperm(len(columns)).to(DEVICE)
    by_entry = torch.empty_like(weights)
    by_entry[order] = weights
    by = Transposed(order.int(), columns, torch.arange(len(lengths), dtype=torch.int32, device=DEVICE), offsets)
    for short in (False, True):
        summed = segments.Segments(offsets, columns, by.order, by_entry, matrix)
        assert torch.equal(segments.sums(summed, short), expected)
        assert segments.sum_of_squares(summed, short) == expected.square().sum()
    updated = torch.zeros(len(lengths) + 1, units, device=DEVICE)
    GPU.update(
        SGD(1.0, 0.0), updated, Factors(by, matrix, by_entry), torch.zeros(len(lengths), device=DEVICE), {}, False, None
    )
    assert torch.equal(updated[:-1], 0 - expected)
    assert not updated[-1].any()


def test_a_place_without_entries_changes_nothing():
    """The last column is named by a place that has entries, and by two that have none."""
    by = Transposed(
        *(torch.tensor(part, dtype=torch.int32, device=DEVICE) for part in ([0], [0], [2] * 3, [0, 1, 1, 1]))
    )
    for units in (1, 2):
        matrix = torch.ones(4, units, device=DEVICE)
        ones = torch.ones(1, units, device=DEVICE)
        decays = torch.full((3,), 0.5, device=DEVICE)
        GPU.update(SGD(1.0, 0.0), matrix, Factors(by, ones, ones[:, 0]), decays, {}, False, None)
        assert matrix[:, 0].tolist() == [1, 1, -0.5, 1]
        assert GPU.gradient_rows(Factors(by, ones, ones[:, 0])).tolist() == [
            [1.0] * units,
            [0.0] * units,
            [0.0] * units,
        ]


def test_bfloat16_of_one_unit_is_rounded_at_random_so_that_the_mean_is_kept():
    """From 1 up by 0.3 of the distance to the next number, some times."""
    num_rows = 640
    places = torch.arange(num_rows + 1, dtype=torch.int32, device=DEVICE)
    by = Transposed(places[:-1], places[:-1], places[:-1], places)
    vectors = torch.full((num_rows, 1), -0.3 * 2**-7, device=DEVICE)
    special = torch.tensor([float("nan"), float("inf"), 0.0], device=DEVICE)
    vectors.view(-1)[:3] = special
    drawn = []
    for seed in (1, 1, 2):
        matrix = torch.ones(num_rows, 1, dtype=torch.bfloat16, device=DEVICE)
        factors = Factors(by, vectors, torch.ones(num_rows, device=DEVICE))
        generator = torch.Generator(DEVICE).manual_seed(seed)
        GPU.update(SGD(1.0, 0.0), matrix, factors, torch.zeros(num_rows, device=DEVICE), {}, False, generator)
        drawn.append(matrix.flatten().float())
    first, same, other = drawn
    assert first[0].isnan()
    assert first[1:3].tolist() == [-float("inf"), 1.0]
    assert set(first[3:].tolist()) == {1.0, 1 + 2**-7}
    assert (first[3:] > 1).float().mean().item() == pytest.approx(0.3, abs=5 * 0.46 / num_rows**0.5)
    assert torch.equal(first[1:], same[1:])
    assert not torch.equal(first[1:], other[1:])
