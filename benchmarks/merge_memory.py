"""Peak resident memory and processor time of merging a round's changes to a large model, part by part.

The model is the one of lists: two matrices of (columns, units) and a bias. Each worker touched a share of the rows,
drawn uniformly. The files of one part are written, merged and removed before those of the next, so that little disk is
needed; the merges run in one process of their own, and the peak is that process's. On Linux, merges read files that the
system still has in memory.

    python benchmarks/merge_memory.py --json merge.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from nnsparse_stream.checkpoints.changes import change_name, merge_part
from nnsparse_stream.checkpoints.parts import num_parts, part_name, part_tensors
from nnsparse_stream.checkpoints.state import CheckpointState, tensors_of
from nnsparse_stream.checkpoints.tensor_files import TensorFile, write_tensors
from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.training.progress import peak_memory

NOTHING = TensorFile(0, "")


def write_files(folder: Path, model: RankingAutoencoder, p: int, parts: int, workers: int, share: float) -> tuple:
    """Part p of a base, and the change that each worker made to it; gives what is noted of each."""
    random = torch.Generator().manual_seed(p)
    base = {
        name: torch.zeros(held.shape, dtype=held.dtype)
        if held.dtype == torch.int64
        else torch.randn(held.shape, generator=random)
        for name, held in part_tensors(model, p, parts).items()
    }
    noted = write_tensors(str(folder / "base" / part_name(p, parts)), base)
    trained = [name for name, _ in model.named_parameters()]
    changes = []
    for worker in range(workers):
        rows = (torch.rand(len(base["encoder"]), generator=random) < share).nonzero()[:, 0]
        touches = torch.randint(1, 9, rows.shape, generator=random, dtype=torch.int32)
        change = {f"{name}.values": base[name][rows] * 1.01 for name in trained}
        for name in trained:
            change |= {f"{name}.rows": rows.to(torch.int32), f"{name}.touches": touches}
        url = str(folder / "changes" / change_name(worker, p))
        changes.append((url, write_tensors(url, change)))
    return noted, changes


def merge(folder: str, state: dict, p: int, changes: list, threads: int) -> tuple[float, int, int]:
    """Merges part p; gives the processor's seconds, the peak in bytes so far, and the bytes of the merged part."""
    torch.set_num_threads(threads)
    started = time.process_time()
    written = merge_part(CheckpointState(f"{folder}/base", state), p, changes, f"{folder}/merged", 0)
    return time.process_time() - started, peak_memory(), written.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=1_000_000)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.3, help="of the rows that each worker touched")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    config = RankingConfig(arguments.columns, arguments.columns, arguments.units)
    with torch.device("meta"):
        model = RankingAutoencoder(config)
    parts, seconds, peak, merged, changed = num_parts(model, arguments.workers), 0.0, 0, 0, 0
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        imports = process.submit(peak_memory).result()
        for p in range(parts):
            with tempfile.TemporaryDirectory() as scratch:
                noted, changes = write_files(Path(scratch), model, p, parts, arguments.workers, arguments.share)
                files = [NOTHING] * p + [noted] + [NOTHING] * (parts - p - 1)
                described = {"kind": model.kind, **config.to_json()}
                state = {"step": 0, "model": described, "tensors": tensors_of(files, [])}
                took, peak, size = process.submit(merge, scratch, state, p, changes, arguments.threads).result()
                seconds, merged = seconds + took, merged + size
                changed += sum(file.bytes for _, file in changes)
    figures = {
        "columns": arguments.columns, "units": arguments.units, "workers": arguments.workers, "parts": parts,
        "share": arguments.share, "model_bytes": merged, "change_bytes": changed, "imports_bytes": imports,
        "peak_bytes": peak, "seconds": seconds,
    }  # fmt: skip
    print(
        f"{parts} parts, {merged / 1e9:.2f} GB of a model, {changed / 1e9:.2f} GB of changes: "
        f"peak {peak / 1e6:,.0f} MB, of which the imports {imports / 1e6:,.0f}; {seconds:.1f} s, of each part "
        f"{seconds / parts:.2f} s"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
