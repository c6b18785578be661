"""Time and memory of top-K lists, against the product of matrices alone and against implicit's `recommend`.

All on the same rows, units and columns, in one process and by turns, the best of --rounds; --threads threads on every
side. Each row has --entries known entries, which are not listed.

- product: rows x units by units x columns in torch, into memory that is there: whole where the result has at most
  2 GB, and by tiles of 1,024 x 2,048; the faster counts. Nothing is ranked.
- ranked: `best_columns` over that product and the columns' biases.
- top_k: `top_k` of an autoencoder as preset `best` has it: codes of the rows by their entries, then the same.
- implicit: `recommend` of a model of as many factors; the codes are given, the biases one more factor.

Scores are random; or rise or fall with the columns as well, as where the vocabulary is in the order of popularity. The
memory is the peak of the process's resident memory during the first `top_k` less what it held before (Linux only).

`score`: the whole command in a process of its own, wall and processor seconds, from a data set of so many rows and a
model of one epoch to the Parquet files; and the same product.

On a GPU: `benchmarks/gpu_lists.py`.

implicit is no dependency of the project: `pip install implicit==0.7.3` beside it; without it that side is left out.

    OPENBLAS_NUM_THREADS=1 python benchmarks/lists.py --json lists.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# implicit asks for it: its own threads call the product.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.nn.ranking import TILE_COLUMNS, Eligible, best_columns, rows_at_once
from nnsparse_stream.sparse.rows import SparseRows

Side = Callable[[], object]
BIASES = {"random": (0.0, 0.0), "falling": (3.0, 0.0), "rising": (0.0, 3.0)}
# Bytes of the largest result of the product that is made whole.
_WHOLE = 2 << 30
ROWS_AT_ONCE = rows_at_once(torch.device("cpu"))


def known_entries(num_rows: int, num_columns: int, entries: int) -> SparseRows:
    rng = np.random.default_rng(num_columns)
    columns = np.stack([np.sort(rng.choice(num_columns, entries, replace=False)) for _ in range(num_rows)])
    offsets = torch.arange(0, num_rows * entries + 1, entries)
    return SparseRows(offsets, torch.from_numpy(columns.ravel()), torch.ones(columns.size), num_columns)


def autoencoder(num_columns: int, units: int, bias: tuple[float, float]) -> RatingAutoencoder:
    config = AutoencoderConfig(
        num_columns, (units,), activation="selu", output_activation="identity", input_scale=15.0, row_offset=True
    )
    model = RatingAutoencoder(config, torch.Generator().manual_seed(1), initial_std=units**-0.5)
    model.decoder_bias.data.copy_(torch.linspace(*bias, num_columns))
    model.column_counts.fill_(1)
    return model


def product_whole(codes: Tensor, matrix: Tensor) -> Side:
    out = torch.empty(len(codes), len(matrix))
    return lambda: torch.mm(codes, matrix.t(), out=out)


def product_by_tiles(codes: Tensor, matrix: Tensor) -> Side:
    memory = torch.empty(ROWS_AT_ONCE * TILE_COLUMNS)

    def run() -> None:
        for rows in codes.split(ROWS_AT_ONCE):
            for tile in matrix.split(TILE_COLUMNS):
                torch.mm(rows, tile.t(), out=memory[: len(rows) * len(tile)].view(len(rows), len(tile)))

    return run


def ranked(codes: Tensor, matrix: Tensor, bias: Tensor, known: SparseRows, k: int) -> Side:
    able = Eligible.of(torch.ones(len(matrix), dtype=torch.bool), matrix.device)

    def run() -> None:
        for first in range(0, len(codes), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            best_columns(
                lambda start, stop, rows=rows: torch.addmm(bias[start:stop], codes[rows], matrix[start:stop].t()),
                known[rows],
                able,
                k,
            )

    return run


def implicit_side(codes: Tensor, matrix: Tensor, bias: Tensor, known: SparseRows, k: int, threads: int) -> Side | None:
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix
    except ImportError:
        return None
    model = AlternatingLeastSquares(factors=codes.shape[1] + 1, num_threads=threads)
    model.user_factors = torch.cat([codes, torch.ones(len(codes), 1)], 1).numpy()
    model.item_factors = torch.cat([matrix, bias[:, None]], 1).numpy()
    entries = csr_matrix((known.values.numpy(), known.columns.numpy(), known.offsets.numpy()), shape=known.shape)
    users = np.arange(len(codes))
    return lambda: model.recommend(users, entries, N=k, filter_already_liked_items=True)


def seconds(sides: dict[str, Side], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """The best time of each side; a first round warms up."""
    best = dict.fromkeys(sides, np.inf)
    for number in range(rounds + 1):
        for name, side in sides.items():
            started = clock()
            side()
            if number:
                best[name] = min(best[name], clock() - started)
    return best


def peak_mb(side: Side) -> float:
    """Peak resident memory of a side beyond what was there before, MB."""

    def resident(line: str) -> float:
        return int(Path("/proc/self/status").read_text().split(f"{line}:")[1].split()[0]) / 1e3

    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = resident("VmRSS")
    side()
    return round(resident("VmHWM") - before, 1)


def measure(arguments: argparse.Namespace, num_columns: int, kind: str) -> dict[str, object]:
    num_rows = arguments.rows_of_many if num_columns > 100_000 else arguments.rows
    known = known_entries(num_rows, num_columns, arguments.entries)
    model = autoencoder(num_columns, arguments.units, BIASES[kind])
    model.top_k(known[:2], arguments.k)  # compiles
    memory = peak_mb(lambda: model.top_k(known, arguments.k))
    with torch.no_grad():
        codes = model.codes(known)[:, :-1].contiguous()
        matrix, bias = model.decoder.detach(), model.decoder_bias.detach()
        sides: dict[str, Side] = {"product by tiles": product_by_tiles(codes, matrix)}
        if 4 * num_rows * num_columns <= _WHOLE:
            sides["product whole"] = product_whole(codes, matrix)
        sides["ranked"] = ranked(codes, matrix, bias, known, arguments.k)
        sides["top_k"] = lambda: model.top_k(known, arguments.k)
        other = implicit_side(codes, matrix, bias, known, arguments.k, arguments.threads)
        if other:
            sides["implicit"] = other
        times = seconds(sides, arguments.rounds, arguments.clock)
    product = min(times.pop("product by tiles"), times.pop("product whole", np.inf))
    found = {"columns": num_columns, "rows": num_rows, "scores": kind, "product, s": round(product, 3)}
    found |= {f"{name}, s": round(taken, 3) for name, taken in times.items()}
    found |= {f"{name} / product": round(taken / product, 2) for name, taken in times.items()}
    if other:
        found["top_k / implicit"] = round(times["top_k"] / times["implicit"], 2)
    return found | {"top_k, peak MB": memory}


def measure_command(arguments: argparse.Namespace, num_columns: int) -> dict[str, object]:
    """Wall and processor seconds of `score`, and of the product."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = known_entries(arguments.rows, num_columns, arguments.entries)
    ratings = 1 + np.random.default_rng(1).integers(0, 5, known.num_entries)
    command = [sys.executable, "-m", "nnsparse_stream.pipelines"]
    with tempfile.TemporaryDirectory() as folder:
        log, data, run, scores = (f"{folder}/{name}" for name in ("log.parquet", "data", "run", "scores"))
        fields = {"user": known.row_indices().numpy(), "item": known.columns.numpy(), "rating": ratings}
        pq.write_table(pa.table(fields), log)
        quiet = {"check": True, "stdout": subprocess.DEVNULL}
        flags = ["--axis", "user", "--folds", "100,0,0", "--num_shards", "4"]
        subprocess.run([*command, "prepare", "--input", log, "--output", data, *flags], **quiet)
        recipe = ["--preset", "best", "--hidden", str(arguments.units), "--epochs", "1"]
        subprocess.run([*command, "train", "--data", data, "--output", run, *recipe], **quiet)
        best, least = np.inf, np.inf
        for _ in range(2):
            before, started = os.times(), time.perf_counter()
            flags = ["--top_k", str(arguments.k), "--overwrite"]
            subprocess.run([*command, "score", "--model", run, "--data", data, "--output", scores, *flags], **quiet)
            best, after = min(best, time.perf_counter() - started), os.times()
            least = min(least, sum(after[2:4]) - sum(before[2:4]))
    codes, matrix = torch.randn(arguments.rows, arguments.units), torch.randn(num_columns, arguments.units)
    product = seconds({"": product_by_tiles(codes, matrix)}, arguments.rounds, arguments.clock)[""]
    times = {"score, s": best, "score, processor s": least, "product, s": product}
    return {"columns": num_columns, "rows": arguments.rows, **{name: round(value, 2) for name, value in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=["lists", "score"], default=["lists", "score"])
    parser.add_argument("--columns", type=int, nargs="+", default=[27_000, 1_000_000])
    parser.add_argument("--scores", nargs="+", choices=BIASES, default=list(BIASES), dest="kinds")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--rows-of-many", type=int, default=1024, help="rows where there are more than 100,000 columns")
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--entries", type=int, default=150, help="known entries of each row")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--processor",
        action="store_const",
        const=time.process_time,
        default=time.perf_counter,
        dest="clock",
        help="processor seconds of all threads: for a machine that has other work, with --threads 1",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[dict[str, object]]] = {}
    for case in arguments.cases:
        for num_columns in arguments.columns:
            kinds = arguments.kinds if case == "lists" else [""]
            for kind in kinds:
                one = measure(arguments, num_columns, kind) if kind else measure_command(arguments, num_columns)
                print(case, json.dumps(one), flush=True)
                found.setdefault(case, []).append(one)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
