"""What the READMEs say: their code runs, their links lead somewhere, and the first page stays short."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from tests.conftest import compiled_well

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page for folder in ("jaxdiff", "experiments", "convert_weights", ".") for page in (ROOT / folder).glob("*.md")
)
PAGES += sorted((ROOT / "jaxdiff").glob("*/README.md")) + sorted((ROOT / "experiments").glob("*/README.md"))


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [text for name, text in found if name == language]


def test_the_first_page_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["samplers", "operators"])
def test_the_examples_of_a_wing_run(name):
    namespace: dict = {}
    for block in blocks(ROOT / "jaxdiff" / name / "README.md", "python"):
        exec(block, namespace)


@pytest.mark.thorough
def test_the_first_pages_program_prints_what_it_says():
    page = ROOT / "README.md"
    (program,) = blocks(page, "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, {})
    assert printed.getvalue() == blocks(page, "")[-1]


@pytest.mark.thorough
def test_the_notebook_runs(monkeypatch, tmp_path):
    notebook = ROOT / "experiments" / "tour.ipynb"
    assert notebook.stat().st_size < 300_000
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"display": lambda *shown: None}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            with compiled_well():
                exec("".join(cell["source"]), namespace)
