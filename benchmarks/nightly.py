"""Nightly training from yesterday's model against training anew: accuracy, lists and time, night by night.

A log is cut by time. Night n has all ratings up to then: `prepare --time_to T --vocabulary` of the night before, then
`train --init` of the night before for some epochs (its model is the next one's `--init`), and `train` anew by the same
preset. Both are judged on the test fold, a hash of user and item, so that no night has trained on what a later one is
judged on. The first night is trained once, for both. Seconds are those of the command `train`, without its imports, on
the clock and of the processor; these tell more where others use the machine.

For MovieLens-1M with its times (`ratings.dat` of the archive), ten nights of a tenth each; or a tenth in ten nights:

    python benchmarks/nightly.py ratings.dat --preset best-user
    python benchmarks/nightly.py ratings.dat --preset ranking --metrics ndcg@100
    python benchmarks/nightly.py ratings.dat --preset best-user --before 90

What only the nights take may follow, the steps of training anew for instance:

    python benchmarks/nightly.py ratings.dat --preset best-user --warm --learning_rate 1e-3

For a synthetic log of the same size, with users and items that come in time:

    python benchmarks/nightly.py --synthetic --preset best-user
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.input_plan import plan_inputs
from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.ratings.reading import read_split
from nnsparse_stream.ratings.synthetic import make_ratings

_OF_ITEMS = ("best", "deep", "best-small")
_DAY = 86_400


class Judged(NamedTuple):
    """The metrics of a model on the test fold, and the seconds of its training, on the clock and of the processor."""

    metrics: dict[str, float]
    seconds: float
    processor: float


def command(*argv: str) -> None:
    assert cli.main(list(argv)) == 0, argv


def synthetic_log(path: Path, days: int = 1000) -> None:
    """Writes a log of a million ratings, with times: users come in time, and so does every fifth item."""
    random, table = np.random.default_rng(0), make_ratings(6_040, 3_706, 1_400_000, 0.9, seed=0).ratings
    numbers = [table[name].dictionary_encode().combine_chunks().indices.to_numpy() for name in ("user", "item")]
    came = random.uniform(0, days, 6_040)[numbers[0]]
    items = np.where(random.random(3_706) < 0.2, random.uniform(0, days, 3_706), 0)[numbers[1]]
    times = (np.maximum(came, items) + random.exponential(days / 20, len(table))) * _DAY
    pq.write_table(table.append_column("timestamp", pa.array(times.astype(np.int64))), path)


def cuts_of(log: str, nights: int, before: float, names: FieldNames) -> list[int]:
    """The times at which all nights but the last end: the first when a share of the ratings is there."""
    plan = plan_inputs([log], names, timed_for="a cut by time")
    blocks = [read.ratings for split in plan.splits for read in read_split(split, plan.schema)]
    times = np.concatenate([block["timestamp"].to_numpy(zero_copy_only=False) for block in blocks])
    return [int(time) for time in np.quantile(times, np.linspace(before, 1.0, nights)[:-1], method="lower")]


def trained(arguments: argparse.Namespace, data: str, run: Path, *flags: str) -> Judged:
    """Trains and judges a model."""
    started, used = time.perf_counter(), time.process_time()
    command(
        "train", "--data", data, "--output", str(run), "--preset", arguments.preset, "--threads", "1", *flags,
        *arguments.train,
    )  # fmt: skip
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    figures = run.with_suffix(".json")
    command("evaluate", "--data", data, "--model", str(run), "--metrics", arguments.metrics, "--json", str(figures))
    return Judged(json.loads(figures.read_text())["metrics"], seconds, processor)


def all_nights(arguments: argparse.Namespace, where: Path) -> list[dict[str, Judged]]:
    """What the models of each night but the first reach, `warm` and `anew`."""
    axis = "item" if arguments.preset in _OF_ITEMS else "user"
    names = FieldNames(timestamp="timestamp") if arguments.synthetic else FieldNames()
    cuts = cuts_of(arguments.ratings, arguments.nights, arguments.before / 100, names)
    found: list[dict[str, Judged]] = []
    yesterday: tuple[str, Path] | None = None
    for night in range(arguments.nights):
        data, warm = str(where / f"data-{night}"), where / f"warm-{night}"
        flags = ["--time_to", str(cuts[night])] if night < len(cuts) else []
        flags += ["--vocabulary", yesterday[0]] if yesterday else []
        flags += ["--timestamp_column", "timestamp"] if arguments.synthetic else []
        command(
            "prepare",
            "--input",
            arguments.ratings,
            "--output",
            data,
            "--axis",
            axis,
            "--folds",
            arguments.folds,
            *flags,
        )
        if yesterday is None:
            trained(arguments, data, warm)
        else:
            init = ["--init", str(yesterday[1]), "--epochs", str(arguments.epochs), *arguments.warm]
            found.append({"warm": trained(arguments, data, warm, *init),
                          "anew": trained(arguments, data, where / f"anew-{night}")})  # fmt: skip
            print(lines_of(found[-1:], night + 1)[1], flush=True)
        yesterday = (data, warm)
    return found


def lines_of(found: list[dict[str, Judged]], first: int = 2) -> list[str]:
    """A table of nights, `first` and those after it: of each metric that of the night, anew, and their difference."""
    names = [name for name, value in found[0]["anew"].metrics.items() if value is not None]
    lines = [
        "night"
        + "".join(f"{name:>12} {'anew':>8} {'less':>8}" for name in names)
        + f"{'seconds':>9} {'anew':>7} {'share':>6} {'processor':>9}"
    ]
    for night, both in enumerate(found, start=first):
        warm, anew = both["warm"], both["anew"]
        figures = "".join(
            f"{warm.metrics[name]:>12.4f} {anew.metrics[name]:>8.4f} {warm.metrics[name] - anew.metrics[name]:>+8.4f}"
            for name in names
        )
        lines.append(
            f"{night:>5}{figures}{warm.seconds:>9.1f} {anew.seconds:>7.1f} {warm.seconds / anew.seconds:>6.0%} "
            f"{warm.processor / anew.processor:>9.0%}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="?", help="rating file with times; or --synthetic")
    parser.add_argument("--synthetic", action="store_true", help="a log that is drawn")
    parser.add_argument("--preset", default="best-user")
    parser.add_argument("--metrics", default="rmse,ndcg@100")
    parser.add_argument("--folds", default="90,0,10")
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument(
        "--before", type=float, metavar="P", help="percent of the log that the first night has (default: 100 / nights)"
    )
    parser.add_argument("--epochs", type=int, default=2, help="of a night, from the one before (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--train", type=str.split, default=[], metavar="FLAGS", help="of both trainings, in one text")
    parser.add_argument("--warm", nargs=argparse.REMAINDER, default=[], help="flags of the nights; last of all")
    arguments = parser.parse_args()
    if arguments.before is None:
        arguments.before = 100 / arguments.nights
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.synthetic:
            arguments.ratings = str(Path(scratch) / "log.parquet")
            synthetic_log(Path(scratch) / "log.parquet")
        found = all_nights(arguments, Path(scratch))
    print(f"\n{arguments.preset} {' '.join([*arguments.train, *arguments.warm])}")
    print("\n".join(lines_of(found)))
    for name in ("seconds", "processor"):
        warm, anew = (sum(getattr(both[which], name) for both in found) for which in ("warm", "anew"))
        print(f"all nights, {name}: {warm:.1f}, anew {anew:.1f}, {warm / anew:.0%}")
    if arguments.json:
        plain = [{which: judged._asdict() for which, judged in both.items()} for both in found]
        arguments.json.write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
