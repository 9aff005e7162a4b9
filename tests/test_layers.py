"""jobs -> pipeline -> storage -> nothing of ours."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {"storage": {"storage"}, "pipeline": {"pipeline", "storage"}}
OURS = {"storage", "pipeline", "jobs", "tests", "benchmarks"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_down_only(layer):
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    up = {f"{f.relative_to(ROOT)}: {n}" for f in files for n in imported(f) & OURS - ALLOWED[layer]}
    assert not up
