"""The same pipelines on every engine: the same bytes, and the same error where the input is at fault."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import checksums, digest, run_command
from nnsparse_stream.data.dataset import Dataset

BAD = ["u1,i1,much,5", "u1,i2", ",i3,4,6"]
DUPLICATES = 150


class Case(NamedTuple):
    """Inputs, the flags to prepare them, and what an engine is to make of them."""

    prepare: list[str]
    score: list[str]
    expected: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    where = tmp_path_factory.mktemp("case")
    source = where / "in"
    source.mkdir()
    generator = random.Random(5)
    pairs = generator.sample([(f"u{user}", f"i{item}") for user in range(300) for item in range(80)], 6000)
    pairs += generator.sample(pairs, DUPLICATES)
    records = [(*pair, generator.randrange(1, 11) / 2, seconds) for seconds, pair in enumerate(pairs)]
    generator.shuffle(records)
    header = "user,item,rating,time"
    parts = [records[start::4] for start in range(4)]
    lines = ["\n".join([header, *(",".join(map(str, record)) for record in part)]) for part in parts[:2]]
    (source / "a.csv").write_text("\n".join([lines[0], *BAD]))
    (source / "b.csv.gz").write_bytes(gzip.compress(lines[1].encode()))
    names = header.split(",")
    objects = [json.dumps(dict(zip(names, record, strict=True))) for record in parts[2]]
    (source / "c.jsonl").write_text("\n".join([*objects, '{"user": "u1"']))
    columns = dict(zip(names, zip(*parts[3], strict=True), strict=True))
    pq.write_table(pa.table(columns), source / "d.parquet", row_group_size=500)
    prepare = ["--input", str(source), "--axis", "user", "--num_shards", "5", "--timestamp_column", "time"]
    data, model, scores = where / "data", where / "model", where / "scores"
    score = ["--data", str(data), "--model", str(model), "--top_k", "5"]
    for name, flags in (
        ("prepare", [*prepare, "--duplicates", "last", "--output", data]),
        ("train", ["--data", data, "--output", model, "--hidden", 8, "--epochs", 2, "--threads", 1]),
        ("score", [*score, "--output", scores]),
    ):
        done = run_command(name, *flags)
        assert done.returncode == 0, done.stderr
    manifest = Dataset(str(data)).manifest
    counts = {"bad": len(BAD) + 1, "filtered": 0, "duplicates": DUPLICATES}
    assert manifest.records == {"read": len(records) + len(BAD) + 1, **counts}
    return Case(prepare, score, {"data": checksums(data), "scores": checksums(scores)})


def test_same_bytes(
    case: Case, engine_flags: list[str], tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    seconds, found = [], {}
    for name, output, flags in (
        ("prepare", "data", [*case.prepare, "--duplicates", "last"]),
        ("score", "scores", case.score),
    ):
        started = time.monotonic()
        done = run_command(name, *flags, "--output", tmp_path / output, *engine_flags)
        seconds.append(time.monotonic() - started)
        assert done.returncode == 0, done.stderr
        found[output] = checksums(tmp_path / output)
    record_property("seconds", " + ".join(f"{each:.1f}" for each in seconds))
    record_property("checksum", digest(*found.values()))
    assert found == case.expected


def test_an_error_in_the_input(case: Case, engine_flags: list[str], tmp_path: Path) -> None:
    """The message of a worker's InputError arrives, nothing is left at the output, and no traceback is shown."""
    done = run_command("prepare", *case.prepare, "--output", tmp_path / "data", *engine_flags)
    assert done.returncode == 2
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("nnsparse-stream prepare: ")]
    assert "more than once" in message
    assert message.endswith("pass --duplicates first, last or mean, or remove one")
    assert not (tmp_path / "data").exists()
    # Past its own log, Beam prints the traceback of workers that share the driver's standard error.
    if not engine_flags or "--environment_type=EXTERNAL" in engine_flags:
        assert "Traceback" not in done.stderr
