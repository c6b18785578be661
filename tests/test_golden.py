"""The numbers of the original library, held against ours within 1e-12 in float64.

Every case of every file in `golden/` runs. A file's name says what it covers; within a file the keys and inputs of a
case decide what is checked, never its name. Where the original is wrong the test's id says `deviation-...`, and a case
that nothing here recognises fails.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_reference import (
    EXACT,
    as_rows,
    binary_cross_entropy,
    columns_fit,
    densified,
    from_rows,
    has_empty_row,
    is_matrix,
    is_unsorted,
    loss_and_gradient,
    numbers,
    same,
    same_rows,
    sparsified,
    stably_sorted,
    tensor,
    to_rows,
)
from torch import Tensor, nn

from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.nn.criteria import (
    MaskCriterion,
    SDAECriterion,
    SDAESparseCriterion,
    SparseCriterion,
    prepare_input,
)
from nnsparse_stream.nn.layers import Densify, SparseLinearBatch
from nnsparse_stream.sparse.dynamic import DynamicSparseTensor
from nnsparse_stream.sparse.original import densify, sparsify, ssort, ssort_by_index
from nnsparse_stream.sparse.rows import SparseRows

Case = dict[str, Any]
# What to check, and the name of the deviation ("" where we agree with the original).
Checks = Iterator[tuple[str, Callable[[], None]]]
LOSSES = {"MSE": nn.MSELoss(), "Abs": nn.L1Loss(), "SmoothL1": nn.SmoothL1Loss(), "BCE": binary_cross_entropy}
UNBOUNDED = 2**31 - 1


def refuses(call: Callable[[], Any], message: str) -> Callable[[], None]:
    def check() -> None:
        with pytest.raises(ValueError, match=message):
            call()

    return check


def equals(call: Callable[[], Any], expected: Any, **tolerance: Any) -> Callable[[], None]:
    return lambda: same(call(), expected, **tolerance)


def rows_equal(call: Callable[[], SparseRows], expected: list[Any]) -> Callable[[], None]:
    return lambda: same_rows(from_rows(call()), expected)


def sparse_tools(case: Case, inputs: Case) -> Checks:
    fill = float(case.get("elem") or 0)
    if case["op"] == "sparsify":
        x, offset = tensor(case["input"]), case.get("offset") or 0
        if x.dim() > 2:
            yield "", refuses(lambda: sparsify(x), "takes a vector or a matrix")
            return
        matrix = x.dim() == 2
        expected = sparsified(x.tolist() if matrix else [x.tolist()], fill, offset)
        if matrix and (fill != 0 or offset):
            yield "deviation-matrix-honours-fill-and-offset", rows_equal(lambda: sparsify(x, fill, offset), expected)
        elif math.isnan(fill) and x.isnan().any():
            yield "deviation-fill-nan-drops-nan", rows_equal(lambda: sparsify(x, fill, offset), expected)
        else:
            recorded = case["output"] if matrix else [case["output"]]
            yield "", rows_equal(lambda: sparsify(x, fill, offset), recorded)
    elif case["op"] == "densify":
        yield from _densify(case, fill)


def _densify(case: Case, fill: float) -> Checks:
    keyed = case.get("input_keyed")
    sparse = [keyed.get(str(row), []) for row in range(1, max(map(int, keyed)) + 1)] if keyed else case["input"]
    matrix = bool(keyed) or is_matrix(sparse)
    rows = as_rows(sparse)
    dim = case.get("dim")
    sizes = dim if isinstance(dim, list) else [len(rows), dim]
    highest = max((int(index) for row in rows for index, _ in row), default=0)
    num_columns = sizes[-1] or highest

    def run() -> Tensor:
        return densify(to_rows(sparse), fill, num_columns)

    if not columns_fit(sparse, num_columns):
        yield "", refuses(run, "holds column")
    elif matrix and (case.get("dim_type") == "LongStorage" or isinstance(dim, int)):
        yield "deviation-any-form-of-size-counts", equals(run, densified(rows, fill, num_columns), **EXACT)
    elif matrix and sizes[0] > len(rows):
        # Our rows know how many they are: those without entries are stored as well.
        sparse = [*sparse, *[[]] * (sizes[0] - len(rows))]
        yield "deviation-rows-beyond-the-last", equals(run, densified(as_rows(sparse), fill, num_columns), **EXACT)
    elif not keyed and has_empty_row(sparse):
        yield "deviation-empty-row", equals(run, densified(rows, fill, num_columns), **EXACT)
    else:
        yield "", equals(run, case["output"] if matrix else [case["output"]], **EXACT)


def sorting(case: Case, inputs: Case) -> Checks:
    sort, part = {"ssort": (ssort, 1), "ssortByIndex": (ssort_by_index, 0)}[case["op"]]
    descending, inplace = bool(case.get("descend")), bool(case.get("inplace"))
    expected = [stably_sorted(row, part, descending) for row in as_rows(case["input"])]

    def check() -> None:
        rows = to_rows(case["input"])
        got = sort(rows, descending, inplace)
        same_rows(from_rows(got), expected)
        assert (got is rows) is inplace
        same_rows(from_rows(rows), expected if inplace else as_rows(case["input"]))

    keys = [[entry[part] for entry in row] for row in as_rows(case["input"])]
    if is_matrix(case["input"]):
        yield "deviation-matrix-is-sorted-row-by-row", check
    elif has_empty_row(case["input"]):
        yield "deviation-empty-row", check
    elif any(math.isnan(key) for row in keys for key in row):
        yield "deviation-nan-last", check
    elif any(len(set(row)) < len(row) for row in keys):
        yield "deviation-stable-among-ties", check
    else:
        recorded = case["self_after"] if inplace else case["returned"]
        yield "", lambda: same_rows(expected, [recorded])
        yield "", check


def dynamic_sparse_tensor(case: Case, inputs: Case) -> Checks:
    if "append_after_build" in case:
        yield "", lambda: _append_after_build_reset_and_set(case)
        return
    reserve = 10 if case["reserve"] is None else case["reserve"]
    growth = 2 if case["multCoef"] is None else case["multCoef"]
    if growth <= 1 or reserve < 1:
        named = "growth must be greater than 1" if growth <= 1 else "reserve must be at least 1"
        yield "deviation-no-room-to-grow-is-refused", refuses(lambda: DynamicSparseTensor(reserve, growth), named)
        return

    def check() -> None:
        built = DynamicSparseTensor(reserve, growth, torch.float64)
        capacities = []
        for index, value in case["items"]:
            built.append(index - 1, value)
            capacities.append(built.capacity)
        if not case["error"]:
            assert capacities == case["capacity_after_each_append"]
        same_rows(from_rows(built.build()), [case["items"]])

    yield ("deviation-a-small-buffer-grows" if case["error"] else ""), check
    if not case["error"]:
        yield "", lambda: same_rows([case["items"]], [case["built"]])


def _append_after_build_reset_and_set(case: Case) -> None:
    def append(index: int, value: float) -> list[Any]:
        row.append(index - 1, value)
        return from_rows(row.build())

    row = DynamicSparseTensor(dtype=torch.float64)
    for index, value in case["built_12"]:
        append(index, value)
    same_rows(from_rows(row.build()), [case["built_12"]])
    same_rows(append(*case["append_after_build"][-1]), [case["append_after_build"]])
    row.reset()
    assert len(row) == case["curSize_after_reset"]
    same_rows(append(*case["after_reset_append_5_6"][-1]), [case["after_reset_append_5_6"]])
    row.set(to_rows(case["set_then_append"][:-1]))
    same_rows(append(*case["set_then_append"][-1]), [case["set_then_append"]])


def _layer(source: Case, input_grad: bool = False) -> SparseLinearBatch:
    layer = SparseLinearBatch(len(source["weight"][0]), len(source["bias"]), input_grad=input_grad).double()
    with torch.no_grad():
        layer.weight.copy_(tensor(source["weight"]).t())
        layer.bias.copy_(tensor(source["bias"]))
    return layer


def sparse_linear_batch(case: Case, inputs: Case) -> Checks:
    source = {**inputs, **{key: value for key, value in case.items() if value is not None}}
    layer = _layer(source)
    if ("input" not in case and "input_note" in case) or ("input" in case and has_empty_row(case["input"])):
        rows = to_rows(case.get("input", []), layer.in_features)
        empty = rows.lengths() == 0
        yield (
            "deviation-empty-row-gives-the-bias",
            lambda: same(layer(rows)[empty], layer.bias.expand(int(empty.sum()), -1).tolist()),
        )
        return
    if not columns_fit(source["input"], layer.in_features):
        unchecked = to_rows(source["input"])
        bad = SparseRows(unchecked.offsets, unchecked.columns, unchecked.values, layer.in_features)
        yield "", refuses(lambda: layer(bad), r"row \d+ holds column \d+")
        return
    rows = to_rows(source["input"], layer.in_features)
    grad_output = tensor(source["gradOutput"]).view(rows.num_rows, -1)

    def gradients(passes: int = 1, scale: float = 1.0, by_row: bool = False) -> tuple[Tensor, Tensor]:
        layer.zero_grad()
        pieces = [(rows[row], grad_output[[row]]) for row in range(len(rows))] if by_row else [(rows, grad_output)]
        for _ in range(passes):
            for piece, grad in pieces:
                layer(piece).backward(grad * scale)
        return layer.weight.grad.t(), layer.bias.grad

    def input_gradient() -> Tensor:
        values = rows.values.clone().requires_grad_()
        _layer(source, input_grad=True)(rows.with_values(values)).backward(grad_output)
        return values.grad

    for key in ("output", "ref_nnLinear_output"):
        if case.get(key):
            yield "", lambda key=key: same(layer(rows), tensor(case[key]).view(rows.num_rows, -1).tolist())
    if "gradBias_scale_1" in case:
        yield "", lambda: same(gradients()[1], case["gradBias_scale_1"])
        halved = (tensor(case["gradBias_scale_1"]) / 2).tolist()
        yield "deviation-a-scaled-gradient-counts", lambda: same(gradients(scale=0.5)[1], halved)
    for suffix, passes in (("", 1), ("_after_second_acc", 2)):
        for position, name in enumerate(("gradWeight", "gradBias")):
            for key in (name + suffix, f"ref_nnLinear_{name}{suffix}"):
                if case.get(key):
                    by_row = "input" not in case
                    yield (
                        "",
                        lambda key=key, position=position, passes=passes, by_row=by_row: same(
                            gradients(passes, by_row=by_row)[position], case[key]
                        ),
                    )
    if "nonzero_gradWeight_left_after_zeroGradParameters" in case:

        def zeroed() -> None:
            gradients()
            layer.zero_grad(set_to_none=False)
            assert not layer.weight.grad.any()
            assert not layer.bias.grad.any()

        yield "deviation-all-gradients-are-cleared", zeroed
    if case.get("ref_nnLinear_gradInput"):
        dense = tensor(case["ref_nnLinear_gradInput"])[rows.row_indices(), rows.columns]
        yield "", lambda: same(input_gradient(), dense.tolist())
    if case.get("gradInput"):
        # The original sums the rows of a batch into one sparse vector; ours keeps each entry's own gradient.
        matrix = is_matrix(case["input"])
        expected = densified([case["gradInput"]], 0.0, layer.in_features)[0]

        def summed() -> Tensor:
            return torch.zeros(layer.in_features, dtype=torch.float64).index_add(0, rows.columns, input_gradient())

        yield ("deviation-a-gradient-for-each-entry" if matrix else ""), lambda: same(summed(), expected)
        if case.get("gradInput_second_call"):
            yield ("deviation-a-second-call-does-not-double" if matrix else ""), lambda: same(summed(), expected)


def densify_layer(case: Case, inputs: Case) -> Checks:
    if "input" not in case and "too many indices" in case["error"]:
        case = {**case, "input": [[[1, 2.0]], []], "inputSize": 3}
    elif "input" not in case and "out of range" in case["error"]:
        case = {**case, "input": [[[1, 2.0]], [[4, 1.0]]], "inputSize": 3}
    rows, size = to_rows(case["input"]), case["inputSize"]
    if not columns_fit(case["input"], size):
        yield "", refuses(lambda: Densify(size)(rows), r"row \d+ holds column \d+")
        return
    if has_empty_row(case["input"]):
        expected = densified(as_rows(case["input"]), 0.0, size)
        yield "deviation-empty-row-gives-zeros", equals(lambda: Densify(size)(rows), expected, **EXACT)
    else:
        recorded = tensor(case["output"]).view(rows.num_rows, size).tolist()
        yield "", equals(lambda: Densify(size)(rows), recorded, **EXACT)
    if case.get("updateGradInput_returns_gradOutput"):
        grad_output = torch.rand(rows.num_rows, size, dtype=torch.float64)

        def gradient() -> Tensor:
            values = rows.values.clone().requires_grad_()
            Densify(size)(rows.with_values(values)).backward(grad_output)
            return values.grad

        expected = grad_output[rows.row_indices(), rows.columns].tolist()
        yield "deviation-the-gradient-is-that-of-the-entries", equals(gradient, expected, **EXACT)


def batchifier(case: Case, inputs: Case) -> Checks:
    layer = _layer(inputs)
    rows = to_rows(inputs["input"], layer.in_features)
    sparse = nn.Sequential(layer, nn.Tanh())
    dense = nn.Sequential(Densify(layer.in_features), layer.to_linear(), nn.Tanh())
    expected = inputs["one_forward_output"]
    if "batchSize" in case:
        batchify = Batchifier(case["batchSize"] or 10, UNBOUNDED)
        # The original wants to be told the number of rows; ours counts them.
        deviation = "" if case["nFrame"] else "deviation-rows-are-counted"
        yield deviation, equals(lambda: batchify.forward(sparse, rows), case["output"] or expected)
    elif "max_abs_diff_vs_sparse" in case:
        yield "", equals(lambda: Batchifier(7, UNBOUNDED).forward(dense, rows), case["output"])
    elif case.get("ok") is False:
        # The README's arguments fail in the original: ours takes the size of the output from the network.
        call = Batchifier(20, UNBOUNDED)
        yield "deviation-no-output-size-to-get-wrong", equals(lambda: call.forward(sparse, iter([rows])), expected)


def _estimated(
    criterion: Any, estimate: list[list[float]], target: SparseRows, sparse: bool
) -> tuple[Tensor, list[list[float]]]:
    """Loss and dense gradient, from an estimate that is dense or only at the target's entries."""
    dense = tensor(estimate).requires_grad_()
    given = target.with_values(dense[target.row_indices(), target.columns]) if sparse else dense
    loss = criterion(given, target)
    loss.backward()
    return loss, dense.grad.tolist()


def _check_criterion(make: Callable[[], Any], estimate: Any, target: SparseRows, loss: Any, grad: Any) -> None:
    for sparse in (False, True):
        got_loss, got_grad = _estimated(make(), estimate, target, sparse)
        if loss is not None:
            same(got_loss, loss)
        if grad is not None:
            same(got_grad, grad)


def sparse_criterion(case: Case, inputs: Case) -> Checks:
    if "returns_same_object" in case:

        def identity() -> None:
            rows = to_rows(inputs["target"])
            assert (prepare_input(nn.MSELoss(), rows) is rows) is case["returns_same_object"]

        yield "", identity
        return
    if "either normalize" in (case.get("error") or ""):
        message = "average must be one of"
        yield "", refuses(lambda: SparseCriterion(nn.MSELoss(), "observed all"), message)
        return
    kind = case.get("criterion", "MSE")
    average = {"sizeAverage": "observed", "fullSizeAverage": "all", "none": "none"}[case.get("mode", "sizeAverage")]
    suffix = "_bce" if kind == "BCE" else ""
    given = case if "target" in case else {key: inputs[key + suffix] for key in ("estimate", "target")}
    estimate, rows = numbers(given["estimate"]), as_rows(given["target"])
    grad, loss = case.get("grad"), case.get("loss")
    if grad and not isinstance(grad[0], list):
        estimate, rows, grad = estimate[:1] if isinstance(estimate[0], list) else [estimate], rows[:1], [grad]
    if "too many indices" in (case.get("error") or "") and not has_empty_row(rows):
        rows = [[], *rows[1:]]
    target = to_rows(rows, len(estimate[0]))
    divisor = {"observed": target.num_entries, "all": target.num_rows * target.num_columns, "none": 1}[average]
    ours = loss_and_gradient(kind, estimate, rows, [[1.0] * len(row) for row in rows], max(divisor, 1))

    def make() -> SparseCriterion:
        return SparseCriterion(LOSSES[kind], average)

    if has_empty_row(rows):
        yield "deviation-empty-row-has-no-loss", lambda: _check_criterion(make, estimate, target, *ours)
    elif case.get("grad_error"):
        one = make()

        def reused() -> None:
            one(tensor(estimate[:1]), target[:1])
            _check_criterion(lambda: one, estimate, target, loss, ours[1])

        yield "deviation-one-criterion-for-any-size", reused
    elif kind == "Abs":
        yield "", lambda: _check_criterion(make, estimate, target, loss, None)
        name = "deviation-no-gradient-where-nothing-is-observed"
        yield name, lambda: _check_criterion(make, estimate, target, None, ours[1])
        yield "", lambda: _agree_at_entries(ours[1], grad, target)
    elif loss is not None:
        yield "", lambda: _check_criterion(make, estimate, target, loss, grad)
        if kind == "BCE":
            yield "deviation-torchs-own-bce-has-no-1e-12", lambda: _check_torchs_bce(average, estimate, target, ours)


def _check_torchs_bce(average: str, estimate: Any, target: SparseRows, expected: tuple[Any, Any]) -> None:
    _check_criterion(lambda: SparseCriterion(nn.BCELoss(), average), estimate, target, *expected)


def _agree_at_entries(ours: list[list[float]], recorded: list[list[float]], target: SparseRows) -> None:
    place = (target.row_indices(), target.columns)
    same(tensor(ours)[place], tensor(recorded)[place].tolist())


CONFIG = {
    "alpha": "alpha",
    "beta": "beta",
    "hideRatio": "hide_ratio",
    "noiseRatio": "noise_ratio",
    "noiseMean": "noise_mean",
    "noiseStd": "noise_std",
    "flipRatio": "flip_ratio",
    "flipRange": "flip_range",
}


def _denoising(cls: type, case: Case, averages: tuple[str, str]) -> Any:
    arguments = {
        CONFIG[key]: tuple(value) if isinstance(value, list) else value for key, value in case["config"].items()
    }
    loss = LOSSES[case.get("criterion", "MSE")]
    return cls(loss, average=averages[0] if case.get("sizeAverage", True) else averages[1], **arguments)


def _refuses_missing_flip_range(cls: type, case: Case) -> Checks:
    yield "", refuses(lambda: _denoising(cls, case, ("all", "none")), "there is no flip_range")


def _lacks_flip_range(case: Case) -> bool:
    return bool(case["config"].get("flipRatio")) and "flipRange" not in case["config"]


def sdae_criterion(case: Case, inputs: Case) -> Checks:
    if _lacks_flip_range(case):
        yield from _refuses_missing_flip_range(SDAECriterion, case)
        return
    target, noisy, alpha, beta = (tensor(case[key]) for key in ("input", "noisy", "maskAlpha", "maskBeta"))
    assert torch.equal(alpha, 1 - beta)
    same(target[alpha == 0], noisy[alpha == 0].tolist(), **EXACT)

    def check() -> None:
        criterion = _denoising(SDAECriterion, case, ("all", "none"))
        criterion.corrupted = alpha.bool()
        estimate = tensor(case["estimate"]).requires_grad_()
        loss = criterion(estimate, target)
        loss.backward()
        same(loss, case["loss"])
        same(estimate.grad, case["grad"])

    yield "", check


def sdae_sparse_criterion(case: Case, inputs: Case) -> Checks:
    if _lacks_flip_range(case):
        yield from _refuses_missing_flip_range(SDAESparseCriterion, case)
        return
    rows, estimate = as_rows(case["input"]), numbers(case["estimate"])
    target = to_rows(rows, len(estimate[0]))
    corrupted = [[bool(flag) for flag in row] for row in case["maskAlpha"]]
    flat = torch.tensor([flag for row in corrupted for flag in row], dtype=torch.bool)
    assert numbers(case["maskBeta"]) == [[float(not flag) for flag in row] for row in corrupted]
    same(target.values[~flat], to_rows(case["noisy"]).values[~flat].tolist(), **EXACT)
    alpha, beta = case["config"].get("alpha", 1), case["config"].get("beta", 0)
    weights = [[alpha if flag else beta for flag in row] for row in corrupted]
    divisor = max(target.num_entries, 1) if case["sizeAverage"] else 1
    ours = loss_and_gradient(case["criterion"], estimate, rows, weights, divisor)

    def make() -> SDAESparseCriterion:
        criterion = _denoising(SDAESparseCriterion, case, ("observed", "none"))
        criterion.corrupted = flat
        return criterion

    unsorted, absolute, empty = is_unsorted(rows), case["criterion"] == "Abs", has_empty_row(rows)
    if not empty:
        yield "", lambda: _check_criterion(make, estimate, target, case["loss"], None)
    if empty or unsorted or absolute:
        name = "deviation-" + (
            "empty-row-has-no-loss"
            if empty
            else "weights-do-not-depend-on-the-order"
            if unsorted
            else "no-gradient-where-nothing-is-observed"
        )
        yield name, lambda: _check_criterion(make, estimate, target, *ours)
        if absolute and not (unsorted or empty):
            yield "", lambda: _agree_at_entries(ours[1], case["grad"], target)
    else:
        yield "", lambda: _check_criterion(make, estimate, target, None, case["grad"])


def mask_criterion(case: Case, inputs: Case) -> Checks:
    if not case["sparse"]:
        criterion = _denoising(MaskCriterion, case, ("all", "none"))
        yield "", refuses(lambda: criterion.prepare_input(torch.zeros(2, 3)), "takes SparseRows, got Tensor")
        return
    if case["inputDim"] is None:
        needs_no_size = _denoising(MaskCriterion, case, ("all", "none"))
        rows = SparseRows.from_rows([([0, 2], [1.0, 2.0])], 4)

        def without_size() -> None:
            prepared = prepare_input(needs_no_size, rows)
            assert needs_no_size(prepared, rows).isfinite()

        yield "deviation-the-rows-know-their-columns", without_size
        return
    rows, estimate = as_rows(case["input"]), numbers(case["estimate"])
    target = to_rows(rows, case["inputDim"])
    alpha, beta = case["config"].get("alpha", 1), case["config"].get("beta", 0)
    weights = [[case["mask"][at][int(index) - 1] for index, _ in row] for at, row in enumerate(rows)]
    flat = [weight for row in weights for weight in row]
    assert set(flat) <= {alpha, beta}
    divisor = target.num_rows * target.num_columns if case["sizeAverage"] else 1
    ours = loss_and_gradient(case["criterion"], estimate, rows, weights, divisor)

    def make() -> MaskCriterion:
        criterion = _denoising(MaskCriterion, case, ("all", "none"))
        criterion.corrupted = torch.tensor([weight == alpha for weight in flat])
        return criterion

    yield "deviation-the-loss-is-that-of-the-gradient", lambda: _check_criterion(make, estimate, target, ours[0], None)
    if case["grad"] is None or has_empty_row(rows):
        yield "deviation-empty-row-has-no-loss", lambda: _check_criterion(make, estimate, target, *ours)
    else:
        yield "", lambda: _check_criterion(make, estimate, target, None, case["grad"])
    if case["config"].get("hideRatio") in (0, 1):
        # Both leave every row as it is: nothing hidden, or nothing left.
        drawn = _denoising(MaskCriterion, case, ("all", "none"))
        yield "", rows_equal(lambda: drawn.prepare_input(target), case["noisy"])


CHECKS: dict[str, Callable[[Case, Case], Checks]] = {
    "batchifier": batchifier,
    "densify": densify_layer,
    "dynamic_sparse_tensor": dynamic_sparse_tensor,
    "mask_criterion": mask_criterion,
    "sdae_criterion": sdae_criterion,
    "sdae_sparse_criterion": sdae_sparse_criterion,
    "sorting": sorting,
    "sparse_criterion": sparse_criterion,
    "sparse_linear_batch": sparse_linear_batch,
    "sparse_tools": sparse_tools,
}
# The keys by which a case of a file is known to hold the inputs of those that have none of their own.
SHARED_INPUTS = {
    "batchifier": {"input", "weight", "bias", "one_forward_output"},
    "sparse_criterion": {"estimate", "target", "estimate_bce", "target_bce"},
    "sparse_linear_batch": {"input", "weight", "bias", "gradOutput", "gradWeight"},
}


def golden_cases() -> Iterator[Any]:
    for path in sorted((Path(__file__).parent / "golden").glob("*.json")):
        checks = CHECKS.get(path.stem)
        cases = json.loads(path.read_text())
        wanted = SHARED_INPUTS.get(path.stem)
        inputs: Case = {}
        for case in cases:
            only_inputs = False
            if wanted and wanted <= case.keys():
                inputs = inputs or case
                only_inputs = not case.keys() & {"output", "loss"}
            name = f"{path.stem}-{case.get('name', 'unnamed')}"
            if only_inputs:
                continue
            try:
                found = list(checks(case, inputs)) if checks else []
            except Exception as error:  # a case of another form fails by itself, not the whole collection
                found = [("", _raises(error))]
            for part, (deviation, check) in enumerate(found or [("", _unrecognised(path.stem, case))]):
                yield pytest.param(check, id="-".join(filter(None, [name, str(part), deviation])))


def _raises(error: Exception) -> Callable[[], None]:
    def check() -> None:
        raise error

    return check


def _unrecognised(file: str, case: Case) -> Callable[[], None]:
    return lambda: pytest.fail(f"{file}: nothing recognises a case with the keys {sorted(case)}")


@pytest.mark.parametrize("check", list(golden_cases()))
def test_golden(check):
    check()
