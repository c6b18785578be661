"""Moments that don't depend on how fast the machine is: commands are killed at them, or a test is told of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import ROOT

#: The end of the name of a file that is on its way to another name.
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")

#: Forks for each command, since importing takes longest. A fork ends itself before it changes another file, once there
#: is one that its pattern names.
_CODE = """
import glob, importlib, json, os, signal, sys
import apache_beam
from nnsparse_stream.pipelines import cli

commands = json.loads(sys.argv[1])
for name in {argv[0] for argv, _ in commands}:
    importlib.import_module(f"nnsparse_stream.pipelines.{name}")
for argv, pattern in commands:
    child = os.fork()
    if not child:
        def end(event, _):
            if event in ("os.rename", "os.remove") and glob.glob(pattern):
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(end)
        os._exit(cli.main(argv))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=sys.stderr)
"""


def kill(*commands: tuple[list[object], Path, str]) -> None:
    """Runs commands, each with its flags, `--output`, and the moment of its end by SIGKILL.

    That is when the output holds a file that a pattern names.
    """
    argument = [([*map(str, argv), "--output", str(output)], str(output / moment)) for argv, output, moment in commands]
    done = subprocess.run([sys.executable, "-c", _CODE, json.dumps(argument)], cwd=ROOT, capture_output=True, text=True)
    ends = [line for line in done.stderr.splitlines() if line.lstrip("-").isdigit()]
    assert ends == [str(-signal.SIGKILL.value)] * len(commands), done.stderr


def before_changes(directory: Path, patch: pytest.MonkeyPatch, note: Callable[[str, str], None]) -> None:
    """Calls `note` before this process changes a file below a directory: with `write` or `remove`, and its name."""
    rename, remove = os.rename, os.remove

    def noted(change: str, path: Any) -> None:
        name = TEMPORARY.sub("", os.path.relpath(path, directory))
        if not name.startswith(".."):
            note(change, name)

    def noted_rename(source: Any, target: Any, **flags: Any) -> None:
        noted("write", target)
        rename(source, target, **flags)

    def noted_remove(path: Any, **flags: Any) -> None:
        noted("remove", path)
        remove(path, **flags)

    patch.setattr(os, "rename", noted_rename)
    patch.setattr(os, "remove", noted_remove)
