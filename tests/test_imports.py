"""What stays light: modules that are imported without libraries they could do without."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STORAGE = [f"storage.{p.stem}" for p in sorted((ROOT / "storage").glob("[!_]*.py"))]
MODELS, SCIENCE = ("torch", "open_clip", "timm", "torchvision"), ("zarr", "xarray", "pandas")
# Modules, and what importing them must leave out.
LIGHT = {
    "the store": (STORAGE, (*MODELS, "ray")),
    "the plan": (
        ["pipeline.extraction.cost", "pipeline.extraction.plan"],
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
