"""The same pipelines on every engine: the same bytes, and the same error where the input is at fault."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import checksums, digest, run_command, run_commands
from nnsparse_stream.data.dataset import Dataset

#: Of the commands, where each starts two workers that import everything anew.
FEW = ("data", "lists", "pairs of a blend", "figures of a blend")
BAD = ["u1,i1,much,5", "u1,i2", ",i3,4,6"]
DUPLICATES = 150


class Case(NamedTuple):
    """Inputs, the flags to prepare them, and what an engine is to make of them.

    Attributes:
        prepare: flags of `prepare` but for `--duplicates` and `--output`.
        commands: name of an output, and the command with its flags that writes it.
        expected: checksums of the files of each output.
    """

    prepare: list[str]
    commands: dict[str, list[str]]
    expected: dict[str, dict[str, str]]


def write(commands: dict[str, list[str]], where: Path, *engine_flags: str) -> tuple[list[float], dict[str, Any]]:
    """Runs commands of a case, one after the other; gives the seconds of each, and the checksums of what it wrote."""
    argvs = []
    for output, (name, *flags) in commands.items():
        if name == "evaluate":
            (where / output).mkdir()
            flags = [*flags, "--json", str(where / output / "figures.json")]
        else:
            flags = [*flags, "--output", str(where / output)]
        argvs.append([name, *flags, *engine_flags])
    seconds = run_commands(argvs)
    return seconds, {output: checksums(where / output) for output in commands}


@pytest.fixture(scope="session")
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
    prepare = ["--input", str(source), "--num_shards", "5", "--timestamp_column", "time"]
    sides = {axis: {what: str(where / f"{what}-{axis}") for what in ("data", "run")} for axis in ("user", "item")}
    made = {}
    for axis, side in sides.items():
        made[f"data-{axis}"] = ["prepare", *prepare, "--duplicates", "last", "--axis", axis]
        made[f"run-{axis}"] = ["train", "--data", side["data"], "--hidden", "8", "--epochs", "2", "--threads", "1"]
    write(made, where)
    manifest = Dataset(sides["user"]["data"]).manifest
    counts = {"bad": len(BAD) + 1, "filtered": 0, "duplicates": DUPLICATES}
    assert manifest.records == {"read": len(records) + len(BAD) + 1, **counts}
    asked = [*(f"{user},{item}" for user, item in pairs[:2000]), *(f"u{user},new" for user in range(50)), "new,i1"]
    generator.shuffle(asked)
    (where / "pairs.csv").write_text("\n".join(["user,item", *asked]))
    alone = ["--data", sides["user"]["data"], "--model", sides["user"]["run"]]
    both = {what: ",".join(side[what] for side in sides.values()) for what in ("data", "run")}
    blend = ["--data", both["data"], "--model", both["run"]]
    listed, asked_for = ["--top_k", "5"], ["--pairs", str(where / "pairs.csv")]
    commands = {
        "data": ["prepare", *prepare, "--axis", "user", "--duplicates", "last"],
        "lists": ["score", *alone, *listed],
        "pairs": ["score", *alone, *asked_for],
        "figures": ["evaluate", *alone],
        "lists of a blend": ["score", *blend, *listed],
        "pairs of a blend": ["score", *blend, *asked_for],
        "figures of a blend": ["evaluate", *blend],
    }
    _, expected = write(commands, where)
    return Case([*prepare, "--axis", "user"], commands, expected)


def test_same_bytes(
    case: Case, engine_flags: list[str], tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    several = "--direct_running_mode=multi_processing" in engine_flags
    commands = {name: command for name, command in case.commands.items() if not several or name in FEW}
    seconds, found = write(commands, tmp_path, *engine_flags)
    record_property("seconds", " + ".join(f"{each:.1f}" for each in seconds))
    record_property("checksum", digest(*found.values()))
    assert found == {name: case.expected[name] for name in commands}


def test_an_error_in_the_input(case: Case, engine_flags: list[str], tmp_path: Path) -> None:
    """The message of a worker's InputError arrives, nothing is left at the output, and no traceback is shown."""
    done = run_command("prepare", *case.prepare, "--output", tmp_path / "data", *engine_flags)
    assert done.returncode == 2
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("nnsparse-stream prepare: ")]
    assert "more than once" in message
    assert "pass --duplicates first, last or mean, or remove one" in message
    assert not (tmp_path / "data").exists()
    # Past its own log, Beam prints the traceback of workers that share the driver's standard error.
    if not engine_flags or "--environment_type=EXTERNAL" in engine_flags:
        assert "Traceback" not in done.stderr
