"""Blocks marked ``<!-- run -->`` of pages, and the notebook, are run as by a user."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")
# `name` (`file.py`)
NAMED = re.compile(r"`(\w+)` \(`([\w/]+\.py)`\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    missing = [t for t in LINK.findall(page.read_text()) if not (page.parent / t).exists()]
    assert not missing


def test_links_within_a_page_lead_to_a_heading():
    page = (ROOT / "README.md").read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    within = re.findall(r"\]\(#([^)]+)\)", page)
    assert within
    assert set(within) <= headings


def test_every_page_is_reached_from_the_readme():
    readme, *others = [
        {(page.parent / to).resolve() for to in LINK.findall(page.read_text())} for page in PAGES
    ]
    found = list((ROOT / "docs").iterdir())
    assert {page for page in found if page.suffix in (".md", ".ipynb")} <= readme
    assert {page for page in found if page.suffix == ".png"} <= readme.union(*others)


def test_names_that_pages_give_of_files_are_there():
    named = [found for page in PAGES for found in NAMED.findall(page.read_text())]
    assert named
    assert not [
        (n, file) for n, file in named if not re.search(rf"\b{n}\b", (ROOT / file).read_text())
    ]


def test_what_a_new_job_imports_is_there():
    page = (ROOT / "docs" / "add-a-job.md").read_text()
    entry, recipe, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = entry + recipe.replace("from __future__ import annotations\n", "")
    imports = [n for n in ast.parse(code).body if isinstance(n, ast.ImportFrom)]
    ours = [n for n in imports if str(n.module).split(".")[0] in ("jobs", "pipeline", "storage")]
    assert len(ours) > 5
    for node in ours:
        if not str(node.module).endswith("lengths"):  # what the new job is about
            module = import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")


def test_the_tree_of_the_docs_is_the_tree():
    tree = (ROOT / "docs" / "tree.md").read_text().split("```")[1]
    folder, listed = ROOT, set()
    for line in filter(None, tree.splitlines()):
        nested = line.startswith(" ")
        names = re.findall(r"[\w/]+(?:\.py|\.md|/)(?= |$)", line.strip().split("   ")[0])
        assert names, line
        for name in names:
            place = folder / name if nested else ROOT / name
            assert place.exists(), f"{place} is in docs/tree.md"
            listed.add(place)
        folder = folder if nested else ROOT / names[0]
    there = {p for layer in ("storage", "pipeline", "jobs") for p in (ROOT / layer).glob("[!_]*")}
    assert there <= listed, "a file or a wing is not in docs/tree.md"


@pytest.mark.cluster
@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=str)
def test_blocks_run(page, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for language, code in BLOCK.findall(page.read_text()):
        command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PATH": path}, timeout=300,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"


# Runs cells in one name space, each under its own name, and says how many figures there are.
RUN = """import json, sys
space = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), space)
print(len(space["plt"].get_fignums()))"""


def test_the_notebook_runs(tmp_path):
    notebook = ROOT / "docs" / "tour.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    assert len(cells) <= 20
    assert not any(cell.get("outputs") for cell in cells), "it is kept without outputs"
    done = subprocess.run(
        [sys.executable, "-c", RUN, notebook], cwd=tmp_path, timeout=600, capture_output=True,
        text=True, env={**os.environ, "MPLBACKEND": "agg"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert int(done.stdout.splitlines()[-1]) >= 5
