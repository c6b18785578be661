"""Time to build a sparse row entry by entry: DynamicSparseTensor against concatenation after every entry.

The original claims up to 100 times. Both run in the same process, alternately; the best of the repeats counts.

    python benchmarks/dynamic_sparse_tensor.py --entries 1000 10000 --json result.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nnsparse_stream.sparse.dynamic import DynamicSparseTensor


def by_buffer(entries: int) -> torch.Tensor:
    row = DynamicSparseTensor()
    for column in range(entries):
        row.append(column, 1.0)
    return row.build().values


def by_concatenation(entries: int) -> torch.Tensor:
    row = torch.zeros(0, 2)
    for column in range(entries):
        row = torch.cat([row, torch.tensor([[column, 1.0]])])
    return row[:, 1]


def seconds(build: Callable[[int], torch.Tensor], entries: int) -> float:
    start = time.perf_counter()
    assert len(build(entries)) == entries
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[100, 1_000, 10_000, 50_000], help="row lengths")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the best counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    print(f"{'entries':>8} {'buffer':>12} {'concatenation':>14} {'ratio':>7}   (nanoseconds per entry)")
    for entries in arguments.entries:
        runs = [(seconds(by_buffer, entries), seconds(by_concatenation, entries)) for _ in range(arguments.repeats)]
        buffer, concatenation = (min(times) / entries * 1e9 for times in zip(*runs, strict=True))
        ratio = concatenation / buffer
        results.append(
            {"entries": entries, "buffer_ns": buffer, "concatenation_ns": concatenation, "ratio": round(ratio, 1)}
        )
        print(f"{entries:>8} {buffer:>12.0f} {concatenation:>14.0f} {ratio:>7.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
