"""The column vocabulary of a worker: mapped from the machine's file against held in each process's memory.

For each number and kind of ids (`dense`: 0, 1, 2, ... in another order; `sparse`: integers far apart; `string`:
`item-` and a number) the vocabulary's Parquet parts are written, and then read by processes of their own:

- `memory`: one, which holds all (`Vocabulary.read`);
- `mapped`: one, which makes the file and maps it, then three more at once, which map it too.

Each encodes ratings in blocks of 65,536, the better of two times. They are drawn uniformly, the worst case: little
repeats in a block, and no page is better known than another. Times are processor seconds, which other work on the
machine disturbs least. Private memory is what a process has gained in RssAnon, after opening and at its peak until
then; on Linux only.

    python benchmarks/vocabulary.py --json vocabulary.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.data.dataset import write_columns
from nnsparse_stream.ids import mapped_lookup as lookup
from nnsparse_stream.ids.vocabulary import Vocabulary, columns_table
from nnsparse_stream.ids.vocabulary_parts import PART_IDS
from nnsparse_stream.storage import files as storage

KINDS = ("dense", "sparse", "string")
BLOCK = 1 << 16


def ids_at(kind: str, index: np.ndarray, num_ids: int) -> pa.Array:
    """The ids of some indices."""
    if kind == "sparse":  # an odd multiplier is a bijection
        return pa.array((index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64))
    number = pa.array(index * 1_000_003 % num_ids)
    return number if kind == "dense" else pc.binary_join_element_wise("item", number.cast(pa.string()), "-")


def write_parts(url: str, kind: str, num_ids: int) -> tuple[list[str], list[str]]:
    """Writes a vocabulary as `prepare` does: URLs and checksums of its parts."""
    parts = -(-num_ids // PART_IDS)
    files = []
    for part in range(parts):
        index = np.arange(part * PART_IDS, min(num_ids, (part + 1) * PART_IDS))
        table = columns_table(ids_at(kind, index, num_ids), pa.array(np.full(len(index), 10)), part * PART_IDS)
        files.append(write_columns(url, part, parts, table))
    return [storage.join(url, file.path) for file in files], [file.sha256 for file in files]


def private_bytes(process: int | str) -> int:
    return int(Path(f"/proc/{process}/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def blocks(vocabulary: Vocabulary, ratings: int) -> Iterator[tuple[pa.Array, np.ndarray]]:
    random = np.random.default_rng(0)
    for start in range(0, ratings, BLOCK):
        index = random.integers(0, len(vocabulary), min(BLOCK, ratings - start))
        yield vocabulary.decode(index), index


def encode(vocabulary: Vocabulary, ratings: int) -> float:
    """Seconds to encode so many ratings."""
    seconds = 0.0
    for ids, index in blocks(vocabulary, ratings):
        started = time.process_time()
        found = vocabulary.encode(ids)
        seconds += time.process_time() - started
        assert np.array_equal(found, index)
    return seconds


def serve(side: str, urls: list[str], checksums: list[str], ratings: int) -> None:
    """Opens the vocabulary, says what that took, encodes, says what that took, and ends: each when it is told to."""
    lookup.PART_IDS = 0  # the least number of ids here is that of one part
    Vocabulary.from_table(columns_table(pa.array([1]), pa.array([1]))).encode(pa.array([1]))  # what is loaded on use
    print(private_bytes("self"), flush=True)
    sys.stdin.readline()
    started = time.process_time()
    if side == "memory":
        vocabulary = Vocabulary.read(urls, checksums)
    else:
        vocabulary = lookup.open_vocabulary(urls, checksums, 1 << 31)
    seconds = time.process_time() - started
    pa.default_memory_pool().release_unused()
    print(json.dumps([seconds, private_bytes("self")]), flush=True)
    sys.stdin.readline()
    print(min(encode(vocabulary, ratings) for _ in range(2)), flush=True)
    sys.stdin.readline()


class Worker:
    """A process that serves; `peak_bytes` is the most private memory that it was seen to have while it opened."""

    def __init__(self, side: str, scratch: str, urls: list[str], checksums: list[str], ratings: int) -> None:
        case = Path(scratch, "case.json")
        case.write_text(json.dumps([urls, checksums, ratings]))
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--side", side, str(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": scratch},
        )
        self._before = int(self._hear())
        self.peak_bytes = 0

    def open(self) -> dict[str, float]:
        opened = threading.Event()
        watch = threading.Thread(target=self._watch, args=[opened])
        watch.start()
        seconds, private = json.loads(self._told())
        opened.set()
        watch.join()
        figures = {"seconds": seconds, "private_bytes": max(0, private - self._before)}
        return {**figures, "peak_private_bytes": max(self.peak_bytes - self._before, figures["private_bytes"])}

    def encode(self) -> float:
        return float(self._told())

    def close(self) -> None:
        self._process.communicate("\n")
        assert self._process.returncode == 0

    def _watch(self, opened: threading.Event) -> None:
        while not opened.wait(0.005):
            self.peak_bytes = max(self.peak_bytes, private_bytes(self._process.pid))

    def _told(self) -> str:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the process failed"
        return line


def measure(kind: str, num_ids: int, ratings: int, where: str | None) -> dict[str, Any]:
    """The figures of one vocabulary, both ways."""
    with tempfile.TemporaryDirectory(dir=where) as scratch:
        case = (scratch, *write_parts(scratch, kind, num_ids), ratings)
        memory = Worker("memory", *case)
        figures: dict[str, Any] = {"memory": {**memory.open(), "encode_seconds": memory.encode()}}
        memory.close()
        maker = Worker("mapped", *case)
        figures["mapped"] = maker.open()
        (file,) = Path(scratch).glob("nnsparse-stream-*/vocabulary-*")
        figures["file_bytes"] = file.stat().st_size
        figures["mapped"]["encode_seconds"] = maker.encode()
        others = [Worker("mapped", *case) for _ in range(3)]
        opened = [worker.open() for worker in others]
        figures["others_open_seconds"] = max(other["seconds"] for other in opened)
        figures["private_bytes_of_4"] = figures["mapped"]["private_bytes"] + sum(
            other["private_bytes"] for other in opened
        )
        for worker in (maker, *others):
            worker.close()
        assert not file.exists()
    ratio = figures["mapped"]["encode_seconds"] / figures["memory"]["encode_seconds"]
    return {"kind": kind, "ids": num_ids, "ratings": ratings, **figures, "encode_ratio": ratio}


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        serve(sys.argv[2], *json.loads(Path(sys.argv[3]).read_text()))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", default="1000000,10000000", help="numbers of ids, separated by commas")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--ratings", type=int, default=10_000_000)
    parser.add_argument("--scratch", metavar="DIR", help="where the vocabularies go (default: the system's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    runs = []
    print("seconds; MB of private memory; `of 4`: of four processes that map one file")
    print(
        f"{'kind':>7} {'ids':>11}  {'read':>6} {'make':>6} {'open':>6}  {'encode':>6} {'mapped':>6} {'ratio':>5}  "
        f"{'bytes an id':>11}  {'memory':>6} {'its peak':>8} {'mapped':>6} {'its peak':>8} {'of 4':>6}"
    )
    for num_ids in map(int, arguments.ids.split(",")):
        for kind in arguments.kinds.split(","):
            run = measure(kind, num_ids, arguments.ratings, arguments.scratch)
            runs.append(run)
            memory, mapped = run["memory"], run["mapped"]
            print(
                f"{kind:>7} {num_ids:>11,}  {memory['seconds']:>6.2f} {mapped['seconds']:>6.2f} "
                f"{run['others_open_seconds']:>6.3f}  {memory['encode_seconds']:>6.3f} "
                f"{mapped['encode_seconds']:>6.3f} {run['encode_ratio']:>5.2f}  {run['file_bytes'] / num_ids:>11.1f}  "
                f"{memory['private_bytes'] / 1e6:>6,.0f} {memory['peak_private_bytes'] / 1e6:>8,.0f} "
                f"{mapped['private_bytes'] / 1e6:>6,.0f} {mapped['peak_private_bytes'] / 1e6:>8,.0f} "
                f"{run['private_bytes_of_4'] / 1e6:>6,.0f}",
                flush=True,
            )
    worst = max(run["encode_ratio"] for run in runs)
    print(f"largest ratio of encoding, mapped to memory: {worst:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"largest_encode_ratio": worst, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
