"""Units shared between models, from pictures or a generator to tables, on a real Ray."""

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import zarr
from PIL import Image

from jobs import rosetta
from jobs.recipes import rosetta as recipe
from jobs.rosetta import RosettaConfig
from pipeline.images.errors import SourceError
from pipeline.images.resize import Resize
from pipeline.microworld.draw import picture
from pipeline.models.errors import ModelError
from pipeline.rosetta import setup
from pipeline.rosetta.pictures import load_pictures
from storage.errors import FacetError, StoreMismatch
from storage.images import read_rows
from storage.ledger import read_part, write_part
from storage.results import latest_result
from storage.rosetta import open_correlations, read_cards
from tests.pipeline.rosetta.kit import TOYS
from tests.processes import kill_in_mid_run
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[2]
PLAIN, OTHER, DEAD = (f"{TOYS}:{name}" for name in ("plain", "other", "dead"))
SLUG = {name: name.replace(":", "-") for name in (PLAIN, OTHER, DEAD)}
SHARDS = 10
PICTURES = f"microworld:n={SHARDS * 40},seed=6"


def config(out: Path, **changes) -> RosettaConfig:
    fields = {"models": (PLAIN, OTHER, DEAD), "images": "microworld:n=60,seed=4",
              "out": str(out), "shard_size": 16, "batch_size": 8, "workers": "here"}  # fmt: skip
    return RosettaConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> recipe.RosettaRun:
    return rosetta.main(config(tmp_path_factory.mktemp("rosetta") / "out"))


def place(run: recipe.RosettaRun) -> Path:
    return Path(run.result.url).parents[2]


def markers(out: Path) -> dict[str, int]:
    """Spans that are done, and when; read again where a run merged some of them meanwhile."""
    while True:
        paths = (out / "sums").rglob("*.json")
        with contextlib.suppress(FileNotFoundError):
            return {
                str(p.relative_to(out)): p.stat().st_mtime_ns for p in paths if p.name[:1].isdigit()
            }


def arrays(out: Path) -> dict[str, np.ndarray]:
    """Every array that is kept."""
    groups = [*(out / "correlations.zarr").iterdir(), *(out / "sums").rglob("*.zarr")]
    return {
        f"{path.relative_to(out)}/{name}": np.asarray(array[...])
        for path in groups
        if path.is_dir()
        for name, array in zarr.open_group(path, mode="r").arrays()
    }


def test_three_models_share_concepts_and_all_is_kept(found):
    concepts, buddies, units = found.concepts, found.buddies, found.units
    assert len(concepts)
    assert set(concepts["model"]) == {OTHER, DEAD}
    for _, rows in concepts.groupby(["hub_layer", "hub_unit"]):
        assert set(rows["model"]) == {OTHER, DEAD}
    assert concepts["concept"].is_monotonic_increasing
    assert concepts["concept"].min() == 0
    # The first and the third model see pictures alike; a unit's own pair is in no table.
    own = buddies[(buddies["model_a"] == PLAIN) & (buddies["model_b"] == PLAIN)]
    assert len(own)
    assert not ((own["layer_a"] == own["layer_b"]) & (own["unit_a"] == own["unit_b"])).any()
    correlations = open_correlations(str(place(found)), SLUG[PLAIN], SLUG[OTHER])
    cards = read_cards(str(place(found)))
    row = concepts[concepts["model"] == OTHER].iloc[0]
    numbers = [
        [x.name for x in card.layers].index(layer) for card, layer in
        ((cards[SLUG[PLAIN]], row["hub_layer"]), (cards[SLUG[OTHER]], row["layer"]))
    ]  # fmt: skip
    a = cards[SLUG[PLAIN]].offsets[numbers[0]] + row["hub_unit"]
    b = cards[SLUG[OTHER]].offsets[numbers[1]] + row["unit"]
    assert float(correlations["whole"][a, b]) == np.float32(row["correlation"])
    kept = latest_result(str(place(found)), "rosetta")
    assert kept.config["models"] == [PLAIN, OTHER, DEAD]
    for name, table in (("concepts", concepts), ("buddies", buddies), ("units", units)):
        back = kept.table(name).to_pandas()
        assert back.equals(table[back.columns].astype(back.dtypes))


def test_layers_that_give_no_maps_are_listed(found, capsys):
    left_out = {"act4": "has one position"}
    assert found.result.provenance["layers_left_out"] == dict.fromkeys(
        (PLAIN, OTHER, DEAD), left_out
    )
    rosetta.main(config(place(found)))
    said = " ".join(capsys.readouterr().out.split())
    assert "1 layer(s) left out (act4): has one position" in said


def test_dead_units_are_listed(found):
    lost = found.units[found.units["state"] == "dead"]
    assert (DEAD, "act1", 2) in set(lost[["model", "layer", "unit"]].itertuples(False, None))
    named = found.buddies[(found.buddies["model_a"] == DEAD) & (found.buddies["layer_a"] == "act1")]
    assert 2 not in set(named["unit_a"])


def test_the_same_command_again_does_nothing_and_says_the_same(found, capsys):
    before = markers(place(found))
    again = rosetta.main(config(place(found)))
    assert again.concepts.equals(found.concepts)
    assert markers(place(found)) == before
    said = capsys.readouterr().out
    assert "0 shards" in said
    assert "next: facet show rosetta --store" in said


def test_another_hub_and_another_model_only_add_pairs(found, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(place(found), out)
    before = markers(out)
    more = rosetta.main(config(out, hub=OTHER, models=(PLAIN, OTHER, DEAD)))
    assert set(more.concepts["model"]) == {PLAIN, DEAD}
    after = markers(out)
    assert {k: after[k] for k in before}.keys() == before.keys()
    new = {name.split("/")[1] for name in after.keys() - before.keys()}
    assert new == {f"{SLUG[OTHER]}--{SLUG[OTHER]}"}


def test_a_generators_images_and_units(tmp_path):
    run = rosetta.main(
        config(
            tmp_path / "out", images=None, generator=f"{TOYS}:painter", seeds=40,
            models=(PLAIN, OTHER),
        )
    )  # fmt: skip
    assert run.result.provenance["hub"] == f"{TOYS}:painter"
    assert set(run.concepts["hub_layer"]) <= {"act1", "act2"}
    assert set(run.units["model"]) == {f"{TOYS}:painter", PLAIN, OTHER}
    assert read_part(str(tmp_path / "out"), 2)["index"].to_pylist() == list(range(32, 40))


def test_bad_images_are_left_out_and_counted(tmp_path, capsys, found):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(np.asarray(picture(4, "test", i)[0])).save(folder / f"{i}.png")
    (folder / "5.png").write_bytes(b"not a picture")
    settings = config(tmp_path / "out", images=str(folder), models=(PLAIN, OTHER))
    with refused(FacetError, "1 of 9 images are bad, more than --max-bad 0.01"):
        rosetta.main(settings)
    run = rosetta.main(replace(settings, max_bad=0.2))
    assert "8 ok, 1 bad" in capsys.readouterr().out
    assert np.isfinite(run.buddies["correlation"]).all()
    assert read_part(str(tmp_path / "out"), 0)["ok"].to_pylist() == [i != 5 for i in range(9)]


def test_a_model_added_over_changed_pictures_is_refused(tmp_path, here):
    folder, out = tmp_path / "pictures", str(tmp_path / "out")
    folder.mkdir()

    def draw(seed: int, i: int) -> None:
        Image.fromarray(np.asarray(picture(seed, "test", i)[0])).save(folder / f"{i}.bmp")

    for i in range(8):
        draw(4, i)
    settings = config(tmp_path / "out", images=str(folder), models=(PLAIN, OTHER))
    first, _ = setup.open_or_create(out, recipe.spec_of(settings), {})
    rows = load_pictures(out, 0, 8, (Resize(8, 8, "bilinear", "squash", 0),)).rows.drop_columns(
        "key"
    )
    write_part(out, 0, rows, {"bad": {}})
    draw(5, 3)
    with pytest.raises(StoreMismatch, match=r"1 of 8 that were read again .* \(3.bmp\)"):
        setup.open_or_create(out, recipe.spec_of(settings), {})
    draw(4, 3)
    folder.rename(tmp_path / "moved")
    moved = replace(settings, images=str(tmp_path / "moved"))
    assert setup.open_or_create(out, recipe.spec_of(moved), {})[0] == first
    assert read_rows(out, 7, 8)["uri"].to_pylist() == [str(tmp_path / "moved" / "7.bmp")]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": (PLAIN,)}, FacetError, "one model alone"),
        ({"models": (PLAIN, PLAIN)}, FacetError, "named twice"),
        ({"models": (PLAIN, f"{PLAIN}@act1")}, FacetError, "the same model"),
        ({"models": (PLAIN, f"{OTHER}@act7")}, ModelError, "near names: act"),
        ({"generator": f"{TOYS}:painter"}, FacetError, "either --images SOURCE or --generator"),
        ({"images": None, "generator": OTHER, "models": (PLAIN,)}, ModelError, "no generator"),
        ({"images": None, "generator": f"{TOYS}:wrong_latent"}, ModelError, r"\(batch, latent\)"),
        ({"images": "microworld:n=1"}, FacetError, "one image only"),
        ({"images": "nowhere/"}, SourceError, "nowhere"),
        ({"hub": "timm:resnet18"}, FacetError, "none of the models"),
        ({"neighbours": 0}, FacetError, "--neighbours 0"),
        ({"batch_size": 0}, FacetError, "--batch-size 0"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        rosetta.main(config(tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "sums").exists()


def test_another_configuration_is_refused_by_its_fields(found):
    with pytest.raises(StoreMismatch, match=r"batch_size: there 8, this run 4"):
        rosetta.main(config(place(found), batch_size=4))
    with pytest.raises(StoreMismatch, match="images: there 60, this run 61"):
        rosetta.main(config(place(found), images="microworld:n=61,seed=4"))


def start(out: Path) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "jobs.rosetta", "--models", PLAIN, OTHER, "--out", str(out),
        "--images", PICTURES, "--shard-size", "40", "--batch-size", "10", "--num-actors", "1",
    ]  # fmt: skip
    address = ray.get_runtime_context().gcs_address
    return subprocess.Popen(
        command, env={**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.cluster
def test_a_killed_run_ends_in_the_same_numbers(tmp_path, ray_cluster):
    places = [tmp_path / str(attempt) for attempt in range(3)]
    out, whole = kill_in_mid_run(start, lambda out: len(markers(out)) >= 4, places), tmp_path / "w"
    kept = markers(out)
    assert not (out / "results").exists(), "the run had ended before it was killed"
    again = start(out)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    after = markers(out)
    assert {n: t for n, t in after.items() if n in kept} == {
        n: t for n, t in kept.items() if n in after
    }, "sums that were kept were made again"
    undisturbed = RosettaConfig(
        models=(PLAIN, OTHER), out=str(whole), images=PICTURES, shard_size=40, batch_size=10,
        workers="here",
    )  # fmt: skip
    rosetta.main(undisturbed)
    assert sorted(after) == sorted(markers(whole))
    got, expected = arrays(out), arrays(whole)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
