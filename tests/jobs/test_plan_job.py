"""The plan as a command, and the document that quotes it."""

import re
import shlex
from pathlib import Path

import pytest
import tyro

from jobs import plan as job
from jobs.plan import PlanConfig
from jobs.recipes import plan as recipe
from storage.errors import FacetError
from tests.tiny import tiny, write_config

DOC = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


def quoted_plans() -> list[tuple[str, str]]:
    """Every ``facet plan`` command of the document, with the table that follows it."""
    found = re.findall(
        r"```bash\nfacet plan (.*?)```\n+((?:\|[^\n]*\n)+)", DOC.read_text(), re.DOTALL
    )
    return [(command.replace("\\\n", " "), table) for command, table in found]


@pytest.mark.parametrize(("command", "table"), quoted_plans())
def test_the_document_says_what_the_command_prints(command, table):
    config = tyro.cli(PlanConfig, args=shlex.split(command))
    head, _, *lines = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()]
    assert head[1:] == list(config.model)
    assert {name: cells for name, *cells in lines} == {
        name.strip(): cells for name, cells in job.main(config).items()
    }


def test_the_document_quotes_both_data_sets():
    images = [re.search(r"--images (\d+)", command)[1] for command, _ in quoted_plans()]
    assert {"1331167", "400000000"} <= set(images)


def test_measured_throughput_takes_the_place_of_assumed(capsys):
    config = PlanConfig(images=1_000_000, model=("microworld",), images_per_second=500.0)
    found = recipe.project_model(config, "microworld")
    assert found.images_per_second == pytest.approx(500)
    assert found.gpu_hours == pytest.approx(1_000_000 / 500 / 3600)
    job.main(config)
    assert "500 images/s (--images-per-second)" in capsys.readouterr().out


def test_a_dearer_gpu_changes_the_dollars_and_nothing_else():
    cheap, dear = (
        recipe.project_model(PlanConfig(images=10**6, dollars_gpu_hour=price), "ViT-L-14")
        for price in (1.0, 3.0)
    )
    assert dear.gpu_dollars == pytest.approx(3 * cheap.gpu_dollars)
    assert (dear.gpu_hours, dear.month_dollars) == (cheap.gpu_hours, cheap.month_dollars)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "--images 0: must be at least 1"),
        ({"shard_size": -1}, "--shard-size -1: must be at least 1"),
        ({"utilisation": 35.0}, "--utilisation 35: is a fraction between 0 and 1"),
        ({"images_per_second": 0.0}, "--images-per-second 0: must be above 0"),
        ({"components": ()}, "name at least one"),
        ({"model": ("MobileCLIP-S1",)}, "MobileCLIP-S1 .*no sum of parts"),
        ({"model": ("ViT-L-41",)}, "ViT-L-14"),
    ],
)
def test_mistakes_are_refused(changes, message):
    with pytest.raises(FacetError, match=message):
        job.main(PlanConfig(**{"images": 1000, **changes}))


def test_a_config_may_leave_the_size_of_its_patches_to_open_clip(tmp_path):
    said = tiny({"patch_size": 16})
    left = tiny()
    del left["vision_cfg"]["patch_size"]
    models = [write_config(tmp_path, c, f"{n}.json") for n, c in (("said", said), ("left", left))]
    for cells in recipe.rows(PlanConfig(images=1000, model=tuple(models))).values():
        assert cells[0] == cells[1]
