"""Every backend keeps the contract of `kernels.backend.Backend`: it equals dense sums in float64, and plain formulas.

The backends of a GPU run compiled where there is one, elsewhere Triton's by the interpreter, on small blocks only.
Wherever a method takes memory, it holds NaN before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from backend_cases import CASES, FAST, HAS_GPU, LIGHT, Case, Draw, Sums, block, exact, segment_sums
from hypothesis import given, settings
from hypothesis import strategies as st
from poison import Poisoned
from strategies import random_rows
from torch import Tensor

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.backends import using
from nnsparse_stream.kernels.operations import decode_at, encode, transpose
from nnsparse_stream.kernels.row_gradient import RowGradient
from nnsparse_stream.kernels.rules import SGD, Adam
from nnsparse_stream.kernels.transposed import Transposed
from nnsparse_stream.sparse.rows import SparseRows

EACH = pytest.mark.parametrize("case", CASES, ids=str)
# Of two that differ in nothing but how a matrix is stored, one where storage does not matter.
FLOATS = pytest.mark.parametrize("case", [case for case in CASES if case.storage != torch.bfloat16], ids=str)
MOST = pytest.mark.parametrize("case", LIGHT, ids=str)
QUICK = pytest.mark.parametrize("case", FAST, ids=str)
# Of the interpreter, where NaN is meant, or an integer's overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

# Rows by their columns, and how many columns there are.
BLOCKS: dict[str, tuple[list[list[int]], int]] = {
    "no rows": ([], 4),
    "rows without entries": ([[], [], []], 4),
    "one entry": ([[0]], 1),
    "one row": ([[1, 2, 5, 6]], 8),
    "empty rows between others": ([[], [0, 2], [], [], [1], []], 3),
    "in any order and twice": ([[2, 0, 2, 2], [3], [1, 0, 1]], 4),
    "a column in every row": ([[0, 3], [3], [1, 3], [2, 3, 4], [3]], 6),
    "all columns in every row": ([[0, 1, 2], [0, 1, 2]], 3),
    "few of very many columns": ([[5, 2_000_000_000], [5, 2_147_483_645]], 2_147_483_647),
}
# Above the sizes into which the kernels cut a row or a column; a GPU or a compiled loop takes so many at once.
HEAVY, HEAVY_INTERPRETED = 70_000, 600
UNITS = [1, 2, 3, 31, 64, 257, 512, 1000, 5000]

ROWS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=6)


def check_transposed(by: Transposed, rows: Tensor, columns: Tensor, case: Case, room: int) -> None:
    """It is the stable sort; behind the distinct columns there may be places without entries, up to `room` in all."""
    order = torch.sort(columns, stable=True).indices
    distinct, counts = torch.unique_consecutive(columns[order], return_counts=True)
    found = Transposed(*(getattr(by, name).cpu() for name in ("order", "rows", "columns", "offsets")))
    assert all(part.dtype == torch.int32 for part in (found.order, found.rows, found.columns, found.offsets))
    assert torch.equal(found.order.long(), order)
    assert torch.equal(found.rows.long(), rows[order])
    held, places = len(distinct), len(found.columns)
    assert places == (room if case.backend.name == "gpu" else held)
    assert torch.equal(found.columns[:held].long(), distinct)
    assert torch.equal(found.offsets[1 : held + 1].long(), counts.cumsum(0))
    assert found.offsets[0] == 0
    assert len(found.offsets) == places + 1
    if held:
        assert (found.columns[held:] == distinct[-1]).all()
        assert (found.offsets[held:] == len(order)).all()
    else:
        assert not found.offsets.any()


def check_by_row(case: Case, rows: SparseRows, units: int, seed: int) -> None:
    """What a backend sums over the entries of each row."""
    draw, backend = Draw(case, seed), case.backend
    row, column = rows.row_indices().long().cpu(), rows.columns.long().cpu()
    matrix, code = draw.matrix(rows.num_columns, units), draw(rows.num_rows, units)
    with Poisoned():
        sums, of_rows = backend.weighted_sums(rows, rows.values, matrix), backend.row_sums(rows, rows.values)
    values = exact(rows.values)
    segment_sums(row, rows.num_rows, values[:, None] * exact(matrix)[column]).check(sums, case)
    segment_sums(row, rows.num_rows, values).check(of_rows, case)
    # Places in 4 columns, or -1 for none; what an entry fills, another of the row may fill again.
    places = torch.randint(-1, 4, (rows.num_entries,), generator=torch.Generator().manual_seed(seed))
    filled = draw(rows.num_rows, 4)
    expected = exact(filled).index_put((row[places >= 0], places[places >= 0]), torch.tensor(7.0).double())
    backend.fill_at(rows, places.int().to(case.device), filled, 7.0)
    assert torch.equal(exact(filled), expected)
    if case.multiplies(rows):
        with Poisoned():
            products = backend.products_at(rows, code, matrix)
        terms = exact(code)[row] * exact(matrix)[column]
        Sums(terms.sum(1), terms.abs().sum(1)).check(products, case)


def check_by_column(case: Case, rows: SparseRows, units: int, seed: int) -> None:
    """What a backend sums over the entries of each column."""
    draw, backend = Draw(case, seed), case.backend
    row, column = rows.row_indices().long().cpu(), rows.columns.long().cpu()
    with Poisoned():
        by = backend.transpose(rows)
    check_transposed(by, row, column, case, min(rows.num_entries, rows.num_columns))
    left, right = draw.matrix(rows.num_columns, units), draw.matrix(rows.num_columns, units)
    factors = Factors(by, draw(rows.num_rows, units), rows.values)
    with Poisoned():
        own = backend.own_products(by, left, right)
        gradient, norm = backend.gradient_rows(factors), backend.squared_norm(factors)
    terms = exact(left)[column] * exact(right)[column]
    Sums(terms.sum(1), terms.abs().sum(1)).check(own, case)
    place = torch.repeat_interleave(torch.arange(len(by.columns)), by.counts().cpu())
    order, weights = by.order.long().cpu(), exact(rows.values)
    terms = weights[order, None] * exact(factors.vectors)[row[order]]
    rows_of_gradient = segment_sums(place, len(by.columns), terms)
    rows_of_gradient.check(gradient, case)
    Sums(rows_of_gradient.exact.square().sum(), 2 * rows_of_gradient.size.square().sum()).check(norm, case)


@MOST
@pytest.mark.parametrize("name", [name for name, (_, columns) in BLOCKS.items() if columns < 1000])
def test_blocks(case: Case, name: str) -> None:
    rows = block(*BLOCKS[name], case)
    check_by_row(case, rows, 3, 1)
    check_by_column(case, rows, 3, 2)


@EACH
@pytest.mark.parametrize("units", UNITS)
def test_units(case: Case, units: int) -> None:
    rows = block([[0, 2], [], [0]], 4, case)
    check_by_row(case, rows, units, 1)
    check_by_column(case, rows, units, 2)


@QUICK
@given(columns=ROWS, units=st.sampled_from([1, 2, 7]), seed=st.integers(0, 2**32))
def test_any_block(case: Case, columns: list[list[int]], units: int, seed: int) -> None:
    rows = block(columns, 6, case, seed)
    check_by_row(case, rows, units, seed)
    check_by_column(case, rows, units, seed)


@MOST
@pytest.mark.parametrize("units", [1, 3])
def test_rows_and_columns_heavier_than_the_pieces_that_kernels_cut(case: Case, units: int) -> None:
    entries = HEAVY_INTERPRETED if case.is_interpreted else HEAVY
    twice = torch.randint(3, (entries,), generator=torch.Generator().manual_seed(3)).sort().values.tolist()
    once = [[1]] * entries
    check_by_row(case, block([[0, 2], twice, [1]], 4, case), units, 1)
    check_by_column(case, block([[0, 2], twice, [1]], 4, case), units, 2)
    check_by_column(case, block([*once, [0, 2]], 3, case), units, 3)


@FLOATS
def test_a_sum_of_very_many_equal_numbers_is_right(case: Case) -> None:
    """In float32 on one accumulator the mean of 2,000,000 times 4.7 is 4.64; that of 500 is off by 1 in 200,000."""
    many = 500 if case.is_interpreted else 2_000_000
    offsets, columns = torch.tensor([0, 0, many, many + 2, many + 2]), torch.zeros(many + 2, dtype=torch.int32)
    values = torch.full((many + 2,), 4.7, dtype=case.dtype)
    rows = SparseRows(offsets.int(), columns, values, 1).to(case.device)
    ones = torch.ones(4, 1, dtype=case.dtype, device=case.device)
    sums = case.backend.weighted_sums(rows, rows.values, ones[:1].to(case.storage))
    by = case.backend.transpose(rows)
    # A column whose entries come from rows of one entry each, and one whose entries come from few rows.
    single = Transposed(*(part[:many] for part in (by.order, by.order)), by.columns, by.offsets.clamp(max=many))
    vectors = ones.new_ones(many, 1)
    of_single = case.backend.gradient_rows(Factors(single, vectors, rows.values[:many]))
    of_few = case.backend.gradient_rows(Factors(by, ones, rows.values))
    assert sums.flatten().tolist() == pytest.approx([0, 4.7 * many, 9.4, 0], rel=2e-6)
    assert case.backend.row_sums(rows, rows.values).tolist() == pytest.approx([0, 4.7 * many, 9.4, 0], rel=2e-6)
    assert of_single[0].tolist() == pytest.approx([4.7 * many], rel=2e-6)
    assert of_few[0].tolist() == pytest.approx([4.7 * (many + 2)], rel=2e-6)
    norm = case.backend.squared_norm(Factors(by, ones, rows.values))
    assert float(norm) == pytest.approx((4.7 * (many + 2)) ** 2, rel=4e-6)


@FLOATS
@pytest.mark.parametrize("num_columns", [1, 7, 2048, 2049, 5_000_000, 2**31 - 1])
def test_transposes_of_few_and_of_very_many_columns(case: Case, num_columns: int) -> None:
    rows, per_row = (5, 60) if case.is_interpreted else (20, 300)
    generator = torch.Generator().manual_seed(num_columns)
    columns = torch.randint(num_columns, (rows, min(per_row, num_columns)), generator=generator).sort().values
    drawn = block(columns.tolist(), num_columns, case)
    with Poisoned():
        by = case.backend.transpose(drawn)
    room = min(drawn.num_entries, num_columns)
    check_transposed(by, drawn.row_indices().long().cpu(), drawn.columns.long().cpu(), case, room)


@FLOATS
@pytest.mark.parametrize("names", [
    ("a column in every row", "in any order and twice"), ("no rows", "one row"), ("one row", "rows without entries"),
    ("rows without entries", "no rows"), ("few of very many columns", "few of very many columns"),
])  # fmt: skip
def test_merged_views_are_those_of_the_blocks_behind_each_other(case: Case, names: tuple[str, str]) -> None:
    blocks = [block(*BLOCKS[name], case) for name in names]
    views = [case.backend.transpose(rows) for rows in blocks]
    with Poisoned():
        merged = case.backend.merge(*views, blocks[0].num_rows)
    room = sum(len(view.columns) for view in views)
    rows = torch.cat([blocks[0].row_indices(), blocks[1].row_indices() + blocks[0].num_rows]).long().cpu()
    columns = torch.cat([rows.columns for rows in blocks]).long().cpu()
    check_transposed(merged, rows, columns, case, room)
    # What is merged can be merged again: a third block of rows of one entry each.
    if names[0] != "few of very many columns":
        more = Transposed.of_rows(torch.tensor([0, 3], dtype=torch.int32, device=case.device))
        again = case.backend.merge(merged, more, sum(rows.num_rows for rows in blocks))
        last = sum(rows.num_rows for rows in blocks)
        rows, columns = torch.cat([rows, torch.tensor([last, last + 1])]), torch.cat([columns, torch.tensor([0, 3])])
        check_transposed(again, rows, columns, case, room + 2)


@EACH
def test_two_runs_are_equal_bit_by_bit(case: Case) -> None:
    units = 33 if case.is_interpreted else 200
    rows = block([[0, 2], [2], [], [1, 2]], 4, case)
    if not case.is_interpreted:
        rows = random_rows(80, 1000, 100, dtype=case.dtype).to(case.device)

    def run() -> Iterator[Tensor]:
        draw, backend = Draw(case, 4), case.backend
        matrix, code = draw.matrix(rows.num_columns, units), draw(rows.num_rows, units)
        by = backend.transpose(rows)
        factors = Factors(by, code, rows.values)
        yield from (by.order, by.columns, by.offsets)
        yield from (backend.weighted_sums(rows, rows.values, matrix), backend.products_at(rows, code, matrix))
        yield from (backend.row_sums(rows, rows.values), backend.own_products(by, matrix, matrix))
        yield from (backend.gradient_rows(factors), backend.squared_norm(factors))
        state = {"first": draw(len(matrix), units).zero_(), "second": draw(len(matrix), 1).zero_()}
        state["updates"] = torch.zeros_like(state["second"])
        decays, generator = draw(len(by.columns)).abs(), torch.Generator(case.device).manual_seed(1)
        backend.update(Adam(0.1, 0.9, 0.99, 1e-8), matrix, factors, decays, state, False, generator)
        yield from (matrix, *state.values())

    assert all(map(torch.equal, run(), run()))


@FLOATS
def test_nan_and_infinity_stay_where_they_are(case: Case) -> None:
    rows = block([[0, 1], [2], [3]], 4, case)
    rows = rows.with_values(torch.tensor([torch.nan, 1, 1, torch.inf], dtype=case.dtype, device=case.device))
    matrix, by = Draw(case, 1).matrix(4, 3), case.backend.transpose(rows)
    sums = case.backend.weighted_sums(rows, rows.values, matrix)
    assert sums[0].isnan().all()
    assert sums[1].isfinite().all()
    assert sums[2].isinf().all()
    factors = Factors(by, Draw(case, 2)(3, 3), rows.values)
    gradient = case.backend.gradient_rows(factors)
    assert gradient[0].isnan().all()
    assert gradient[1:3].isfinite().all()
    assert case.backend.squared_norm(factors).isnan()
    case.backend.update(SGD(0.1, 0.0), matrix, factors, gradient.new_zeros(len(by.columns)), {}, False, None)
    assert matrix[0].isnan().all()
    assert matrix[1:3].isfinite().all()


def layers(case: Case, columns: int, units: int) -> list[Tensor]:
    """An encoder, a decoder and a bias, in float64 of numbers that the case's storage has."""
    draw = Draw(case, 3)
    drawn = (draw.matrix(columns, units), draw.matrix(columns, units), draw(columns))
    return [exact(value).requires_grad_() for value in drawn]


def stored(parameters: list[Tensor], case: Case) -> list[Tensor]:
    kinds = (case.storage, case.storage, case.dtype)
    return [
        parameter.detach().to(kind).to(case.device).requires_grad_()
        for parameter, kind in zip(parameters, kinds, strict=True)
    ]


def check_gradient(found: Any, expected: Tensor, columns: Tensor, case: Case) -> None:
    assert isinstance(found, RowGradient)
    assert found.shape == expected.shape
    touched = found.columns[found.counts() > 0]
    assert touched.tolist() == columns.unique().tolist()
    near = {"rtol": 1e-4, "atol": 1e-4} if case.dtype == torch.float32 else {"rtol": 0, "atol": 1e-11}
    rows = exact(found.rows())
    by_column = expected.view(len(expected), -1)[touched.long().cpu()]
    torch.testing.assert_close(rows[found.counts().cpu() > 0], by_column, **near)
    assert not rows[found.counts().cpu() == 0].any()
    torch.testing.assert_close(exact(found.squared_norm()), expected.square().sum(), **near)
    rounding = 2**-8 if found.dtype == torch.bfloat16 else 0.0
    near["rtol"] += rounding
    torch.testing.assert_close(exact(found.to_dense()), expected, **near)
    torch.testing.assert_close(exact(found.scale_(0.5).to_dense()), expected / 2, **near)


def check_autograd(case: Case, blocks: list[SparseRows], units: int) -> None:
    """Forward and backward passes of several minibatches, whose gradients add up, against dense layers."""
    dense = layers(case, blocks[0].num_columns, units)
    ours = stored(dense, case)
    with using(case.backend.name):  # type: ignore[arg-type]
        for rows in blocks:
            by = transpose(rows)
            output = decode_at(torch.tanh(encode(ours[0], rows, by)), ours[1], ours[2], rows, by)
            output.square().sum().backward()
            assert output.dtype == case.dtype
            x = torch.zeros(rows.shape, dtype=torch.float64)
            at = rows.row_indices().long().cpu(), rows.columns.long().cpu()
            x = x.index_put(at, exact(rows.values), accumulate=True)
            expected = (torch.tanh(x @ dense[0]) @ dense[1].t() + dense[2])[at]
            expected.square().sum().backward()
            near = 2e-5 if case.dtype == torch.float32 else 1e-12
            torch.testing.assert_close(exact(output), expected.detach(), rtol=near, atol=near)
        columns = torch.cat([rows.columns for rows in blocks])
        for found, reference in zip(ours, dense, strict=True):
            assert reference.grad is not None
            check_gradient(found.grad, reference.grad, columns, case)


@MOST
@pytest.mark.parametrize("names", [
    ("a column in every row",), ("rows without entries",), ("no rows",),
    ("all columns in every row", "empty rows between others", "all columns in every row"),
])  # fmt: skip
def test_forward_and_backward_passes_are_those_of_dense_layers(case: Case, names: tuple[str, ...]) -> None:
    blocks = [block(*BLOCKS[name], case, seed) for seed, name in enumerate(names)]
    if not all(map(case.multiplies, blocks)):
        pytest.skip("torch's product takes columns that ascend")
    check_autograd(case, blocks, 4)


@QUICK
@settings(max_examples=15)
@given(columns=ROWS, units=st.sampled_from([1, 2, 7]), seed=st.integers(0, 2**32))
def test_forward_and_backward_passes_of_any_block(case: Case, columns: list[list[int]], units: int, seed: int) -> None:
    check_autograd(case, [block([sorted(set(row)) for row in columns], 6, case, seed)], units)


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
@pytest.mark.parametrize("case", [case for case in CASES if case.device == "cuda"], ids=str)
def test_matrices_of_more_elements_than_int32_counts(case: Case) -> None:
    units, columns = 512, 2**31 // 512 + 1000
    if case.storage != torch.bfloat16 or torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("takes more memory than a test may")
    matrix = torch.zeros(columns, units, dtype=case.storage, device=case.device)
    ends = [0, 1, columns - 1001, columns - 2, columns - 1]
    matrix[ends] = Draw(case, 1).matrix(len(ends), units)
    held = matrix[ends].clone()
    rows = block([[*ends], [columns - 1]], columns, case)
    code, backend = Draw(case, 2)(2, units), case.backend
    expected = torch.zeros(2, len(ends), dtype=torch.float64)
    expected[0], expected[1, -1] = exact(rows.values)[:-1], exact(rows.values)[-1]
    sums = exact(backend.weighted_sums(rows, rows.values, matrix))
    torch.testing.assert_close(sums, expected @ exact(held), rtol=1e-4, atol=1e-4)
    products = exact(backend.products_at(rows, code, matrix))
    dense = exact(code) @ exact(held).t()
    torch.testing.assert_close(products, torch.cat([dense[0], dense[1, -1:]]), rtol=1e-4, atol=1e-4)
    by = backend.transpose(rows)
    own = exact(backend.own_products(by, matrix, matrix))
    squares = exact(held).square().sum(1)
    torch.testing.assert_close(own, torch.cat([squares, squares[-1:]]), rtol=1e-4, atol=1e-4)
    decays, velocity = code.new_zeros(len(by.columns)), torch.zeros(columns, units, device=case.device)
    factors = Factors(by, code, rows.values)
    backend.update(SGD(0.1, 0.5), matrix, factors, decays, {"velocity": velocity}, False, None)
    gradient = expected.t() @ exact(code)
    torch.testing.assert_close(exact(velocity[ends]), gradient, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact(matrix[ends]), exact(held) - 0.1 * gradient, rtol=2**-7, atol=1e-3)
    velocity[ends], matrix[ends] = 0.0, 0.0
    assert not any(part.any() for whole in (velocity, matrix) for part in whole.split(1 << 20))
