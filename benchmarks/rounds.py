"""Throughput and memory of training in rounds: K workers, each a process with one thread, against one worker alone.

The log is synthetic: 138,000 users x 27,000 items, 22 million ratings, 20 million of them in the training fold
(`--folds 90,5,5`). Commands run by turns, one worker alone (without rounds) before several, so that both sides meet the
same other work. Everything counts, from the start of a command to its end: imports, compilation, validation, files.
Beside that, epochs alone and rounds alone. Ratings a second are those of the training fold, times the epochs.
`processor` is what a command and all its processes took (Linux). The peak is that of the process that trains; of
rounds, the largest of the workers'.

Where a run in rounds spends its time, in shares of the command's:

- start: to the first round: imports, Beam, processes, the survey, the first checkpoint;
- computing: minibatches, mean of the workers; waiting: of the mean worker for the slowest;
- files: reading the model, writing changes and states; merging: from the last change to the whole checkpoint, the
  engine's barriers in it;
- between: from a checkpoint to the next round, in which an epoch is validated;
- end: what follows the last round.

Where other work takes the machine's time, compare processor seconds, and pairs of runs of the same minutes.

    python benchmarks/rounds.py --workers 2 --epochs 3 --pairs 2 --directory DIR --json rounds.json
    python benchmarks/rounds.py --workers 2 --epochs 3 --preset ranking-dense --train --units 128
    python benchmarks/rounds.py --workers 2 --epochs 1 --engine processes prism flink --train --hidden 512
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings

SHARES = ("start", "computing", "waiting", "files", "merging", "between", "end")


def prepare(directory: Path) -> str:
    """The data set, if it is not there; drawing the log takes 2 GB."""
    data, log = directory / "data", directory / "log.parquet"
    if not (data / "manifest.json").exists():
        pq.write_table(make_ratings(138_000, 27_000, 25_000_000, 0.9, seed=0).ratings, log)
        flags = ["--axis", "user", "--folds", "90,5,5"]
        assert cli.main(["prepare", "--input", str(log), "--output", str(data), *flags]) == 0
    return str(data)


def processor_seconds(pid: int, seen: dict[int, float]) -> None:
    """Notes what a process and those below it have taken so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        below = [children.read_text().split() for children in Path(f"/proc/{pid}/task").glob("*/children")]
    except FileNotFoundError:  # it has ended
        return
    seen[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    for child in itertools.chain(*below):
        processor_seconds(int(child), seen)


def run(argv: list[str]) -> tuple[float, float, float]:
    """Runs a command; gives when it began, its seconds and its processor seconds."""
    seen: dict[int, float] = {}
    begun, started = time.time(), time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "nnsparse_stream.pipelines", *argv], stdout=subprocess.DEVNULL)
    while child.poll() is None:
        processor_seconds(child.pid, seen)
        time.sleep(0.1)
    assert child.returncode == 0, argv
    return begun, time.perf_counter() - started, sum(seen.values())


@contextlib.contextmanager
def flags_of(engine: str, workers: int, directory: Path) -> Iterator[list[str]]:
    """The Beam options of an engine that runs meanwhile; none for processes of the command's own."""
    if engine == "processes":
        yield []
        return
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from deploy.engines.flink.cluster import FlinkCluster
    from deploy.engines.prism import Prism

    served = FlinkCluster(directory, task_managers=workers, memory=4096) if engine == "flink" else Prism(directory)
    try:
        type(served).install()
        served.start()
        yield served.flags()
    finally:
        served.stop()


def train(
    arguments: argparse.Namespace, data: str, output: Path, workers: int, beam: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains with so many workers: the figures of the command, of its epochs, and of its rounds."""
    flags = ["--preset", arguments.preset, "--epochs", str(arguments.epochs), "--threads", "1", "--overwrite"]
    flags += ["--workers", str(workers), *arguments.train, *beam]
    begun, seconds, processor = run(["train", "--data", data, "--output", str(output), *flags])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = Manifest.read(data).fold_entries["train"] * arguments.epochs
    found = {
        "workers": workers,
        "seconds": seconds,
        "processor": processor,
        "ratings_per_second": trained / seconds,
        "of_epochs": statistics.median(line["ratings_per_second"] for line in lines),
        "peak_bytes": max(line["peak_memory_bytes"] for line in lines),
        "validation": lines[-1]["validation"],
    }
    rounds = [one for line in lines for one in line.get("rounds", ())]
    return found | (in_rounds(rounds, begun, seconds) if rounds else {})


def in_rounds(rounds: list[dict[str, Any]], begun: float, seconds: float) -> dict[str, Any]:
    """Where a run in rounds spent its time, and what its rounds told."""
    begins = [one["time"] - one["seconds"] for one in rounds]
    computing = sum(one["median_seconds"] for one in rounds)  # of two workers the mean
    slowest, merging = (sum(one[name] for one in rounds) for name in ("slowest_seconds", "merging_seconds"))
    spent = {
        "start": begins[0] - begun,
        "computing": computing,
        "waiting": slowest - computing,
        "files": sum(one["seconds"] for one in rounds) - slowest - merging,
        "merging": merging,
        "between": sum(begin - one["time"] for one, begin in zip(rounds[:-1], begins[1:], strict=True)),
        "end": begun + seconds - rounds[-1]["time"],
    }
    return {
        "rounds": len(rounds),
        "of_rounds": statistics.median(one["ratings_per_second"] for one in rounds),
        "round_seconds": statistics.median(one["seconds"] for one in rounds),
        "change_bytes": statistics.median(one["change_bytes"] for one in rounds),
        "shares": {name: spent[name] / seconds for name in SHARES},
    }


def show(found: dict[str, Any], alone: dict[str, Any]) -> None:
    """A run as a line of the table, and where its time went."""
    ratio = found["ratings_per_second"] / alone["ratings_per_second"]
    print(
        f"{found['workers']:>7} {found['seconds']:>8.1f} {found['processor']:>10.1f} "
        f"{found['ratings_per_second']:>10,.0f} {ratio:>6.2f} {found['of_epochs']:>10,.0f} "
        f"{found['of_epochs'] / alone['of_epochs']:>6.2f} {found['processor'] / alone['processor']:>10.2f} "
        f"{found['peak_bytes'] / 1e6:>8,.0f}"
    )
    if "shares" in found:
        spent = "  ".join(f"{name} {share:.1%}" for name, share in found["shares"].items())
        changes = f"changes of {found['change_bytes'] / 1e6:,.0f} MB"
        print(f"        {found['rounds']} rounds of {found['round_seconds']:.1f} s (median), {changes}; {spent}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="K, each against one worker alone")
    engines = ["processes", "prism", "flink"]
    parser.add_argument("--engine", nargs="+", choices=engines, default=engines[:1], help="where several workers train")
    parser.add_argument("--pairs", type=int, default=1, help="how often each is run against one alone")
    parser.add_argument("--preset", default="best-user")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where log and data set stay; a temporary one unless given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="further flags of train; last of all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data, output = prepare(arguments.directory or Path(scratch)), Path(scratch) / "run"
        print(f"\n{'':>37}of the command {'':>9} of epochs")
        heads = f"{'seconds':>8} {'processor':>10} {'ratings/s':>10} {'ratio':>6} {'ratings/s':>10} {'ratio':>6}"
        print(f"{'workers':>7} {heads} {'processor':>10} {'peak, MB':>8}")
        results = []
        for _ in range(arguments.pairs):
            for workers in arguments.workers:
                alone = train(arguments, data, output, 1)
                show(alone, alone)
                for engine in arguments.engine:
                    with flags_of(engine, workers, Path(scratch) / engine) as beam:
                        found = train(arguments, data, output, workers, beam)
                    print(engine)
                    show(found, alone)
                    results.append({"alone": alone, "engine": engine, "workers": found})
    ratios = [one["workers"]["ratings_per_second"] / one["alone"]["ratings_per_second"] for one in results]
    print(f"ratings/s of the command, against one worker alone: {statistics.median(ratios):.2f} (bar for K = 2: 1.6)")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
