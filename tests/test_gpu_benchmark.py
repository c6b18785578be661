"""benchmarks/gpu.py runs where there is no GPU, on tiny sizes, and finds what is wrong with a kernel."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from samples import ROOT

from nnsparse_stream.kernels.backends import using
from nnsparse_stream.kernels.cpu.backend import CpuBackend

CPU = torch.device("cpu")


@pytest.fixture
def benchmark_of(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of the benchmarks, as a script there does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    monkeypatch.setattr(load("gpu_steps"), "_GROUP_SECONDS", 1e-6)
    return load


def run(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["gpu.py", *flags])
    return gpu.main()


def test_every_part_runs_and_the_json_has_what_it_found(benchmark_of, monkeypatch, tmp_path: Path) -> None:
    gpu, found = benchmark_of("gpu"), tmp_path / "gpu.json"
    flags = ["--device", "cpu", "--quick", "--times", "2", "--directory", str(tmp_path), "--json", str(found)]
    code = run(gpu, monkeypatch, *flags)
    figures = json.loads(found.read_text())
    assert figures["failures"] == []
    assert code == 0
    assert {one["what"] for one in figures["steps"]} == {"step", "kernels", "torch", "dense"}
    assert all(one["floor, ms"] > 0 for one in figures["steps"] if one["what"] != "dense")
    assert {bar["name"].split(",")[0] for bar in figures["bars"]} >= {"step", "training", "loader", "lists: ranked"}
    assert figures["checks"]["checks"] > 100
    assert figures["repeats"] == {"sgd": True, "row_adam": True}
    assert figures["profile"]["launches a step"] > 10
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json"}  # the data sets are gone


def test_what_fails_is_told_and_the_rest_still_runs(benchmark_of, monkeypatch, tmp_path: Path) -> None:
    gpu, sums = benchmark_of("gpu"), CpuBackend.weighted_sums

    def wrong(*arguments):
        return sums(*arguments) * 1.0001

    def fails(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(CpuBackend, "weighted_sums", wrong)
    monkeypatch.setattr(benchmark_of("gpu_steps"), "trainers_of", fails)
    flags = ["--device", "cpu", "--quick", "--parts", "checks", "steps", "lists", "--json", str(tmp_path / "gpu.json")]
    assert run(gpu, monkeypatch, *flags) == 1
    figures = json.loads((tmp_path / "gpu.json").read_text())
    told = [failure["what"] + ": " + failure["why"] for failure in figures["failures"]]
    assert len(told) == 4
    assert sum("weighted_sums" in one for one in told) == 2  # of two numbers of units
    assert sum("out of memory" in one for one in told) == 2  # of two numbers of columns
    assert figures["lists"]["wrong, random"] == 0


def test_without_a_gpu_it_says_so(benchmark_of, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(benchmark_of("gpu"), monkeypatch) == 2
    assert "there is no GPU that torch can use here" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_minibatches_have_distinct_ascending_columns_by_their_law(benchmark_of, kind: str) -> None:
    steps = benchmark_of("gpu_steps")
    rows = steps.minibatch(steps.Size(200, 50, 1, 10), kind, CPU, 3).validate()
    columns = rows.columns.view(200, 10)
    assert (columns.diff(dim=1) > 0).all()
    share = torch.bincount(rows.columns, minlength=50) / 200
    if kind == "zipf":
        assert share.max() > 0.85  # in nearly every row
        assert share.median() < 0.2
    else:
        assert (share - 0.2).abs().max() < 0.15  # 5 standard deviations


def test_the_floor_of_a_step_is_that_of_its_bytes(benchmark_of) -> None:
    """4,096 rows of 150 uniform entries of 1,000,000 columns, 512 units: 7.6 and 11.3 GB."""
    steps = benchmark_of("gpu_steps")
    size, distinct = steps.Size(4096, 1_000_000, 512, 150), 459_000
    assert sum(steps.floor_bytes(size, distinct, "sgd").values()) == pytest.approx(7.5e9, rel=0.01)
    assert sum(steps.floor_bytes(size, distinct, "row_adam").values()) == pytest.approx(11.3e9, rel=0.01)


def test_tritons_kernels_pass_the_checks(benchmark_of) -> None:
    """By its interpreter, where there is no GPU."""
    pytest.importorskip("triton")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checks, steps = benchmark_of("gpu_checks"), benchmark_of("gpu_steps")
    with using("gpu"):
        found = list(checks.checks(steps.Size(2, 8, 3, 2), device, torch.float32, 5))
    assert [(name, error) for name, error, allowed in found if not error <= allowed] == []


def test_an_interrupted_run_leaves_what_it_has(benchmark_of, monkeypatch, tmp_path: Path) -> None:
    gpu = benchmark_of("gpu")

    def interrupted(benchmark) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu.Benchmark, "steps", interrupted)
    flags = ["--device", "cpu", "--quick", "--parts", "copy", "steps", "--json", str(tmp_path / "gpu.json")]
    with pytest.raises(KeyboardInterrupt):
        run(gpu, monkeypatch, *flags)
    assert json.loads((tmp_path / "gpu.json").read_text())["copy, bytes/s"] > 0


def test_steps_have_the_bars_of_their_sizes(benchmark_of) -> None:
    def one(rows: int, columns: int, law: str, by: str, what: str, ms: float) -> dict[str, object]:
        size = {"rows": rows, "columns": columns, "columns of": law, "optimiser": by}
        return {**size, "what": what, "ms": ms, "floor, ms": 2.0}

    found = [
        one(rows, columns, law, by, "step", 3.0 if law == "uniform" else 4.0)
        for rows in (128, 1024, 4096)
        for columns in (3_706, 27_000, 100_000, 1_000_000)
        for law in ("uniform", "zipf")
        for by in ("sgd", "row_adam")
    ]
    found += [one(4096, columns, "uniform", "sgd", "dense", 90.0) for columns in (27_000, 100_000)]
    bars = list(benchmark_of("gpu_table").bars(found))
    assert [figure for name, figure, *bar in bars if name.startswith("dense")] == [30.0]
    assert [figure for name, figure, *bar in bars if bar == [0.45, True]] == [3.0] * 8
    assert [figure for name, figure, *bar in bars if bar == [1.8, True]] == [1.5] * 6
    assert [name for name, _, *bar in bars if bar == [1.5, True]] == [
        "step, 4096 rows, 100000 columns, uniform, row_adam / floor",
        "step, 4096 rows, 1000000 columns, uniform, row_adam / floor",
    ]
    assert [figure for name, figure, *bar in bars if bar == [1.25, True]] == [pytest.approx(4 / 3)] * 24
