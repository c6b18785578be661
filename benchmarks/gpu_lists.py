"""Time of top-K lists on a GPU (or, to try it, on the CPU), against the product of matrices alone on the same device.

- product: rows x units by units x columns in float32, whole, into memory that is there; nothing is ranked.
- ranked: `best_columns` over that product, by tiles, and the columns' biases.
- top_k: `top_k` of an autoencoder as preset `best` has it: codes of the rows by their entries, then the same.
- to host: the same for eight times as many rows that lie on the host, by blocks, until all lists lie there; per block.

Scores are random; or rise with the columns as well, which is the worst order for what is kept. Each row has 150 known
entries, which are not listed. Times are the best of --rounds, in milliseconds. The lists are held against `torch.topk`
of the whole product: `wrong` counts the places whose score differs by more than float32 rounds to.

    python benchmarks/gpu_lists.py --json gpu_lists.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nnsparse_stream.kernels.backends import backend_of
from nnsparse_stream.nn.ahead import ahead, sent
from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.nn.ranking import Eligible, best_columns
from nnsparse_stream.sparse.rows import SparseRows

_ENTRIES, _BLOCKS = 150, 8
#: The lowest and the highest bias, from the first column to the last.
BIASES = {"random": (0.0, 0.0), "rising": (0.0, 3.0)}


def milliseconds(device: torch.device, side: Callable[[], object], rounds: int) -> float:
    """The best time of a side, until the device has done it; two rounds before warm up and compile."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        side()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * (time.perf_counter() - started)

    return min([once() for _ in range(rounds + 2)][2:])


def _model(columns: int, units: int, bias: tuple[float, float]) -> RatingAutoencoder:
    config = AutoencoderConfig(
        columns, (units,), activation="selu", output_activation="identity", input_scale=15.0, row_offset=True
    )
    model = RatingAutoencoder(config, torch.Generator().manual_seed(1), initial_std=units**-0.5)
    model.decoder_bias.data.copy_(torch.linspace(*bias, columns))
    model.column_counts.fill_(1)
    return model


def _known(rows: int, columns: int) -> SparseRows:
    entries = torch.randint(columns, (rows, _ENTRIES), generator=torch.Generator().manual_seed(2)).sort(1).values
    offsets = torch.arange(0, rows * _ENTRIES + 1, _ENTRIES)
    return SparseRows(offsets, entries.flatten(), torch.ones(entries.numel()), columns)


@torch.no_grad()
def top_k_against_product(
    device: torch.device, rows: int, columns: int, units: int, k: int, rounds: int = 10
) -> dict[str, float]:
    """Times of the product and of lists, in milliseconds, and their ratios.

    Args:
        device: where.
        rows: ranked at once.
        columns: of the catalogue.
        units: of a code.
        k: columns of a list.
        rounds: of which the best counts.
    """
    found: dict[str, float] = {"rows": rows, "columns": columns, "units": units, "k": k}
    host_rows = _known(_BLOCKS * rows, columns)
    blocks = [host_rows[first : first + rows] for first in range(0, len(host_rows), rows)]
    for kind, bias in BIASES.items():
        model = _model(columns, units, bias).to(device)
        known = blocks[0].to(device)
        code, matrix = model.codes(known)[:, :-1].contiguous(), model.decoder
        backend, everywhere = backend_of(matrix), torch.ones(columns, dtype=torch.bool)
        eligible = Eligible.of(everywhere, device)

        def product_of(start: int, stop: int, model: RatingAutoencoder = model, code: Tensor = code) -> Tensor:
            part = slice(start, stop)
            return backend_of(model.decoder).dense_products(code, model.decoder[part], model.decoder_bias[part])

        def lists(block: SparseRows, model: RatingAutoencoder = model) -> tuple[Tensor, ...]:
            return model.top_k(sent(block, device), k)

        if kind == "random":
            whole = torch.empty(rows, columns, device=device)
            found["product, ms"] = milliseconds(
                device, lambda c=code, m=matrix, out=whole: torch.mm(c, m.t(), out=out), rounds
            )
            del whole
        sides: dict[str, Callable[[], object]] = {
            "ranked": lambda known=known, of=product_of, able=eligible: best_columns(of, known, able, k),
            "top_k": lambda model=model, known=known: model.top_k(known, k),
            "to host": lambda of=lists: [None for _ in ahead(blocks, of, device)],
        }
        for name, side in sides.items():
            taken = milliseconds(device, side, rounds) / (_BLOCKS if name == "to host" else 1)
            found[f"{name}, {kind}, ms"] = taken
            found[f"{name}, {kind} / product"] = taken / found["product, ms"]
        scores = model.predict(known, clip=False)
        scores.scatter_(1, known.columns.long().view(rows, -1), -torch.inf)
        expected = scores.topk(min(k, columns), dim=1).values
        listed = model.top_k(known, k)
        at = scores.gather(1, listed[0])
        wrong = ~torch.isclose(listed[1], expected, 1e-5, 1e-5) | ~torch.isclose(at, expected, 1e-5, 1e-5)
        found[f"wrong, {kind}"] = int(wrong.sum())
        found["backend"] = backend.name  # type: ignore[assignment]
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 256])
    parser.add_argument("--columns", type=int, nargs="+", default=[27_000, 1_000_000])
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    found = []
    for columns in arguments.columns:
        for rows in arguments.rows:
            what = (torch.device(arguments.device), rows, columns, arguments.units, arguments.k, arguments.rounds)
            found.append(top_k_against_product(*what))
            print(json.dumps(found[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
