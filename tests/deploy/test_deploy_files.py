"""Every file below deploy/ is named by a test."""

from __future__ import annotations

from samples import ROOT

DEPLOY = ROOT / "deploy"


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
        if path.suffix != ".md" and not any(name in tests for name in names):
            unnamed.append(names[0])
    assert not unnamed
