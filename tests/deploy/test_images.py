"""The images' Dockerfile: linted, pinned to constraints.txt, and its parts that run without a build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from samples import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = ROOT / "deploy" / "images"
DOCKERFILE = FOLDER / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split(";")[0].strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
)


def instructions(stage: str | None = None) -> list[str]:
    """The Dockerfile's instructions, each in one line; those of one stage."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if stage is None:
        return lines
    begin = next(number for number, line in enumerate(lines) if line.endswith(f" AS {stage}"))
    end = next((n for n, line in enumerate(lines[begin + 1 :], begin + 1) if line.startswith("FROM ")), len(lines))
    return lines[begin:end]


def lint(*words: str | Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(words, env={**os.environ, "PATH": path}, capture_output=True, text=True)


def test_hadolint_finds_nothing() -> None:
    done = lint("hadolint", "--failure-threshold", "style", DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", sorted((ROOT / "deploy").rglob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    """run.sh, build.sh and gpu_boot.sh are among them."""
    done = lint("shellcheck", script)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(script, os.X_OK)


def test_versions_are_those_of_the_pins_and_of_the_project() -> None:
    bases = [line.split()[1] for line in instructions() if line.startswith("FROM ") and ":" in line]
    pythons = {re.search(r"python(?:_sdk)?:?(3\.?\d+)", base.replace("beam_python", "python"))[1] for base in bases}  # type: ignore[index]
    assert {python.replace(".", "") for python in pythons} == {"311"}
    assert f"apache/beam_python3.11_sdk:{PINS['apache-beam']}" in bases
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11")
    for name in ("apache-beam", "torch"):
        (wanted,) = [Requirement(text) for text in PROJECT["dependencies"] if Requirement(text).name == name]
        assert wanted.specifier.contains(PINS[name])
    installs = [line for line in instructions() if " install " in line and "/opt/venv" in line]
    assert len(installs) == 2, "one for each of cpu and gpu"
    assert all(line.count("--python /opt/venv") == line.count("--constraint /constraints.txt") for line in installs)
    # Beam's boot ends at once where there is no pip.
    assert "pip" in PINS
    assert all(' pip "$(echo /wheels/*.whl)[' in line for line in installs)


def test_what_is_installed_are_the_project_and_extras_that_it_has() -> None:
    asked = {extras for line in instructions() for extras in re.findall(r"\.whl\)\[([a-z0-9,]+)\]", line)}
    (extras,) = asked
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"]) - {"dev", "bench"}


def test_labels_say_version_and_licence() -> None:
    (label,) = [line for line in instructions("runtime") if line.startswith("LABEL ")]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', label))
    assert (labels["version"], labels["licenses"]) == (PROJECT["version"], PROJECT["license"])
    assert labels["description"] == PROJECT["description"]
    assert {"source", "revision", "title"} <= set(labels)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_has_no_tools_and_runs_as_nobody_who_writes_below_tmp(target: str) -> None:
    made = [*instructions("runtime"), *instructions(target)]
    (added,) = [line for line in made if line.startswith(("RUN", "ADD"))]  # all else is made in other stages
    assert "useradd --uid 10001" in added
    assert [line for line in made if line.startswith("USER ")] == ["USER 10001:10001"]
    environment = dict(part.split("=", 1) for line in made if line.startswith("ENV ") for part in line.split()[1:])
    assert all(environment[name].startswith("/tmp/") for name in ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"))
    assert (environment["HOME"], environment["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"]) == ("/tmp", "1")
    launched = environment["FLEX_TEMPLATE_PYTHON_PY_FILE"]
    assert f"COPY deploy/dataflow/launch.py {Path(launched).parent}/" in made
    assert f"COPY --from={target}-sbom /sbom.cdx.json /opt/nnsparse-stream/" in made


def test_what_is_copied_is_not_ignored() -> None:
    """Dockerfile.dockerignore lets in what the Dockerfile needs, and that is there."""
    kept = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    for line in instructions():
        if line.startswith("COPY ") and "--from" not in line:
            sources = [word for word in line.split()[1:-1] if not word.startswith("--") and word != "."]
            assert set(sources) <= kept, line


def test_triton_finds_what_compile_triton_compiled_and_needs_no_compiler(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    cache = tmp_path / "cache"
    compiled = subprocess.run(
        [sys.executable, FOLDER / "compile_triton.py"], env={**os.environ, "TRITON_CACHE_DIR": str(cache)}
    )
    assert compiled.returncode == 0
    (module,) = cache.rglob("cuda_utils*.so")
    # A driver's library, as far as loading the module goes.
    symbols = subprocess.run(["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True)
    names = re.findall(r"\bU (cu[A-Z]\w+)", symbols.stdout)
    driver = tmp_path / "driver" / "libcuda.so.1"
    driver.parent.mkdir()
    source = "\n".join(f"int {name}(void) {{ return 0; }}" for name in names)
    link = ["gcc", "-shared", f"-Wl,-soname,{driver.name}", "-o", driver, "-x", "c", "-"]
    subprocess.run(link, input=source, text=True, check=True)
    # The key of the cache names the platform, which Python asks `file` for, where there is one (not in images).
    path = tmp_path / "bin"
    path.mkdir()
    if found := shutil.which("file"):
        (path / "file").symlink_to(found)
    load = "from triton.backends.nvidia.driver import CudaUtils; CudaUtils(); print('loaded')"
    environment = {
        "TRITON_CACHE_DIR": str(cache),
        "LD_LIBRARY_PATH": str(driver.parent),
        "PATH": str(path),
        "HOME": "/tmp",
    }
    done = subprocess.run([sys.executable, "-c", load], env=environment, capture_output=True, text=True)
    assert done.stdout == "loaded\n", done.stderr
    # Without it, there would have to be a compiler.
    done = subprocess.run(
        [sys.executable, "-c", load],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path / "empty")},
        capture_output=True,
        text=True,
    )
    assert "Failed to find C compiler" in done.stderr


def test_gpu_boot_fills_the_cache_and_becomes_boot_or_the_command(tmp_path: Path) -> None:
    """With the image's paths below a directory."""
    text = (FOLDER / "gpu_boot.sh").read_text()
    for path in ("/opt/triton", "/opt/apache"):
        assert text.count(path) == 1
        text = text.replace(path, f"{tmp_path}{path}")
    boot = tmp_path / "opt" / "apache" / "beam" / "boot"
    boot.parent.mkdir(parents=True)
    boot.write_text('#!/bin/sh\necho "boot $*"\n')
    boot.chmod(0o755)
    (tmp_path / "opt" / "triton" / "KEY").mkdir(parents=True)
    (tmp_path / "opt" / "triton" / "KEY" / "cuda_utils.so").touch()
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    # A container may be started once more on the same /tmp.
    for words, said in ((["--id=1-1", "a b"], "boot --id=1-1 a b\n"), (["echo", "a b"], "a b\n"), ([], "boot \n")):
        done = subprocess.run(
            ["sh", "-c", text, "gpu_boot.sh", *words], env=environment, capture_output=True, text=True
        )
        assert done.stdout == said, done.stderr
    assert (tmp_path / "cache" / "KEY" / "cuda_utils.so").exists()
