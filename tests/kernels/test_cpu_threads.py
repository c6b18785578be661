"""The compiled loops on several threads: they share the work, and results do not depend on how many there are."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.cpu import loops, threads
from nnsparse_stream.kernels.cpu.backend import CpuBackend
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam
from nnsparse_stream.sparse.indices import offsets_of
from nnsparse_stream.sparse.rows import SparseRows

BACKEND, COLUMNS, UNITS = CpuBackend(), 700, 5


@pytest.fixture(autouse=True)
def threads_for_little_work(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_MANY_PRODUCTS", 0)
    yield
    torch.set_num_threads(before)


def block(lengths):
    """Rows of so many entries each; column 0 is in every third entry."""
    generator = torch.Generator().manual_seed(len(lengths))
    columns = torch.randint(COLUMNS, (sum(lengths),), generator=generator)
    columns[::3] = 0
    return SparseRows(
        offsets_of(torch.tensor(lengths)), columns, torch.randn(len(columns), generator=generator), COLUMNS
    )


# Empty rows, one of several pieces, and one that is summed in parts.
ROWS = block([0, 40, 1, 0, 3000, *range(60), 600, 0])
BY = BACKEND.transpose(ROWS)


def matrices(count, rows=COLUMNS, units=UNITS):
    generator = torch.Generator().manual_seed(units)
    return [torch.randn(rows, units, generator=generator) for _ in range(count)]


def factors():
    (vectors,) = matrices(1, ROWS.num_rows)
    return Factors(BY, vectors, ROWS.values)


def updated(rule, unit_rows, *shapes):
    """The matrix and its state after two updates."""
    (matrix,) = matrices(1)
    if unit_rows:
        matrix = torch.nn.functional.normalize(matrix)
    state = {name: torch.zeros(COLUMNS, units) for name, units in shapes}
    for _ in range(2):
        BACKEND.update(rule, matrix, factors(), torch.full((len(BY.columns),), 0.1), state, unit_rows, None)
    return [matrix, *state.values()]


LOOPS = {
    "weighted_sums": lambda: [BACKEND.weighted_sums(ROWS, ROWS.values, *matrices(1))],
    "products_at": lambda: [BACKEND.products_at(ROWS, *matrices(1, ROWS.num_rows), *matrices(1))],
    "own_products": lambda: [BACKEND.own_products(BY, *matrices(2))],
    "gradient_rows": lambda: [BACKEND.gradient_rows(factors())],
    "squared_norm": lambda: [BACKEND.squared_norm(factors())],
    "sgd": lambda: updated(SGD(0.1, 0.0), False),
    "momentum": lambda: updated(SGD(0.1, 0.9), True, ("velocity", UNITS)),
    "adagrad": lambda: updated(Adagrad(0.1, 1e-10), True, ("squares", UNITS)),
    "adam": lambda: updated(
        Adam(0.1, 0.9, 0.99, 1e-8), False, ("first", UNITS), ("second", UNITS), ("updates", 1)
    ),
    "row_adam": lambda: updated(
        Adam(0.1, 0.9, 0.99, 1e-8), True, ("first", UNITS), ("second", 1), ("updates", 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_results_do_not_depend_on_the_number_of_threads(name):
    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(LOOPS[name]())
    assert any(tensor.any() for tensor in found[0])
    for results in found[1:]:
        assert all(map(torch.equal, results, found[0]))


@given(lengths=st.lists(st.integers(0, 700), max_size=60))
def test_pieces_are_all_rows_once_and_in_order(lengths):
    offsets = offsets_of(torch.tensor(lengths, dtype=torch.int64)).numpy()
    claimed, rows = np.zeros(1, np.int64), []
    while len(piece := range(*loops.next_piece(offsets, claimed))):
        assert sum(lengths[row] for row in piece[:-1]) + len(piece) - 1 < 256
        rows += piece
    assert rows == list(range(len(lengths)))
    assert loops.next_piece(offsets, claimed) == (len(lengths), len(lengths))


def test_each_thread_takes_part_once_and_what_it_raises_is_raised():
    torch.set_num_threads(3)
    taking_part = []
    threads.share(lambda claimed, *arguments: taking_part.append((threading.get_ident(), arguments)), 7, cost=0)
    assert len({thread for thread, _ in taking_part}) == len(taking_part) == 3
    assert threading.get_ident() in dict(taking_part)
    assert {arguments for _, arguments in taking_part} == {(7,)}

    def refuse(first, last):
        if first:
            raise ValueError("not these rows")

    with pytest.raises(ValueError, match="not these rows"):
        threads.by_rows(refuse, 10)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 10])
def test_parts_of_rows_are_all_rows_once(number):
    torch.set_num_threads(3)
    rows = []
    threads.by_rows(lambda first, last: rows.extend(range(first, last)), number)
    assert sorted(rows) == list(range(number))


def test_several_threads_may_call_at_once():
    torch.set_num_threads(2)
    expected = LOOPS["weighted_sums"]()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: LOOPS["weighted_sums"](), range(40)):
            assert torch.equal(*found, *expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_works_alone():
    """It has none of the threads."""
    torch.set_num_threads(2)
    expected = LOOPS["weighted_sums"]()
    child = os.fork()
    if not child:  # pragma: no cover
        os._exit(0 if torch.equal(*LOOPS["weighted_sums"](), *expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(*LOOPS["weighted_sums"](), *expected)
