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
# What torch brings along where it has CUDA, and is imported there alone.
WITH_CUDA = {"triton"}
EXTRAS = (
    "s3", "gcs", "http", "words", "texts", "mat", "ann", "sentences", "draw", "llm", "explore",
    "cluster",
)  # fmt: skip


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
    named = names(PROJECT["dependencies"] + [r for extra in EXTRAS for r in extras[extra]])
    assert imported() - WITH_CUDA | BY_OTHERS == named


def test_development_has_every_extra():
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {*EXTRAS, "all", "dev"}
    assert extras["all"] == [f"{PROJECT['name']}[{','.join(EXTRAS)}]"]
    assert f"{PROJECT['name']}[all]" in extras["dev"]


def test_an_object_store_and_the_web_are_not_needed_where_nothing_is_read_from_them(tmp_path):
    """Taking a model apart over pictures of this disk, with nothing but what is always there."""
    absent = ["s3fs", "botocore", "gcsfs", "aiohttp", "wordfreq", "h5py", "faiss", "transformers"]
    absent += ["sentence_transformers", "diffusers"]
    code = (
        f"import sys; sys.modules |= dict.fromkeys({absent!r}); from jobs import cli; "
        "sys.argv[1:] = 'extract --images microworld:n=8,seed=1,split=test --model microworld"
        f" --pretrained microworld --store {tmp_path} --workers here'.split(); cli.main()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


@pytest.mark.parametrize(
    ("absent", "code", "extra"),
    [
        ("s3fs", "from storage import open_store; open_store('s3://b/x')", "s3"),
        ("botocore", "from storage import open_store; open_store('s3://b/x')", "s3"),
        (
            "aiohttp",
            "from pipeline.images.listing import list_images; list_images('http://h/x.tar')",
            "http",
        ),
        (
            "aiohttp",
            "from pipeline.images.addresses import Addresses; Addresses().read('http://h/x')",
            "http",
        ),
        ("gcsfs", "from storage.objects import object_store; object_store('gs://b/x')", "gcs"),
        ("wordfreq", "from pipeline.texts import load_pool; load_pool('common-words:5')", "words"),
        (
            "h5py",
            "from pipeline.images.masks import parse_masks; parse_masks('gtsegs:x.mat')",
            "mat",
        ),
        (
            "diffusers",
            "from pipeline.adversarial.choices import parse_drawer as p; p('diffusers:x')",
            "draw",
        ),
        ("faiss", "from pipeline.search.choices import faiss_or_refuse as f; f()", "ann"),
    ],
)
def test_what_is_not_there_says_how_to_get_it(absent, code, extra):
    hidden = f"import sys; sys.modules[{absent!r}] = None; {code}"
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert f"pip install '{PROJECT['name']}[{extra}]'" in done.stderr.splitlines()[-1]
