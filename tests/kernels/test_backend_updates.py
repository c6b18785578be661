"""The updates of every backend are plain formulas on the rows that a gradient touches, and leave the others alone."""

from __future__ import annotations

import pytest
import torch
from backend_cases import CASES, LIGHT, Case, Draw, block, exact, segment_sums
from formulas import change
from poison import Poisoned
from torch import Tensor

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam, Rule
from nnsparse_stream.sparse.rows import SparseRows

EACH = pytest.mark.parametrize("case", CASES, ids=str)
# Of the interpreter: the random numbers of rounding are products modulo 2^32.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

RULES: dict[str, tuple[Rule, dict[str, bool]]] = {
    # Whether the state that each keeps has all units.
    "sgd": (SGD(0.1, 0.0), {}),
    "momentum": (SGD(0.1, 0.9), {"velocity": True}),
    "adagrad": (Adagrad(0.1, 1e-2), {"squares": True}),
    "adam": (Adam(0.1, 0.9, 0.999, 1e-2), {"first": True, "second": True, "updates": False}),
    "row_adam": (Adam(0.1, 0.0, 0.99, 1e-2), {"first": True, "second": False, "updates": False}),
}
EACH_RULE = pytest.mark.parametrize("rule", RULES)


class Updated:
    """A matrix and its state, on a backend and by the formulas; rows that no minibatch touches are NaN."""

    def __init__(self, case: Case, rule: str, columns: int, units: int, unit_rows: bool) -> None:
        draw = Draw(case, units)
        self.case, self.unit_rows = case, unit_rows
        self.rule, kept = RULES[rule]
        matrix = draw(columns, units)
        self.matrix = (torch.nn.functional.normalize(matrix) if unit_rows else matrix).to(case.storage)
        self.state = {name: draw(columns, units if all_units else 1) for name, all_units in kept.items()}
        for name in self.state.keys() & {"squares", "second"}:
            self.state[name].square_()
        if "updates" in self.state:  # of any number, also so many that float32 counts no further
            updates = torch.tensor([0.0, 1, 2, 50, 1000, 2**24 - 1], dtype=case.dtype, device=case.device)
            self.state["updates"] = updates.repeat(columns)[:columns, None].contiguous()
        self.formula = {name: exact(value) for name, value in [("", self.matrix), *self.state.items()]}
        self.generator = torch.Generator(case.device).manual_seed(5)

    def tensors(self) -> dict[str, Tensor]:
        """The matrix, by no name, and its state."""
        return {"": self.matrix, **self.state}

    def step(self, rows: SparseRows, seed: int) -> None:
        """A step by the backend; rows that it does not touch are NaN meanwhile, and what belongs to no row is, too."""
        case, draw = self.case, Draw(self.case, seed)
        by = case.backend.transpose(rows)
        counts, columns = by.counts().cpu(), by.columns.long().cpu()
        vectors, decays = draw(rows.num_rows, self.matrix.shape[1]), draw(len(columns)).abs()
        touched = torch.zeros(len(self.matrix), dtype=torch.bool)
        touched[columns[counts > 0]] = True
        before = {name: value.clone() for name, value in self.tensors().items()}
        for value in self.tensors().values():
            value[~touched.to(case.device)] = torch.nan
        with Poisoned():
            given = decays.masked_fill((counts == 0).to(case.device), torch.nan)
            case.backend.update(
                self.rule, self.matrix, Factors(by, vectors, rows.values), given, self.state, self.unit_rows,
                self.generator,
            )  # fmt: skip
        for name, value in self.tensors().items():
            assert value[~touched.to(case.device)].isnan().all()
            value[~touched.to(case.device)] = before[name][~touched.to(case.device)]
        row, column = rows.row_indices().long().cpu(), rows.columns.long().cpu()
        terms = exact(rows.values)[:, None] * exact(vectors)[row]
        gradient = segment_sums(column, len(self.matrix), terms).exact
        for place in (counts > 0).nonzero().flatten().tolist():
            self._by_formula(int(columns[place]), gradient[columns[place]], float(decays[place]))

    def _by_formula(self, column: int, gradient: Tensor, decay: float) -> None:
        row = self.formula[""][column]
        if self.unit_rows:
            gradient = gradient - (gradient @ row) * row
        state = {name: value[column] for name, value in self.formula.items() if name}
        row = row - change(self.rule, gradient + decay * row, state)
        self.formula[""][column] = row / row.norm() if self.unit_rows else row
        for name, value in state.items():
            self.formula[name][column] = value.clamp(max=2**24) if name == "updates" else value

    def check(self) -> None:
        """Fails where the backend has not what the formulas give."""
        for name, value in self.tensors().items():
            rounding = 2**-7 if value.dtype == torch.bfloat16 else 0.0
            near = 1e-12 if self.case.dtype == torch.float64 else 2e-5
            torch.testing.assert_close(exact(value), self.formula[name], rtol=near + rounding, atol=near, msg=name)


@EACH
@EACH_RULE
@pytest.mark.parametrize("unit_rows", [False, True])
def test_updates_are_the_formulas_step_by_step_and_touch_no_other_row(case: Case, rule: str, unit_rows: bool) -> None:
    updated = Updated(case, rule, 8, 1 if case.is_interpreted and unit_rows else 3, unit_rows)
    for step, columns in enumerate(([[1, 2], [], [2, 6]], [[2, 2], [5, 1]], [], [[]])):
        updated.step(block(columns, 8, case, step), step)
        updated.check()
        if case.storage == torch.bfloat16:  # from the rounded matrix on
            updated.formula[""] = exact(updated.matrix)


@pytest.mark.parametrize("case", LIGHT, ids=str)
@EACH_RULE
@pytest.mark.parametrize("units", [1, 512, 1000])
def test_updates_of_any_units_and_of_heavy_columns(case: Case, rule: str, units: int) -> None:
    few = case.is_interpreted and rule != "row_adam"
    updated = Updated(case, rule, 4, units, False)
    updated.step(block([[3]] * (5 if few else 600) + [[0, 3]], 4, case), 1)
    updated.check()


@EACH
@EACH_RULE
def test_a_gradient_of_zero_moves_nothing_by_the_smallest_divisor(case: Case, rule: str) -> None:
    kind, kept = RULES[rule]
    kind = {"adagrad": Adagrad(0.1, 1e-10)}.get(rule, Adam(0.1, 0.9, 0.999, 1e-8) if "adam" in rule else kind)
    rows = block([[0, 2], [2]], 4, case)
    matrix = Draw(case, 1).matrix(4, 3)
    before = matrix.clone()
    state = {name: Draw(case, 1)(4, 3 if all_units else 1).zero_() for name, all_units in kept.items()}
    factors = Factors(case.backend.transpose(rows), Draw(case, 2)(2, 3), torch.zeros_like(rows.values))
    decays = factors.vectors.new_zeros(len(factors.by.columns))
    case.backend.update(kind, matrix, factors, decays, state, False, None)
    assert torch.equal(matrix, before)
    assert not any(value.any() for name, value in state.items() if name != "updates")


@EACH
def test_a_unit_row_of_zeros_stays_one(case: Case) -> None:
    matrix = Draw(case, 1).matrix(2, 3).zero_()
    by = case.backend.transpose(block([[1]], 2, case))
    factors = Factors(by, matrix.new_zeros(1, 3).to(case.dtype), matrix.new_ones(1).to(case.dtype))
    case.backend.update(SGD(0.1, 0.0), matrix, factors, factors.weights, {}, True, None)
    assert not matrix.any()


@pytest.mark.parametrize("case", [case for case in CASES if case.storage == torch.bfloat16], ids=str)
def test_rounding_to_bfloat16_keeps_the_mean_and_a_seed_repeats_it(case: Case) -> None:
    """The exact result lies between two neighbours; each is taken so often that the mean is right."""
    rows = block([list(range(8))], 9, case)
    by, start = case.backend.transpose(rows), Draw(case, 1).matrix(9, 5000)
    vectors = Draw(case, 2)(1, 5000)
    decays = vectors.new_zeros(len(by.columns))
    found = []
    for seed in (7, 7, 8):
        matrix, generator = start.clone(), torch.Generator(case.device).manual_seed(seed)
        factors = Factors(by, vectors, rows.values)
        case.backend.update(SGD(0.3, 0.0), matrix, factors, decays, {}, False, generator)
        found.append(exact(matrix)[:8])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    wanted = exact(start)[:8] - 0.3 * exact(rows.values)[:, None] * exact(vectors)
    spacing = 2.0 ** (wanted.abs().log2().floor() - 7)
    for matrix in (found[0], found[2]):
        errors = (matrix - wanted) / spacing
        assert errors.abs().max() < 1 + 1e-3
        # Of uniform draws, the error's standard deviation is at most a half.
        assert abs(float(errors.mean())) < 5 * 0.5 / errors.numel() ** 0.5
        assert len(errors[0].unique()) > 100
