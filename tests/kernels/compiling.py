"""Compiles what the backend of GPUs launches, for a GPU that need not be there, and prints one line a kernel.

Usage: compiling.py CAPABILITY UNITS. Each call of the backend compiles instead of launching, with the very arguments
and options of the launch; what the kernels would have written is not there, so a transpose is made on the CPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from nnsparse_stream.kernels.backend import Factors
from nnsparse_stream.kernels.gpu.backend import GpuBackend
from nnsparse_stream.kernels.reference.backend import ReferenceBackend
from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam
from nnsparse_stream.sparse.rows import SparseRows

CAPABILITY, UNITS = map(int, sys.argv[1:])
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
compiled: set[str] = set()


class NoDevice:
    """What Triton asks its driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def tool(name: str, flag: str, binary: bytes) -> str:
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([TOOLS / name, flag, file.name], capture_output=True, text=True, check=True).stdout


def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    assert all(isinstance(size, int) and size > 0 for size in grid)
    kernel = run(self, *args, grid=grid, warmup=True, **options)
    if kernel.hash in compiled:
        return
    compiled.add(kernel.hash)
    binary = kernel.asm["cubin"]
    stack, local = re.search(r"STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", tool("cuobjdump", "-res-usage", binary)).groups()
    wide = len(re.findall(r"LDG\.E\.128", tool("cuobjdump", "-sass", binary)))
    name = "_".join([self.__name__, *(str(options[key]) for key in ("RULE", "SQUARED") if key in options)])
    print(json.dumps({"kernel": name, "spilled": int(stack) + int(local), "wide": wide}), flush=True)


def call_all(num_rows: int, per_row: int, rate: float) -> None:
    """Calls every method, with long segments and without."""
    backend, num_columns = GpuBackend(), 40
    columns = torch.arange(num_rows * per_row, dtype=torch.int32) % num_columns
    rows = SparseRows(torch.arange(num_rows + 1) * per_row, columns, torch.ones(len(columns)), num_columns)
    backend.transpose(rows)
    backend.row_sums(rows, rows.values)
    by, code = ReferenceBackend().transpose(rows), torch.ones(num_rows, UNITS)
    matrix = torch.ones(num_columns, UNITS)
    one_a_row, decays = torch.zeros(num_columns, 1), torch.zeros(num_columns)
    adam = {"first": matrix, "second": matrix, "updates": one_a_row}
    by_row = {**adam, "second": one_a_row}
    for stored in (matrix, matrix.bfloat16()):
        backend.weighted_sums(rows, rows.values, stored)
    backend.products_at(rows, code, matrix.bfloat16())
    backend.own_products(by, matrix, matrix)
    factors = Factors(by, code, rows.values)
    backend.gradient_rows(factors)
    backend.squared_norm(factors)
    short = Factors(by, code[:200], rows.values)
    for rule, state, stored, gradient in (
        (SGD(rate, 0.0), {}, matrix, factors),
        (SGD(rate, 0.9), {"velocity": matrix}, matrix, factors),
        (Adagrad(rate, 1e-10), {"squares": matrix}, matrix, factors),
        (Adam(rate, 0.9, 0.999, 1e-8), adam, matrix, short),
        (Adam(rate, 0.9, 0.99, 1e-8), by_row, matrix.bfloat16(), factors),
    ):
        backend.update(rule, stored, gradient, decays, state, isinstance(rule, Adam), None)


driver.set_active(NoDevice())
run, JITFunction.run = JITFunction.run, compile_only
call_all(300, 24, 0.1)
before = len(compiled)
# Other sizes, of another divisibility, and another learning rate.
call_all(301, 23, 1.0)
print(json.dumps({"recompiled": len(compiled) - before}))
