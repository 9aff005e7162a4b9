"""What the code imports is what pyproject.toml names, and no more."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"storage", "pipeline", "jobs"}
# What fsspec imports by the scheme of a URL, and xarray for arrays that are read when needed.
BY_OTHERS = {"s3fs", "gcsfs", "dask"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ]", r)[0].lower().replace("_", "-") for r in requirements}


def imported() -> set[str]:
    """Distributions of all that the three layers import anywhere in their files."""
    modules = set()
    for path in [p for layer in OURS for p in (ROOT / layer).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
    known = packages_distributions()
    foreign = modules - OURS - set(sys.stdlib_module_names)
    assert foreign <= known.keys(), f"not installed: {foreign - known.keys()}"
    return {known[module][0].lower().replace("_", "-") for module in foreign}


def test_what_is_imported_is_named_and_what_is_named_is_imported():
    extras = PROJECT["optional-dependencies"]
    named = names(PROJECT["dependencies"] + extras["gcs"] + extras["words"])
    assert imported() | BY_OTHERS == named


@pytest.mark.parametrize("extra", ["gcs", "words"])
def test_development_has_every_extra(extra):
    (own,) = (r for r in PROJECT["optional-dependencies"]["dev"] if r.startswith(PROJECT["name"]))
    assert extra in own


@pytest.mark.parametrize(
    ("absent", "code", "extra"),
    [
        ("gcsfs", "from storage.objects import object_store; object_store('gs://b/x')", "gcs"),
        ("wordfreq", "from pipeline.texts import load_pool; load_pool('common-words:5')", "words"),
    ],
)
def test_what_is_not_there_says_how_to_get_it(absent, code, extra):
    hidden = f"import sys; sys.modules[{absent!r}] = None; {code}"
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert f"pip install '{PROJECT['name']}[{extra}]'" in done.stderr.splitlines()[-1]
