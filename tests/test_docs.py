"""Documentation: its Python examples run, what it links to and names is there, and the API reference is current."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from samples import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [
    *PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "RESULTS.md",
    *sorted((ROOT / "deploy").rglob("*.md")),
]  # fmt: skip
#: Folders whose files a page may name in backquotes, from the checkout.
FOLDERS = "|".join(("nnsparse_stream", "transforms", "pipelines", "tests", "deploy", "docs", "benchmarks", r"\.ci"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors_of(page: Path) -> set[str]:
    """What `#...` may name: headings as code hosts write them, and anchors of HTML."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for examples that write a file
    names = {"__name__": "example"}
    text = page.read_text()
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first_line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * first_line + block[1], str(page), "exec"), names)


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), target


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_files_and_modules_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*[\w/])(?![\w*<{{])", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\bnnsparse_stream(?:\.\w+)+", text):
        parts = name.split(".")
        # The last part, or the last two, may be what a module holds.
        places = [ROOT.joinpath(*parts[:length]) for length in range(max(2, len(parts) - 1), len(parts) + 1)]
        assert any(place.is_dir() or place.with_suffix(".py").exists() for place in places), name


def test_the_api_reference_is_current() -> None:
    """`make api` writes it."""
    generate = runpy.run_path(str(ROOT / "docs" / "generate_api.py"))
    assert generate["PAGE"].read_text() == generate["reference"]()
