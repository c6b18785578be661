"""The wheel and the sdist: one top-level package with everything in it, nothing beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROOT

#: What a checkout holds besides: folders that a wheel must not bring, and what a build reads.
CHECKOUT = (
    "nnsparse_stream", "transforms", "pipelines", "deploy", "tests", "benchmarks", "docs",
    "pyproject.toml", "README.md", "LICENSE",
)  # fmt: skip
SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


def run(*argv: object, cwd: Path, **environment: str) -> str:
    """The standard output of a Python program that must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, argv)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_below(package: Path) -> set[str]:
    """The paths in a package, the links of a checkout followed, without what Python leaves."""
    return {
        os.path.relpath(os.path.join(directory, name), package)
        for directory, _, names in os.walk(package, followlinks=True)
        for name in names
        if not directory.endswith("__pycache__")
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A copy of the checkout, for a build writes into it, and the sdist of that copy."""
    where = tmp_path_factory.mktemp("checkout")
    for name in CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, where / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, where / name)
    built = tmp_path_factory.mktemp("sdist")
    return {"wheel": where, "sdist": built / run("-c", SDIST, built, cwd=where).splitlines()[-1]}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installation_is_one_package_with_all_of_it(sources: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """`pip install` of a checkout builds a wheel of it; of an sdist, a wheel of that."""
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    flags = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--no-compile",
    ]
    run("-m", "pip", "install", *flags, "--target", target, sources[kind], cwd=elsewhere)

    names = {path.name for path in target.iterdir() if path.suffix != ".dist-info"}
    assert names == {"bin", "nnsparse_stream"}
    found = files_below(target / "nnsparse_stream")
    assert found == files_below(ROOT / "nnsparse_stream")
    assert {"py.typed", "transforms/beam_providers.yaml", "pipelines/cli.py"} <= found

    code = (
        "import importlib.util as u, nnsparse_stream.transforms, nnsparse_stream.pipelines.cli as cli\n"
        "print(cli.__file__, [u.find_spec(name) for name in ('transforms', 'pipelines', 'deploy', 'tests')])"
    )
    cli = target / "nnsparse_stream" / "pipelines" / "cli.py"
    assert run("-c", code, cwd=elsewhere, PYTHONPATH=str(target)) == f"{cli} [None, None, None, None]\n"
    script = target / "bin" / "nnsparse-stream"
    assert "usage: nnsparse-stream" in run(script, "--help", cwd=elsewhere, PYTHONPATH=str(target))


def test_ruff_refuses_the_folders_as_packages_of_their_own() -> None:
    code = "import transforms\nimport pipelines.cli\nfrom transforms.read import ReadRatings\n"
    flags = ["--select", "TID251", "--output-format", "concise", "--no-cache", "--stdin-filename", "tests/any.py"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *flags, "-"], cwd=ROOT, input=code, capture_output=True, text=True
    )
    refused = [line for line in done.stdout.splitlines() if "TID251" in line]
    assert len(refused) == 3, done.stdout + done.stderr
    assert "import nnsparse_stream.transforms" in refused[0]
    assert "import nnsparse_stream.pipelines" in refused[1]
