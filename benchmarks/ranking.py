"""The objective of lists: processor time of a training step over the number of columns, and accuracy beside EASE.

    python benchmarks/ranking.py steps
    python benchmarks/ranking.py accuracy ml-1m.parquet --seeds 5
    python benchmarks/ranking.py accuracy --synthetic --seeds 1

A step is one of the preset `ranking-dense`, or of `ranking-sparse`, on one core, optimiser included: rows of so many
entries, of columns whose popularity follows a power law (`--power 0`: uniform, hardly any comes twice in a minibatch).
The median of the steps counts, after two that warm up.

Accuracy is that of `prepare --axis user --folds 80,0,20`, `train --preset ranking` and `evaluate`, in a scratch
directory; the synthetic log is `ratings.synthetic.make_interactions` of 30,000 users and 41,000 items.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_interactions
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.presets import PRESETS
from nnsparse_stream.training.ranking_objective import RankingObjective
from nnsparse_stream.training.ranking_recipe import RankingRecipe

METRICS = ("ndcg@100", "recall@20", "recall_all@20", "ndcg@20")
STEPS = (("ranking-dense", 150), ("ranking-sparse", 27))


def minibatch(random: np.random.Generator, num_rows: int, entries: int, bounds: np.ndarray) -> SparseRows:
    """Rows of distinct columns, drawn by the cumulative shares `bounds` (columns,)."""
    columns = np.searchsorted(bounds, random.random((num_rows, 2 * entries)) * bounds[-1])
    rows = [np.sort(_first(row, entries)) for row in columns]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    held = torch.from_numpy(np.concatenate(rows).astype(np.int32))
    return SparseRows(torch.from_numpy(offsets), held, torch.ones(len(held)), len(bounds))


def _first(row: np.ndarray, count: int) -> np.ndarray:
    return row[np.sort(np.unique(row, return_index=True)[1])[:count]]


def milliseconds(preset: str, entries: int, num_columns: int, power: float, repeats: int) -> tuple[float, int]:
    """The median processor time of a step, and the columns that occur in a minibatch."""
    recipe = PRESETS[preset]
    assert isinstance(recipe, RankingRecipe)
    random = np.random.default_rng(num_columns)
    bounds = np.cumsum(random.permutation(np.arange(1, num_columns + 1) ** -power))
    config = RankingConfig(
        num_columns, 100_000, recipe.units, recipe.tied, recipe.temperature or None, recipe.code_power
    )
    model = RankingAutoencoder(config, torch.Generator().manual_seed(0), recipe.initial_std)
    model.column_counts += 20
    noise = torch.Generator()
    objective = RankingObjective(model, recipe, noise, None)
    times = []
    for step in range(repeats + 2):
        rows = minibatch(random, recipe.batch_rows, entries, bounds)
        noise.manual_seed(step)
        started = time.process_time()
        objective.train_batch(rows, 0.0)
        times.append(1e3 * (time.process_time() - started))
    return float(np.median(times[2:])), len(rows.columns.unique())


def steps(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `train` does
    for preset, entries in STEPS:
        print(f"\n{preset}: {PRESETS[preset].batch_rows} rows of {entries} entries")  # type: ignore[attr-defined]
        found = {}
        for columns in arguments.columns:
            found[columns], distinct = milliseconds(preset, entries, columns, arguments.power, arguments.repeats)
            base = found.get(27_000)
            ratio = f"{found[columns] / base:>8.2f} x that of 27,000" if base else ""
            print(f"{columns:>9} columns {found[columns]:>8.1f} ms  {distinct:>7} occur {ratio}", flush=True)


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def one_seed(source: str, seed: int, presets: list[str], where: Path) -> dict[str, dict[str, float]]:
    data, results = str(where / f"data-{seed}"), {}
    folds = ("--folds", "80,0,20", "--fold_seed", str(seed))
    command("prepare", "--input", source, "--output", data, "--axis", "user", *folds)
    for preset in presets:
        run, figures = str(where / f"{preset}-{seed}"), where / f"{preset}-{seed}.json"
        options = () if preset == "linear" else ("--seed", str(seed), "--threads", "1")
        started = time.process_time()
        command("train", "--data", data, "--output", run, "--preset", preset, *options)
        seconds = time.process_time() - started
        command("evaluate", "--data", data, "--model", run, "--metrics", ",".join(METRICS), "--json", str(figures))
        report = json.loads(figures.read_text())
        results[preset] = {**report["metrics"], "seconds": seconds}
        results |= {line["name"]: line["metrics"] for line in report["baselines"]}
    return results


def accuracy(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = arguments.ratings
        if arguments.synthetic:
            source = str(Path(scratch) / "log.parquet")
            log = make_interactions(30_000, 41_000, 1_040_000, num_groups=400, seed=0)
            pq.write_table(log.append_column("rating", pa.array(np.ones(len(log), np.float32))), source)
        runs = [one_seed(source, seed, arguments.presets, Path(scratch)) for seed in range(arguments.seeds)]
    print(f"\n{'':<20}" + "".join(f"{name:>15}" for name in (*METRICS, "CPU seconds")))
    for name in runs[0]:
        figures = [np.mean([run[name].get(metric, np.nan) for run in runs]) for metric in (*METRICS, "seconds")]
        by_seed = " ".join(f"{run[name][METRICS[0]]:.4f}" for run in runs)
        print(f"{name:<20}" + "".join(f"{figure:>15.4f}" for figure in figures) + f"   {by_seed}")
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("steps")
    part.add_argument("--columns", type=int, nargs="+", default=[3_706, 27_000, 100_000, 1_000_000])
    part.add_argument("--power", type=float, default=0.8, help="popularity falls by rank ^ -POWER")
    part.add_argument("--repeats", type=int, default=15)
    part.set_defaults(run=steps)
    part = parts.add_parser("accuracy")
    part.add_argument("ratings", nargs="?", help="rating file; or --synthetic")
    part.add_argument("--synthetic", action="store_true")
    part.add_argument("--seeds", type=int, default=5, help="fold and training seeds 0 to N - 1")
    part.add_argument("--presets", nargs="+", default=["ranking"])
    part.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    part.set_defaults(run=accuracy)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
