"""Processor time of a training step of lists over the number of columns, optimiser included, on one core.

    python benchmarks/ranking_step.py

The steps are those of the presets `ranking-dense` and `ranking-sparse`: rows of so many entries, at columns whose
popularity follows a power law (`--power 0`: uniform, hardly any comes twice in a minibatch). The median of the steps
counts, after three that warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.objectives.presets import PRESETS
from nnsparse_stream.objectives.ranking_objective import RankingObjective
from nnsparse_stream.objectives.ranking_recipe import RankingRecipe
from nnsparse_stream.sparse.rows import SparseRows

BASE = 27_000
#: Presets, and entries of a row: MovieLens' and a shop's.
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


def milliseconds(
    recipe: RankingRecipe, entries: int, num_columns: int, power: float, repeats: int
) -> tuple[float, int]:
    """The median processor time of a step, and the columns that occur in a minibatch."""
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
    for step in range(repeats + 3):
        rows = minibatch(random, recipe.batch_rows, entries, bounds)
        noise.manual_seed(step)
        started = time.process_time()
        objective.train_batch(rows, 0.0)
        times.append(1e3 * (time.process_time() - started))
    return float(np.median(times[3:])), len(rows.columns.unique())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[3_706, 27_000, 100_000, 1_000_000])
    parser.add_argument("--power", type=float, default=0.8, help="popularity falls by rank ^ -POWER (default: 0.8)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `train` does
    results = []
    for preset, entries in STEPS:
        recipe = PRESETS[preset]
        assert isinstance(recipe, RankingRecipe)
        print(f"{preset}: {recipe.batch_rows} rows of {entries} entries, {recipe.sampled_columns} sampled columns")
        base = None
        for columns in arguments.columns:
            time_of_step, distinct = milliseconds(recipe, entries, columns, arguments.power, arguments.repeats)
            base = time_of_step if columns == BASE else base
            ratio = f"   {time_of_step / base:.2f} x that of {BASE:,}" if base else ""
            print(f"{columns:>9} columns {time_of_step:>8.1f} ms   {distinct:>6} of them occur{ratio}", flush=True)
            results.append({"preset": preset, "columns": columns, "milliseconds": time_of_step, "occur": distinct})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
