"""jobs -> pipeline -> storage -> nothing of ours; within the pipeline, wings point down too."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "storage": {"storage"},
    "pipeline": {"pipeline", "storage"},
    "jobs": {"jobs", "pipeline", "storage"},
}
OURS = {"storage", "pipeline", "jobs", "tests", "benchmarks"}
# Wings and single rooms of the pipeline, the lowest first: each imports only what stands before it.
ROOMS = (
    "lean", "provenance", "telling", "microworld", "images", "models", "published", "cluster",
    "identity", "subsets", "stats", "texts", "extraction", "status", "run_file", "heads",
    "language", "labels", "search", "repair", "between", "neurons", "heatmaps", "concepts",
    "adversarial", "pages", "rosetta", "explorer",
)  # fmt: skip


def imported(path: Path) -> set[str]:
    """Every module of ours that a file imports, and what it takes from packages, dotted."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_down_only(layer):
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    up = {
        f"{f.relative_to(ROOT)}: {name}"
        for f in files
        for name in imported(f)
        if name.split(".")[0] not in ALLOWED[layer]
    }
    assert not up


def test_wings_of_the_pipeline_point_down_only():
    files = [f for f in (ROOT / "pipeline").rglob("*.py") if f.parent != ROOT / "pipeline"]
    files += [f for f in (ROOT / "pipeline").glob("*.py") if f.stem != "__init__"]
    up = set()
    for file in files:
        room = file.relative_to(ROOT / "pipeline").with_suffix("").parts[0]
        below = ROOMS[: ROOMS.index(room) + 1]
        for name in imported(file):
            layer, *rest = name.split(".")
            if layer == "pipeline" and rest[0] not in below:
                up.add(f"{file.relative_to(ROOT)}: {name}")
    assert not up


def said(path: Path) -> list[str]:
    """Every text of a module, the fixed parts of what is put together included."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_jobs_alone_know_flags_and_commands():
    names = {f.name for job in cli.JOBS for f in fields(cli.config_of(job))}
    ours = re.compile(
        rf"(?<![\w-])--({'|'.join(n.replace('_', '-') for n in sorted(names))})(?![\w-])"
        rf"|\bfacet ({'|'.join(cli.JOBS)})\b"
    )
    assert ours.search("lower --batch-size")
    assert ours.search("run `facet omp`")
    assert not ours.search("docker run --shm-size")
    told = {
        f"{f.relative_to(ROOT)}: {found[0]}"
        for layer in ("pipeline", "storage")
        for f in (ROOT / layer).rglob("*.py")
        for text in said(f)
        if (found := ours.search(text))
    }
    assert not told, "name the setting between backticks, and the work in a Remedy"


def test_jobs_share_steps_and_not_each_others_parts():
    jobs = "|".join([*(name.replace("-", "_") for name in cli.JOBS), "demo"])
    part = re.compile(rf"jobs\.(?:recipes\.)?({jobs})\.\w+")
    parts = {
        f"{f.relative_to(ROOT)}: {name}"
        for f in (ROOT / "jobs").rglob("*.py")
        for name in imported(f)
        if (found := part.fullmatch(name)) and found[1] != f.stem
    }
    assert not parts, "what two jobs do is a step, or the pipeline's"


def test_tests_of_the_pipeline_stand_as_it_does():
    rooms = {p.name for p in (ROOT / "tests" / "pipeline").iterdir() if p.is_dir()}
    assert rooms - {"__pycache__"} <= set(ROOMS)


def test_tests_share_kits_and_import_no_other_tests():
    wrong = {
        f"{f.relative_to(ROOT)}: {name}"
        for f in (ROOT / "tests").rglob("*.py")
        for name in imported(f)
        if name.startswith("benchmarks") or ".test_" in name
    }
    assert not wrong
