"""docs/deployment.md: its commands are run, or parsed by what they call, unless they say that they need more."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROOT

from deploy.flink import savepoint
from nnsparse_stream.pipelines import cli

TEXT = (ROOT / "docs" / "deployment.md").read_text()
#: Lines of indented blocks, and what stands in backquotes, that is a command.
LINES = re.findall(r"^    (\S.*)$", TEXT, re.MULTILINE)
INLINE = re.findall(r"`((?:nnsparse-stream|python -m|pytest|pip-audit) [^`]*)`", TEXT)
ELSEWHERE = "# needs a "


def own(line: str) -> list[str]:
    return shlex.split(line, comments=True)


@pytest.mark.parametrize("line", [line for line in [*LINES, *INLINE] if line.startswith("nnsparse-stream ")])
def test_a_command_has_these_flags(line: str) -> None:
    words = own(line)
    args = cli.parser_for(words[1]).parse_args(words[2:])
    if words[1] == "nightly":
        assert (ROOT / args.config).exists()


def test_every_other_command_runs_or_says_what_it_needs(tmp_path: Path) -> None:
    others = [line for line in LINES if not line.startswith("nnsparse-stream ")]
    script = [line for line in others if ELSEWHERE not in line]
    assert all(line.startswith("export ") or " --print-only" in line for line in script)
    assert len(script) < len(others)
    done = subprocess.run(
        ["bash", "-euc", "\n".join(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "gcloud dataflow flex-template run" in done.stdout


def test_what_stands_in_the_text_is_there() -> None:
    kinds = {line.split()[0] for line in INLINE}
    assert kinds == {"nnsparse-stream", "python", "pytest", "pip-audit"}
    for line in INLINE:
        words = own(line)
        if words[0] == "pytest":
            assert all((ROOT / path).exists() for path in words[1:]), line
        elif words[0] == "python":
            assert words[2] == savepoint.__name__, line


def test_doctor_looks_at_a_directory(tmp_path: Path) -> None:
    (line,) = [line for line in LINES if line == "nnsparse-stream doctor /tmp"]
    assert cli.main([*own(line)[1:-1], str(tmp_path)]) == 0


def test_costs_are_those_of_the_rates() -> None:
    """Of what is measured in benchmarks/RESULTS.md."""
    rows = re.findall(r"^\| (.*?) \| (.*?) \| ([\d.]+) \|$", TEXT, re.MULTILINE)
    hours = {name: float(told) for name, _, told in rows}
    expected = [100e6 * 0.32e-6, 100e6 * 15 / 1.35e6, 100e6 * 15 / 0.71e6, 1e6 / 1_900, 1e6 / 52]
    assert list(hours.values()) == pytest.approx([seconds / 3600 for seconds in expected], rel=0.06)
    measured = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    assert "| 100,000,000 | 31.5 |" in measured
    assert all(rate in measured for rate in ("712,000", "1,354,000", "1,061 a second"))
    assert "| random | 0.380 | 0.454 | 0.535 |" in measured  # seconds of 1,024 rows
