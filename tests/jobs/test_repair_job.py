"""Repairs: the job, on a store of a random model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from jobs import ablate, extract, repair, report, show
from jobs.repair import RepairConfig
from pipeline.heads.edits import read_edit
from pipeline.microworld import draw
from pipeline.repair.groups import drawn
from storage.errors import FacetError
from storage.results import save_result
from tests.refusals import refused

PLAIN = {"classes": "microworld:shape", "groups": "background", "workers": "here"}
HEADS = ("3.0", "2.1")
PLACES = ("land", "water")


@pytest.fixture(scope="module")
def plain(neurons_kept) -> RepairConfig:
    return RepairConfig(neurons_kept.url, heads=HEADS, **PLAIN)


@pytest.fixture(scope="module")
def run(plain):
    return repair.main(plain)


def worst(run) -> pd.DataFrame:
    return run.found.rows("worst").set_index("edit")


def test_a_repair_is_told_kept_and_shown(run, plain, neurons_kept, capsys, tmp_path):
    found, known = run.found, run.result.provenance
    assert known["heads"] == ["2.1", "3.0"]
    held_out, _ = drawn(neurons_kept.images()["key"].to_pylist())
    assert known["classified"] == found.rows("all")["n"].iloc[0] == held_out.sum()
    assert found.groups["held_out"].sum() + found.groups["training"].sum() == 60
    alone = found.groups[found.groups["held_out"] == 0]["name"]  # counted, and no worst group
    assert len(alone) > 0
    assert not set(alone) & set(found.rows("group")["name"])
    assert any(
        f"{len(alone)} groups without held-out images, they are in no figure: " in warning
        for warning in known["warnings"]
    )
    few = found.groups[found.groups["held_out"].between(1, 9)]["name"]
    assert len(few) > 0
    assert any(
        warning.startswith(f"{len(few)} groups with fewer than 10 held-out images")
        and few.iloc[0] in warning
        for warning in known["warnings"]
    )
    gains = found.gains[found.gains["edit"] == "chosen"]
    assert gains[["layer", "head", "gain"]].to_numpy().tolist() == [[2, 1, 0], [3, 0, 0]]
    assert found.gains["edit"].value_counts()["random 3"] == 2
    edit = read_edit(found.edit, neurons_kept)
    assert np.argwhere(edit.heads_lh != 1).tolist() == [[2, 1], [3, 0]]
    assert (edit.blocks_s == 1).all()
    assert (edit.attention_bias_l == 1).all()
    capsys.readouterr()
    again = repair.main(plain)
    said = capsys.readouterr().out
    assert again.result.url == run.result.url
    assert "this very run was finished before" in said
    assert f"next: facet ablate --store {plain.store}" in said
    assert f"--edit {found.edit}" in said
    assert "(best of five)" in said
    assert "published setting" in said
    show.main(show.ShowConfig("repair", plain.store))
    assert "worst group" in capsys.readouterr().out
    show.main(show.ShowConfig("repair", plain.store, format="json"))
    told = json.loads(capsys.readouterr().out)["found"]
    assert len(told["accuracy"]) == len(found.accuracy)
    page = report.main(report.ReportConfig(plain.store, out=str(tmp_path / "page.html")))
    text = Path(page).read_text()
    assert "without held-out images" in text
    assert "A spurious correlation mended: background" in text
    assert "heads 2.1, 3.0 taken away (heads that were named)" in text


def test_settings_of_repairs(plain, run, neurons_kept):
    labels = pa.table({"layer": [1, 3], "head": [2, 0], "label": ["colour", "background"]})
    save_result(neurons_kept.url, "label", {}, {}, tables={"labels": labels})
    named = repair.main(replace(plain, heads=(), property="Background"))
    assert named.found.heads == ["3.0"]
    assert named.found.by == "heads labelled Background"
    found = repair.main(replace(plain, heads=(), search=True))
    search = found.result.provenance["search"]
    assert any("gains are found without them" in w for w in found.result.provenance["warnings"])
    assert search["after"] < search["before"]
    assert search["images"] == found.result.provenance["training"]
    assert found.found.gains[found.found.gains["edit"] == "chosen"]["gain"].between(0, 1).all()
    some = repair.main(replace(plain, where="index < 40"))
    assert some.found.groups[["training", "held_out"]].to_numpy().sum() == 40
    other = repair.main(replace(plain, means_from="index < 20"))
    assert other.result.provenance["reference_images"] == 20
    places = repair.main(
        replace(
            plain, classes="microworld:background", label_column="background", groups="shape"
        )
    )  # fmt: skip
    assert set(places.found.rows("class")["name"]) <= set(
        neurons_kept.images()["background"].to_pylist()
    )
    assert set(places.found.groups["value"]) <= set(neurons_kept.images()["shape"].to_pylist())
    assert len({r.result.url for r in (run, named, found, some, other, places)}) == 6


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> str:
    """A store of a folder as WILDS' Waterbirds has it: stars and hearts, at night and on snow."""
    folder = tmp_path_factory.mktemp("waterbirds")
    rows = ["img_id,img_filename,y,split,place,place_filename"]
    for number in range(120):
        bird, place, split = number % 2, number // 2 % 2, number // 4 % 3
        rng = draw.generator(5, "test", number)
        scene = draw.sample_scene(rng, "test", 0.0)
        told = {"shape": ("star", "heart")[bird], "background": ("night", "snow")[place]}
        pixels, _ = draw.draw_scene(replace(scene, **told), rng)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number},{number}.png,{bird},{split},{place},/x/{number}.jpg")
    (folder / "metadata.csv").write_text("\n".join(rows))
    store = str(folder / "store")
    extract.main(
        extract.ExtractConfig(
            images=f"waterbirds:{folder}", model="microworld", pretrained="microworld",
            store=store, shard_size=50, workers="here",
        )
    )  # fmt: skip
    return store


def test_waterbirds_are_mended_and_the_edit_is_taken_by_other_jobs(birds, tmp_path):
    """From WILDS' layout to an edit, on test images that the means are not of."""
    (tmp_path / "birds.txt").write_text("landbird\tstar\nwaterbird\theart\n")
    plain = RepairConfig(
        birds, str(tmp_path / "birds.txt"), "place", heads=("0.0", "1.1", "1.3", "2.0"),
        means_from="split == 'train'", workers="here",
    )  # fmt: skip
    run = repair.main(plain)
    assert {*run.found.groups["name"]} == {f"{b}, {p}" for b in ("star", "heart") for p in PLACES}
    assert run.result.provenance["reference_images"] == 40
    figures = worst(run)["accuracy"]
    assert figures["chosen"] > figures["none"] + 0.2
    ablated = ablate.main(
        ablate.AblateConfig(
            birds, plain.classes, edit=(run.found.edit,), where="split == 'test'", workers="here"
        )
    )
    assert ablated.result.provenance["classified"] == 40


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": ()}, "one of --heads, --property and --search"),
        ({"search": True}, "one of --heads, --property and --search"),
        ({"property": "colour"}, "one of --heads, --property and --search"),
        ({"heads": ("9.0",)}, "--heads 9.0: the model has layers 0-3"),
        ({"groups": "plaice"}, "--groups plaice: the image table has no such column"),
        ({"means_from": "label = 1"}, "--means-from 'label = 1'"),
        ({"where": "index < 1"}, "of the groups of class and background have held-out images"),
        ({"classes": "microworld:shape=star"}, "one class, which nothing is mistaken for"),
        ({"classes": "microworld:shape=star,heart"}, "labels are no class of this set"),
        (
            {"heads": (), "property": "smell"},
            "no head carries the label 'smell'|no results of label",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_mended_is_refused(changes, words, plain):
    with refused(FacetError, words):
        repair.main(replace(plain, **changes))
