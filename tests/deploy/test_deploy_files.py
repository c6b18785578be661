"""Every file below deploy/ is named by a test."""

from __future__ import annotations

import subprocess
import sys

import pytest
from samples import ROOT

DEPLOY = ROOT / "deploy"
#: What other files below deploy/ use, and the test in which they do.
USED_IN = {
    "engines/flink/artefacts.py": "engines/conftest.py",
    "engines/flink/log4j.properties": "engines/conftest.py",
    "engines/flink/pom.xml": "engines/conftest.py",
    "engines/flink/rest.py": "engines/test_stream_flink_kills.py",
    "engines/kafka/pom.xml": "engines/conftest.py",
    "engines/worker_pool.py": "engines/conftest.py",
}
#: Folders whose own test knows all of their files.
KNOWN_BY = {
    "flink": ("deploy/test_flink_manifests.py", "test_every_file_is_in_a_build_or_known"),
    "schedule": ("deploy/test_schedule.py", "test_every_file_is_tested_here"),
}
PROGRAMS = ["engines/flink/__main__.py", "engines/kafka/__main__.py"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_says_what_it_does(program: str) -> None:
    module = ".".join(("deploy", *program.split("/")[:-1]))
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "start" in done.stdout) == (0, True), done.stderr


def test_every_file_below_deploy_is_named_by_a_test() -> None:
    """By its path below deploy/, its name, or its module; pages are tests/test_docs.py's."""
    here = "test_deploy_files.py"
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path.name != here)
    unnamed = []
    for path in sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names = [str(path.relative_to(DEPLOY)), module]
        # What many folders have is no name.
        names += [path.name] if path.name not in ("__init__.py", "__main__.py", "pom.xml", "kustomization.yaml") else []
        if path.suffix == ".md" or names[0] in PROGRAMS or names[0] in USED_IN or names[0].split("/")[0] in KNOWN_BY:
            continue
        if not any(name in tests for name in names):
            unnamed.append(names[0])
    assert not unnamed
    assert all(f"def {test}(" in (ROOT / "tests" / module).read_text() for module, test in KNOWN_BY.values())
    assert all((DEPLOY / name).exists() and (ROOT / "tests" / test).exists() for name, test in USED_IN.items())
