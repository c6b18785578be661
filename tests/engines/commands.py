"""Runs the project's commands as processes, and compares what they wrote."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(name: str, *flags: object) -> list[str]:
    """A command of the project as a process."""
    return [sys.executable, "-m", f"pipelines.{name}", *map(str, flags)]


def run_command(name: str, *flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(name, *flags), capture_output=True, text=True, cwd=ROOT)


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of a directory, by its path in it."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def digest(*sums: dict[str, str]) -> str:
    """One short checksum of all files and their names."""
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:12]
