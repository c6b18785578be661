"""What a GPU makes of the kernels, of training steps, of the loader and of lists: one command, in four minutes.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --json gpu.json --ratings ml-1m.parquet

From a clone with `pip install --no-deps -e .`; it needs torch, triton, numba, numpy, pyarrow, fsspec, safetensors and
tqdm, and no Beam. In turn:

- copy: the bandwidth, by a copy on the device, which the floors are by; `gpu_steps.floor_bytes` counts their bytes.
- checks: every kernel against the reference in float64 (`gpu_checks.py`).
- steps: whole steps of training by preset `best` with SGD and row-Adam, their kernels alone, the reference backend
  (`torch`), dense layers by torch with SGD, and the floor, over rows and columns (`gpu_steps.py`).
- profile: the longest kernels of a step; launches; what waits for the device; whether two runs are equal bit by bit.
- lists: top-K against the product of matrices alone (`gpu_lists.py`).
- feed: the loader, training that waits for it, an epoch of MovieLens-1M or of a log of its size (`gpu_feed.py`).

The log is repeated --times for all of `feed` but the epoch; its data sets are made while the kernels are checked, and
nothing is timed meanwhile. What fails is told, and the rest still runs; so is what there was no time for. The JSON is
written after each part. Beside each figure that has a bar stands whether it is met. A machine without a GPU tries the
script on tiny sizes, with figures that mean nothing:

    python benchmarks/gpu.py --device cpu --quick
"""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gpu_checks
import gpu_feed
import gpu_steps
import gpu_table
import torch
from gpu_lists import top_k_against_product
from gpu_steps import Size

PARTS = ("copy", "checks", "steps", "profile", "lists", "feed")
#: Seconds after which each part ends at the latest, if all before took as long as they may; `feed` has what is left.
_ENDS = {"copy": 10, "checks": 75, "steps": 150, "profile": 162, "lists": 175}
#: Seconds after which the data sets must have been made.
_MAKING = 90


class Plan(NamedTuple):
    """The sizes of everything."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    units: int
    entries: int
    dense_columns: int
    checked_units: tuple[int, ...]
    copied: int
    profiled: tuple[int, int]
    repeated: tuple[int, int]
    lists: tuple[int, int, int]
    ratings: int
    readers: tuple[int, ...]
    batch_rows: int
    epochs: int


FULL = Plan(
    (128, 1024, 4096), (3_706, 27_000, 100_000, 1_000_000), 512, 150, 100_000, (512, 1), 1 << 31,
    (1024, 100_000), (1024, 27_000), (4096, 27_000, 100), 1_300_000, (1, 2, 4, 8, 16), 1024, 4,
)  # fmt: skip
QUICK = Plan((8,), (60, 200), 8, 5, 60, (8, 1), 1 << 16, (8, 60), (8, 60), (16, 300, 5), 3_000, (1, 2), 64, 2)


class Bar(NamedTuple):
    """A figure and what it is to be; `at_most` or at least."""

    name: str
    figure: float
    bar: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.figure <= self.bar if self.at_most else self.figure >= self.bar

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{self.name:<72} {self.figure:>10.3g}  {sign} {self.bar:<6g} {'met' if self.met else 'MISSED'}"


class Benchmark:
    """The parts, and what they found."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.began, self.deadline = arguments, time.monotonic(), 0.0
        self.device, self.plan = torch.device(arguments.device), QUICK if arguments.quick else FULL
        self.scratch = Path(tempfile.mkdtemp(dir=arguments.directory))
        self.bars: list[Bar] = []
        self.making: gpu_feed.Making | None = None
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor()
        versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
        self.found: dict[str, Any] = {"device": name, "versions": versions, "quick": arguments.quick, "failures": []}

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def over(self) -> bool:
        """Whether the part that runs has to end."""
        return self.spent() > self.deadline

    def run(self) -> None:
        """Runs the parts, in their order, and writes the JSON after each."""
        parts, last = self.arguments.parts, self.arguments.seconds
        try:
            for part in PARTS:
                if part not in parts:
                    continue
                began, self.deadline = self.spent(), min(_ENDS.get(part, last), last)
                # Data sets are made while kernels are checked, and while nothing is timed.
                if part != "copy" and "feed" in parts:
                    self.making = self.making or self._make()
                    if part != "checks" and "data sets" not in self.found:
                        self.found["data sets"] = self.attempt("data sets", self.making.wait, _MAKING - self.spent())
                self.attempt(part, getattr(self, part))
                print(f"[{part}: {self.spent() - began:.1f} s]\n", flush=True)
                self.write()
        finally:
            if self.making:
                self.making.stop()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _make(self) -> gpu_feed.Making:
        arguments = self.arguments
        return gpu_feed.Making(arguments.ratings, self.plan.ratings, arguments.times, self.scratch / "data")

    def attempt(self, what: str, does: Callable[..., Any], *arguments: Any) -> Any:
        """What a call gives, or None where it fails, which is told."""
        try:
            return does(*arguments)
        except Exception as error:  # told, and the rest still runs
            traceback.print_exc()
            self.fail(what, f"{type(error).__name__}: {str(error)[:500]}")
            return None

    def fail(self, what: str, why: str) -> None:
        """Tells a failure."""
        self.found["failures"].append({"what": what, "why": why})
        print(f"FAILED {what}: {why}", flush=True)

    def check(self, name: str, figure: float, bar: float, at_most: bool = True) -> None:
        """Prints a figure with its bar."""
        self.bars.append(Bar(name, figure, bar, at_most))
        print(self.bars[-1], flush=True)

    def write(self) -> None:
        """Writes what there is."""
        self.found["seconds"] = self.spent()
        self.found["bars"] = [{**bar._asdict(), "met": bar.met} for bar in self.bars]
        if path := self.arguments.json:
            beside = path.with_name(path.name + ".part")
            beside.write_text(json.dumps(self.found, indent=1) + "\n")
            beside.replace(path)

    def copy(self) -> None:
        """Measures the bandwidth."""
        rate = self.found["copy, bytes/s"] = gpu_steps.copy_bandwidth(self.device, self.plan.copied)
        print(f"{self.found['device']}: copy {rate / 1e12:.3f} TB/s")

    def checks(self) -> None:
        """Checks the kernels."""
        rows, entries = self.plan.profiled[0], self.plan.entries
        sizes = [Size(rows, 20 * entries, units, entries) for units in self.plan.checked_units]
        found = self.found["checks"] = gpu_checks.run(sizes, self.device, secrets.randbits(31), self.over)
        print(f"{found['checks']} checks of kernels, seed {found['seed']}: {len(found['failed'])} failed")
        print(f"the worst error that passed as float32's is {found['worst float32 error']:.1e}")
        for failed in found["failed"]:
            self.fail(f"check, {failed['what']}", f"{failed['method']} {failed.get('error', '')}")
        for what in found["left out"]:
            self.fail(f"check, {what}", "no time")

    def steps(self) -> None:
        """Times steps over rows and columns."""
        plan = self.plan
        found: list[dict[str, Any]] = []
        self.found["steps"] = found

        def times(size: Size, trainers: dict[str, Any]) -> None:
            for one in gpu_steps.times_of(size, self.device, trainers):
                found.append(one)

        for columns in sorted(plan.columns, reverse=True):
            sizes = [Size(rows, columns, plan.units, plan.entries) for rows in sorted(plan.rows, reverse=True)]
            trainers = self.attempt(f"model of {columns} columns", gpu_steps.trainers_of, sizes[0], self.device)
            for size in sizes if trainers else ():
                if self.over():
                    self.fail(f"steps, {size.rows} rows, {columns} columns", "no time")
                    continue
                self.attempt(f"steps, {size.rows} rows, {columns} columns", times, size, trainers)
                if columns <= plan.dense_columns:
                    told = f"dense steps, {size.rows} rows, {columns} columns"
                    dense = self.attempt(told, gpu_steps.dense_times_of, size, self.device)
                    found.extend([dense] if dense else [])
        if rate := self.found.get("copy, bytes/s"):
            for one in found:
                if "bytes" in one:
                    one["floor, ms"] = 1e3 * sum(one["bytes"].values()) / rate
        gpu_table.show(found)
        for bar in gpu_table.bars(found):
            self.check(*bar)

    def profile(self) -> None:
        """Looks into a step."""
        plan, device = self.plan, self.device
        size = Size(*plan.profiled, plan.units, plan.entries)
        found = self.found["profile"] = self.attempt("profile", gpu_steps.profile, size, device, 10)
        if found:
            print(f"the longest kernels of a step of row_adam, {size.rows} rows, {size.columns} columns:")
            for one in found["longest"]:
                print(f"{one['us a step']:>9.1f} us in {one['calls a step']:>5.1f} calls  {one['name'][:90]}")
            idle = found.get("share without a kernel", float("nan"))
            print(f"{found['launches a step']:.1f} launches a step; no kernel runs in {idle:.1%} of the time")
        size = Size(*plan.repeated, plan.units, plan.entries)
        waits = self.found["waits"] = self.attempt("waits", gpu_steps.waits, size, device) or {}
        for optimiser, why in waits.items():
            print(f"steps of {optimiser} wait for the device: {why or 'never'}")
            if why:
                self.fail(f"steps of {optimiser} never wait", why)
        equal = self.found["repeats"] = self.attempt("repeats", gpu_steps.repeats, size, device) or {}
        for optimiser, same in equal.items():
            print(f"two runs of {optimiser} are equal bit by bit: {same}")
            if not same:
                self.fail(f"two runs of {optimiser} are equal", "they differ")

    def lists(self) -> None:
        """Times top-K."""
        rows, columns, k = self.plan.lists
        found = self.found["lists"] = top_k_against_product(self.device, rows, columns, self.plan.units, k)
        for name, figure in found.items():
            print(f"{name}: {figure}")
            if "wrong" in name and figure:
                self.fail(f"lists: {name}", f"{figure} places")
            elif name.startswith("ranked") and "/" in name:
                self.check(f"lists: {name}, {rows} rows, {columns} columns, top {k}", figure, 1.5)

    def feed(self) -> None:
        """Times an epoch, training on much data, and the loader."""
        plan, device, where = self.plan, self.device, self.scratch / "data"
        found = self.found["feed"] = {}
        runs: list[tuple[str, str, int, list[str], float | None]] = [
            ("epoch", gpu_feed.ONE, plan.epochs, [], None),
            ("training, --cache device", gpu_feed.MANY, 3, ["--cache", "device"], 0.02),
            ("training, --cache none", gpu_feed.MANY, 3, ["--cache", "none"], 0.3),
        ]
        for number, (told, data, epochs, flags, bar) in enumerate(runs):
            if self.over():
                self.fail(told, "no time")
                continue
            arguments = (where / data, self.scratch / f"run-{number}", device, epochs, *flags)
            run = found[told] = self.attempt(told, gpu_feed.train, *arguments)
            if run:
                told = f"{told}, {run['ratings']:,} ratings"
                print(f"{told}: {run['epoch, s']:.3f} s, {run['ratings/s'] / 1e6:.1f} million ratings/s")
                if bar is not None:
                    self.check(f"{told}: share that it waits for data", run["waiting"], bar)
            self.write()
        loaded = found["loader"] = gpu_feed.loader(where, device, plan.readers, plan.batch_rows, self.over)
        for run in loaded["runs"]:
            print(f"loader, --cache {run['cache']}, {run['readers']} readers: {run['entries/s'] / 1e6:.1f} million/s")
        for what in loaded["left out"]:
            self.fail(f"loader, {what}", "no time")
        rates = [run["entries/s"] / 1e6 for run in loaded["runs"] if run["cache"] == "none"]
        if rates:
            self.check(f"loader, --cache none, million entries/s, {loaded['cores']} cores", max(rates), 100.0, False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=230.0, help="end by then")
    parser.add_argument(
        "--ratings", metavar="FILE", help="rating log (Parquet: user, item, rating), MovieLens-1M for instance"
    )
    parser.add_argument("--times", type=int, default=100, help="how often the log is repeated")
    parser.add_argument("--directory", metavar="DIR", help="where the data sets are made, 4 GB (default: the system's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU that torch can use here; to try the script: --device cpu --quick", file=sys.stderr)
        return 2
    if torch.device(arguments.device).index is not None:
        torch.cuda.set_device(arguments.device)
    benchmark = Benchmark(arguments)
    benchmark.run()
    missed = [bar for bar in benchmark.bars if not bar.met]
    failures = benchmark.found["failures"]
    print(
        f"{len(benchmark.bars) - len(missed)} of {len(benchmark.bars)} bars met, {len(failures)} failures, "
        f"{benchmark.found['seconds']:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
