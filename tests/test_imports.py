"""What must not be imported: the layers run one way, preparation has no torch, `--help` neither torch nor Beam."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnsparse_stream.pipelines.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "nnsparse_stream": {"apache_beam", "transforms", "pipelines"},
    "transforms": {"pipelines"},
    "pipelines": set(),
}


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN[package], path


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_neither_torch_nor_beam(name):
    code = (
        "import sys; from nnsparse_stream.pipelines.cli import main\n"
        "status = main([sys.argv[1], '--help'] if len(sys.argv) > 1 else "
        f"['{name}', '--help']); bad = {{'torch', 'apache_beam', 'pyarrow'}} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else status)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert f"usage: nnsparse-stream {name}" in done.stdout
    assert "Beam's own pipeline options" in done.stdout


def test_help_takes_less_than_half_a_second():
    # The best of three: the bound is the promise, a busy machine is not its breach.
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert python("from nnsparse_stream.pipelines.cli import main; main(['prepare', '--help'])").returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


def test_importing_the_package_imports_no_torch_and_names_resolve():
    done = python(
        "import sys, nnsparse_stream; assert not {'torch', 'numba'} & set(sys.modules); import nnsparse_stream as n; "
        "[getattr(n, name) for name in n.__all__]; "
        "import nnsparse_stream.transforms as t; [getattr(t, name) for name in t.__all__]"
    )
    assert done.returncode == 0, done.stderr
