"""What must not be imported: rooms import downwards, preparation no torch, `--help` neither torch nor Beam."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import ROOT

import nnsparse_stream
from nnsparse_stream import transforms
from nnsparse_stream.pipelines.cli import COMMANDS

#: The rooms of the library, and those right below each: what is below them, it may import as well, and `errors`.
BELOW = {
    "storage": set(),
    "sparse": set(),
    "kernels": {"sparse"},
    "nn": {"kernels", "sparse"},
    "ids": {"storage"},
    "ratings": {"ids", "storage"},
    "data": {"ratings", "ids", "storage", "sparse"},
    "evaluation": {"nn", "data"},
    "objectives": {"nn", "data"},
    "feeding": {"nn", "data"},
    "checkpoints": {"objectives"},
    "training": {"checkpoints", "feeding", "evaluation"},
    "rounds": {"training"},
    "grids": {"training"},
    "scoring": {"checkpoints", "evaluation"},
    "streaming": {"scoring"},
}
LIBRARY = ROOT / "nnsparse_stream"
#: Rooms of preparation; rows of a fold, which become tensors, are the one module of `data` that knows torch.
WITHOUT_TORCH = [
    path
    for room in ("storage", "ids", "ratings", "data")
    for path in sorted((LIBRARY / room).glob("*.py"))
    if path.stem not in ("fold_rows", "__init__")
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@functools.cache
def imports(path: Path) -> list[str]:
    """The modules that a module imports anywhere in it, also in its functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def rooms_of(path: Path) -> set[str]:
    """The rooms (or modules beside them) of ours that a module imports."""
    parts = [name.split(".") for name in imports(path)]
    return {part[1] for part in parts if part[0] == "nnsparse_stream" and len(part) > 1}


def everything_below(room: str) -> set[str]:
    return BELOW[room].union({"errors"}, *(everything_below(other) for other in BELOW[room]))


def modules_of(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from (LIBRARY / room).rglob("*.py")


def test_every_room_has_its_line() -> None:
    rooms = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert rooms == {*BELOW, "transforms", "pipelines"}
    for room in BELOW:
        assert room not in everything_below(room)  # no circle


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_what_is_below_it(room: str) -> None:
    for path in modules_of(room):
        assert rooms_of(path) <= {room, *everything_below(room)}, path


def test_transforms_import_no_pipelines_and_the_library_neither_nor_beam() -> None:
    for path in modules_of("transforms"):
        assert "pipelines" not in rooms_of(path), path
    for path in [*modules_of(*BELOW), *LIBRARY.glob("*.py")]:
        assert not {"transforms", "pipelines"} & rooms_of(path), path
        assert not [name for name in imports(path) if name.split(".")[0] == "apache_beam"], path


@pytest.mark.parametrize("room", BELOW)
def test_a_room_says_what_it_may_import(room: str) -> None:
    """The docstring's sentence and the table above agree."""
    text = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text()))
    sentence = re.search(r"May import .*?\.(\s|$)", text or "", re.DOTALL)
    assert sentence, text
    named = set(re.findall(r"`(\w+)`", sentence[0])) & {*BELOW, "errors"}
    assert named - {"errors"} == BELOW[room]
    begin = re.search(r"Begin with `(\w+)", text or "")
    assert begin, text
    assert (LIBRARY / room / f"{begin[1]}.py").exists()


@pytest.mark.parametrize("path", WITHOUT_TORCH, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_preparation_knows_no_torch(path: Path) -> None:
    heavy = ("torch", "nnsparse_stream.sparse", "nnsparse_stream.data.fold_rows")
    assert not [name for name in imports(path) if name.startswith(heavy)]


def test_what_preparation_imports_brings_no_torch() -> None:
    modules = [f"nnsparse_stream.{path.parent.name}.{path.stem}" for path in WITHOUT_TORCH]
    done = python(
        "import sys, importlib, nnsparse_stream; assert not {'torch', 'numba', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "assert not {'torch', 'numba', 'apache_beam'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_help_imports_neither_torch_nor_beam() -> None:
    """Nor anything else that takes long, so that it comes at once."""
    heavy = {"torch", "numba", "apache_beam", "pyarrow", "numpy", "pandas", "grpc", "fsspec"}
    done = python(
        "import sys; from nnsparse_stream.pipelines.cli import main\n"
        f"for name in {list(COMMANDS)}:\n"
        "    assert main([name, '--help']) == 0\n"
        f"    assert not {heavy} & set(sys.modules), (name, {heavy} & set(sys.modules))\n"
    )
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: nnsparse-stream {name}" in done.stdout
    assert done.stdout.count("Beam's own pipeline options") == len(COMMANDS)


@pytest.mark.parametrize("package", [nnsparse_stream, transforms], ids=lambda package: package.__name__)
def test_public_names_resolve(package: object) -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__
