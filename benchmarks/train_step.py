"""Time and memory of a training step, optimiser included, over the number of columns.

The same autoencoder (columns -> units -> columns, tanh, squared error over the observed entries) by four means:

- dense: rows made dense, two nn.Linear, a masked loss, torch.optim.SGD;
- torch: our step by SGD, its kernels and update made of torch operations, as on other devices;
- sgd, adam: our step by RowSGD and by RowAdam with one second moment a row, by the compiled kernels;
- sgd*, adam*: the same on --threads threads, all others on one.

All run in the same process and on the same minibatches: each takes all of them one after the other, as training does,
then the next one, in --rounds rounds; the best step counts. Compilation, once in a machine's life, is not counted. The
columns are drawn uniformly, the worst case: hardly any comes twice in a minibatch. Dense runs up to --dense-columns
only. The memory is the peak of a process's resident memory during three steps less what it held before them, with
parameters and optimiser state in place; it is taken on Linux only.

    python benchmarks/train_step.py --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import nn

from nnsparse_stream.kernels.backends import using
from nnsparse_stream.kernels.operations import decode_at, encode, transpose
from nnsparse_stream.nn.optimisers import RowAdam, RowSGD
from nnsparse_stream.sparse.rows import SparseRows

OPTIMISERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: RowSGD(parameters, lr=1e-3, weight_decay=1e-4),
    "adam": lambda parameters: RowAdam(
        parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, decay_by_count=True, second_moment="row"
    ),
}


def minibatches(count: int, num_rows: int, num_columns: int, entries: int) -> list[SparseRows]:
    rng = np.random.default_rng(num_columns)

    def block() -> SparseRows:
        columns = np.stack([np.sort(rng.choice(num_columns, entries, replace=False)) for _ in range(num_rows)])
        offsets = torch.arange(0, num_rows * entries + 1, entries)
        return SparseRows(offsets, torch.from_numpy(columns.ravel()), torch.randn(columns.size), num_columns)

    return [block() for _ in range(count)]


def our_step(num_columns: int, units: int, optimiser: str) -> Callable[[SparseRows], None]:
    # In place, so that parameters are the only memory of their size.
    encoder, decoder = (nn.Parameter(torch.empty(num_columns, units).normal_(0, 0.01)) for _ in range(2))
    hidden, bias = nn.Parameter(torch.zeros(units)), nn.Parameter(torch.zeros(num_columns))
    optimizer = OPTIMISERS[optimiser]([encoder, hidden, decoder, bias])

    def step(rows: SparseRows) -> None:
        optimizer.zero_grad()
        transposed = transpose(rows)
        code = torch.tanh(encode(encoder, rows, transposed) + hidden)
        output = decode_at(code, decoder, bias, rows, transposed)
        ((output - rows.values).square().sum() / rows.num_rows).backward()
        optimizer.step()

    return step


def torch_step(num_columns: int, units: int) -> Callable[[SparseRows], None]:
    step = our_step(num_columns, units, "sgd")

    def by_torch(rows: SparseRows) -> None:
        with using("reference"):
            step(rows)

    return by_torch


def dense_step(num_columns: int, units: int) -> Callable[[SparseRows], None]:
    network = nn.Sequential(nn.Linear(num_columns, units), nn.Tanh(), nn.Linear(units, num_columns))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, weight_decay=1e-4)

    def step(rows: SparseRows) -> None:
        optimizer.zero_grad()
        target = rows.to_dense()
        mask = rows.with_values(torch.ones_like(rows.values)).to_dense()
        (((network(target) - target) * mask).square().sum() / rows.num_rows).backward()
        optimizer.step()

    return step


def milliseconds(
    steps: dict[str, Callable[[SparseRows], None]], batches: list[SparseRows], threads: int, rounds: int
) -> dict[str, float]:
    """The best time of each step; the first two minibatches warm up. A name with a star is one on several threads."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            torch.set_num_threads(threads if name.endswith("*") else 1)
            for number, rows in enumerate(batches):
                started = time.perf_counter()
                step(rows)
                if number > 1:
                    times[name].append(1e3 * (time.perf_counter() - started))
    torch.set_num_threads(1)
    return {name: round(min(measured), 2) for name, measured in times.items()}


def memory_of_steps(arguments: argparse.Namespace) -> None:
    """Prints the peak resident memory of three steps beyond what was there before, in MB."""
    step = our_step(arguments.memory_columns, arguments.units, arguments.memory_of)
    batches = minibatches(4, arguments.rows, arguments.memory_columns, arguments.entries)
    step(batches[0][:1])  # makes the optimiser's state; one row only, so that little freed memory stays resident

    def resident(line: str) -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{line}:")[1].split()[0]) / 1e3

    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = resident("VmRSS")
    for rows in batches[1:]:
        step(rows)
    print(round(resident("VmHWM") - before, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[3_706, 27_000, 100_000, 1_000_000])
    parser.add_argument("--dense-columns", type=int, default=100_000, help="the most columns that dense takes")
    parser.add_argument("--memory-columns", type=int, default=1_000_000, help="columns of the memory measurement")
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--rows", type=int, default=128, help="rows of a minibatch")
    parser.add_argument("--entries", type=int, default=150, help="entries of each row")
    parser.add_argument("--repeats", type=int, default=10, help="steps of each in a round; the best counts")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="threads of the columns with a star")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--memory-of", choices=OPTIMISERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        memory_of_steps(arguments)
        return
    results: list[dict[str, Any]] = []
    names = ("dense", "torch", "sgd", "adam", "sgd*", "adam*")
    pairs = (("dense", "sgd"), ("dense", "adam"), ("torch", "sgd"), ("sgd", "sgd*"), ("adam", "adam*"))
    print(
        f"{'columns':>9}", *map("{:>8}".format, names), " (ms)", *(f"{slow}/{fast}".rjust(10) for slow, fast in pairs)
    )
    for columns in arguments.columns:
        steps: dict[str, Callable[[SparseRows], None]] = {}
        for name in OPTIMISERS:
            steps[name] = steps[f"{name}*"] = our_step(columns, arguments.units, name)
        if columns <= arguments.dense_columns:
            steps |= {"dense": dense_step(columns, arguments.units), "torch": torch_step(columns, arguments.units)}
        batches = minibatches(arguments.repeats + 2, arguments.rows, columns, arguments.entries)
        found = milliseconds(steps, batches, arguments.threads, arguments.rounds)
        ratios = {f"{slow}/{fast}": round(found[slow] / found[fast], 2) for slow, fast in pairs if slow in found}
        results.append({"columns": columns, "milliseconds": found, "ratios": ratios})
        shown = [f"{found[name]:.2f}" if name in found else "-" for name in names]
        shares = [ratios.get(f"{slow}/{fast}", "-") for slow, fast in pairs]
        print(f"{columns:>9}", *map("{:>8}".format, shown), "     ", *map("{:>10}".format, shares), flush=True)
        del steps
    memory = {}
    if sys.platform == "linux":
        for name in OPTIMISERS:
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
            memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{name}: {memory[name]} MB above parameters and state at {arguments.memory_columns:,} columns")
    if arguments.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numba": numba.__version__}
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": arguments.threads}
        figures = {**machine, "versions": versions, "steps": results, "memory_mb": memory}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
