"""Seconds of an epoch of training on one core, and the share of them spent waiting for data, for each preset.

Prepares a rating file, rows are items, trains by the command line with one thread, and reads the run's metrics.jsonl.
The first epoch, in which the compiled kernels are loaded, is stated apart; of the others the best and the median. For
MovieLens-1M:

    python benchmarks/epoch.py ml-1m.parquet --json epoch.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from nnsparse_stream.pipelines import cli


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def train(data: str, run: Path, preset: str, epochs: int) -> dict[str, Any]:
    flags = ("--preset", preset, "--epochs", str(epochs), "--threads", "1")
    command("train", "--data", data, "--output", str(run), *flags)
    first, *later = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(epoch["seconds"] for epoch in later)
    return {
        "preset": preset,
        "ratings": first["ratings"],
        "first_seconds": first["seconds"],
        "best_seconds": min(epoch["seconds"] for epoch in later),
        "median_seconds": statistics.median(epoch["seconds"] for epoch in later),
        "median_ratings_per_second": statistics.median(epoch["ratings_per_second"] for epoch in later),
        "first_waiting": first["waiting_for_data"],
        "waiting": sum(epoch["seconds"] * epoch["waiting_for_data"] for epoch in later) / seconds,
        "highest_waiting": max(epoch["waiting_for_data"] for epoch in later),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", help="rating file")
    parser.add_argument("--presets", nargs="+", default=["cfn", "best"])
    parser.add_argument("--epochs", type=int, default=8, help="of each, the first apart; at least 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = str(Path(scratch) / "data")
        command("prepare", "--input", arguments.ratings, "--output", data, "--axis", "item")
        results = [train(data, Path(scratch) / preset, preset, arguments.epochs) for preset in arguments.presets]
    print(
        f"\n{'preset':<10} {'first':>7} {'best':>7} {'median':>7}  (s)  "
        f"{'ratings/s':>10} {'waiting':>9} {'first':>7} {'highest':>8}"
    )
    for figures in results:
        print(
            f"{figures['preset']:<10} {figures['first_seconds']:>7.2f} {figures['best_seconds']:>7.2f} "
            f"{figures['median_seconds']:>7.2f}{'':>15}{figures['median_ratings_per_second']:>12,.0f} "
            f"{figures['waiting']:>9.1%} {figures['first_waiting']:>7.1%} {figures['highest_waiting']:>8.1%}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
