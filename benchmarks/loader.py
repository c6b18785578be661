"""Entries a second of the loader alone against what the trainer consumes, for each preset.

The loader is a TrainingStream over the shards of a data set on the local disk, with one reader, and its minibatches are
counted and dropped: the first epoch apart, then the best of the others. The trainer takes the minibatches of one epoch
from memory, time after time, one thread of torch. Both run in the same process, alternately. The files are in the
system's cache: they have just been written.

    python benchmarks/loader.py ml-1m.parquet --json loader.json
    python benchmarks/loader.py --entries 4000000

Without a rating file, a synthetic one is made.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.checkpoint import load_model
from nnsparse_stream.training.presets import recipe
from nnsparse_stream.training.steps import Trainer
from nnsparse_stream.training.stream import TrainingStream

CPU = torch.device("cpu")


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def prepared(ratings: str | None, entries: int, where: Path) -> Dataset:
    if ratings is None:
        ratings = str(where / "ratings.parquet")
        pq.write_table(make_ratings(6_000, 4_000, entries, 0.7, seed=0).ratings, ratings)
    command("prepare", "--input", ratings, "--output", str(where / "data"), "--axis", "item")
    return Dataset(str(where / "data"))


def drain(stream: TrainingStream, epoch: int) -> dict[str, float]:
    """Entries a second of one epoch, and how many cores it kept busy."""
    started, processor = time.perf_counter(), time.process_time()
    entries = sum(minibatch.rows.num_entries for minibatch in stream.epochs(epoch, epoch) if minibatch)
    seconds = time.perf_counter() - started
    return {"entries_per_second": entries / seconds, "cores": (time.process_time() - processor) / seconds}


def train(trainer: Trainer, minibatches: list[SparseRows]) -> float:
    """Entries a second of one pass."""
    rate = trainer.recipe.learning_rate_at(1, 0.5)
    started = time.perf_counter()
    for rows in minibatches:
        trainer.train_batch(rows, rate)
    return sum(rows.num_entries for rows in minibatches) / (time.perf_counter() - started)


def measure(dataset: Dataset, preset: str, epochs: int, where: Path) -> dict[str, Any]:
    run = str(where / preset)
    # One step makes the model and the optimiser's state, and compiles the kernels.
    command("train", "--data", dataset.url, "--output", run, "--preset", preset, "--steps", "1", "--threads", "1")
    chosen = recipe(preset)
    trainer = Trainer(load_model(run), chosen, 0, CPU)
    batchifier = Batchifier(chosen.batch_rows, chosen.batch_entries)
    stream = TrainingStream(dataset, 0, batchifier, CPU, readers=1)
    first = drain(stream, 1)
    minibatches = [minibatch.rows for minibatch in stream.epochs(1, 1) if minibatch]
    loaded, trained = [], []
    for epoch in range(2, epochs + 1):
        loaded.append(drain(stream, epoch))
        trained.append(train(trainer, minibatches))
    best = max(loaded, key=lambda figures: figures["entries_per_second"])
    return {
        "preset": preset,
        "loader": best,
        "loader_first_epoch": first,
        "trainer_entries_per_second": max(trained),
        "ratio": best["entries_per_second"] / max(trained),
        "ratio_by_epoch": [a["entries_per_second"] / b for a, b in zip(loaded, trained, strict=True)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file; synthetic where none is given")
    parser.add_argument("--entries", type=int, default=1_000_000, help="ratings of the synthetic file, about")
    parser.add_argument("--presets", nargs="+", default=["cfn", "best"])
    parser.add_argument("--epochs", type=int, default=8, help="of each; the best after the first counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = prepared(arguments.ratings, arguments.entries, Path(scratch))
        results = [measure(dataset, preset, arguments.epochs, Path(scratch)) for preset in arguments.presets]
    print(f"\n{'preset':<10} {'loader':>8} {'cores':>6} {'first epoch':>12} {'trainer':>8}  (million entries/s)  ratio")
    for figures in results:
        best, first = figures["loader"], figures["loader_first_epoch"]
        print(
            f"{figures['preset']:<10} {best['entries_per_second'] / 1e6:>8.2f} {best['cores']:>6.2f} "
            f"{first['entries_per_second'] / 1e6:>12.2f} {figures['trainer_entries_per_second'] / 1e6:>8.2f}"
            f"{figures['ratio']:>27.1f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
