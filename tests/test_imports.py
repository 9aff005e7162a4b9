"""What stays light: modules and commands that do without libraries that take long to import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import cli
from pipeline.heads.tables import ABLATIONS, DESCRIPTIONS
from pipeline.neurons.tables import NEURONS
from storage.results import save_result
from tests.storage import stores

ROOT = Path(__file__).resolve().parents[1]
STORAGE = [f"storage.{p.stem}" for p in sorted((ROOT / "storage").glob("[!_]*.py"))]
PAGES = sorted((ROOT / "pipeline" / "explorer" / "web").glob("[!_]*.py"))
MODELS, SCIENCE = ("torch", "open_clip", "timm", "torchvision"), ("zarr", "xarray", "pandas")
# Modules, and what importing them must leave out.
LIGHT = {
    "the store": (STORAGE, (*MODELS, "ray")),
    "the plan": (
        ["pipeline.extraction.cost", "pipeline.extraction.plan", "pipeline.heatmaps.memory"],
        (*MODELS, *SCIENCE, "ray"),
    ),
    "tables that are shown": (
        ["jobs.recipes.show", "jobs.recipes.status"],
        (*MODELS, "ray", "matplotlib", "scipy"),
    ),
    "pools": (["pipeline.texts"], (*MODELS, *SCIENCE, "ray")),
    "images": (
        ["pipeline.images.listing", "pipeline.images.load", "pipeline.images.again"],
        MODELS,
    ),
    "neurons' truth": (["pipeline.neurons.truth"], ("scipy.stats",)),
    "pictures": (["pipeline.microworld.draw"], (*MODELS, *SCIENCE, "ray", "sklearn")),
    "pages in a browser": (
        ["jobs.recipes.explore", *(f"pipeline.explorer.web.{p.stem}" for p in PAGES)],
        (*MODELS, "ray", "matplotlib", "sklearn"),
    ),
    "commands": (["jobs.cli", "jobs.settings", "pipeline.run_file"], (*MODELS, *SCIENCE, "ray")),
}


@pytest.mark.parametrize("name", LIGHT)
def test_it_is_imported_without(name):
    modules, without = LIGHT[name]
    code = f"import sys, {', '.join(modules)}; print({set(without)!r} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


# -- commands ------------------------------------------------------------------------------

# Whoever asks for help, or made a mistake, waits for none of these; nor who asks for tables, but
# for those by which a store is read.
HEAVY = {
    "torch", "open_clip", "torchvision", "timm", "ray", "dask", "sklearn", "matplotlib", "xarray",
    "zarr",
}  # fmt: skip
READERS = {"xarray", "zarr", "dask"}
CODE = """
import atexit, json, sys
told = open(sys.argv[1], "w")
atexit.register(lambda: told.write(json.dumps(sorted(sys.modules))))
from jobs.cli import main
sys.argv = ["facet", *sys.argv[2:]]
main()
"""
NEW = "extract --images microworld:n=4 --store {tmp}/new"
ASKED = ["", "--help", "--version", *(f"{job} --help" for job in cli.JOBS)]
ROW = {pa.int64(): 1, pa.float64(): 0.5, pa.string(): "a"}
# Commands that end with exit status 2, and what they say.
REFUSED = {
    "extrcat --help": "Did you mean 'extract'?",
    "extract --imges photos": "--images",
    f"{NEW} --model ViT-B-3 --pretrained none": "near names: ViT-B-32",
    f"{NEW} --model MobileCLIP-S1 --pretrained none": "cannot be decomposed",
    f"{NEW} --model ViT-B-32 --pretrained laion": "is neither a tag nor a file",
    f"{NEW} --model microworld --pretrained gone.pt": "is neither a tag nor a file",
    "extract --images {tmp}/gone --model microworld --pretrained microworld --store {tmp}/new": (
        "do not exist"
    ),
    "rosetta --images {tmp}/gone --models microworld microworld-cnn --out {tmp}/new": (
        "do not exist"
    ),
    "models dinov9": "near names that are supported",
    "second-order --store {tmp}/gone": "there is no store at",
    "reduce --store {tmp}/gone": "no store at",
    "index --store {tmp}/gone": "no store at",
    "encode-texts --store {tmp}/gone --pool microworld": "no store at",
    "textspan --store {tmp}/gone --pool microworld": "no store at",
    "label --store {tmp}/gone": "no store at",
    "label --store {tmp}/gone --with gpt": "give lexicon, openai:MODEL or transformers:PATH",
    "compare-models {tmp}/gone": "no store at",
    "ablate --store {tmp}/gone --classes microworld:shape": "no store at",
    "compare --store {tmp}/gone --a x==1 --b x==2": "no store at",
    "align --from {tmp}/gone --to {tmp}/gone": "no store at",
    "concepts --store {tmp}/gone --image 0": "no store at",
    "heatmap --store {tmp}/gone --image 0 --text star": "no store at",
    "adversarial --store {tmp}/gone --drawn star --target heart": "no store at",
    "repair --store {tmp}/gone --classes microworld:shape --groups place --search": "no store at",
    "search --store {tmp}/gone --image 0": "no store at",
    "segment --store {tmp}/gone --classes microworld:shape": "no store at",
    "explore --store {tmp}/gone": "no store at",
    "omp --store {tmp}/gone --mlp-layers 1 --pool microworld": "no store at",
    "invert --rosetta {tmp}/gone --images microworld:n=4": "no mining with a generator at",
    "status --store {tmp}/gone": "no store at",
    "show textspan --store {tmp}/gone": "no store at",
    "show neuron --store {tmp}/gone --layer 1 --neuron 1": "no store at",
    "run {tmp}/gone.yaml": "gone.yaml",
}


def facet(line: str, tmp: Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A command, and the libraries of `HEAVY` that it imported."""
    words = line.format(tmp=tmp).split()
    told = tmp / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", CODE, told, *words], cwd=tmp, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
    )  # fmt: skip
    return done, HEAVY & set(json.loads(told.read_text()))


@pytest.mark.parametrize("line", ASKED)
def test_help_imports_nothing_that_takes_long(line, tmp_path):
    done, imported = facet(line, tmp_path)
    assert done.returncode == (0 if line else 2), done.stderr
    assert imported == set()


@pytest.mark.parametrize("line", REFUSED)
def test_a_mistake_is_told_before_anything_that_takes_long_is_imported(line, tmp_path):
    done, imported = facet(line, tmp_path)
    assert done.returncode == 2, done.stderr
    assert REFUSED[line] in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert imported == set()


def test_a_plan_is_arithmetic(tmp_path):
    done, imported = facet("plan --images 1000 --model ViT-L-14 microworld", tmp_path)
    assert done.returncode == 0, done.stderr
    assert imported == set()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A finished store with something found of it."""
    folder = tmp_path_factory.mktemp("kept") / "s"
    store = stores.fill(stores.new_store(str(folder)))
    kept = {
        "textspan": {"descriptions": DESCRIPTIONS["descriptions"]},
        "ablate": ABLATIONS,
        "second_order": NEURONS,
    }
    for job, schemas in kept.items():
        tables = {name: pa.table([[ROW[f.type]] for f in s], s) for name, s in schemas.items()}
        found = {"study": ["mlps"], "truth": False}
        save_result(store.url, job, found, found, tables=tables)
    return folder


@pytest.mark.parametrize("what", ["status", "show textspan", "show ablate", "show second-order"])
def test_tables_are_shown_by_what_reads_a_store(what, store, tmp_path):
    done, imported = facet(f"{what} --store {store}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert imported <= READERS


def test_what_is_kept_is_found_again_without_a_model(tmp_path):
    images = "--images microworld:n=12,seed=1 --model microworld --pretrained microworld"
    for line in (
        f"extract {images} --store s --workers here",
        "textspan --store s --pool microworld --layers 3 --texts-per-head 2 --workers here",
        "reduce --store s --workers here",
    ):
        first, _ = facet(line, tmp_path)
        assert first.returncode == 0, first.stderr
        again, imported = facet(line, tmp_path)
        assert "all is done: this very run was finished before" in again.stdout, again.stderr
        assert imported <= READERS
