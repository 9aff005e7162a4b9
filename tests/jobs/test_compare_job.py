"""Two sets of images, from the command to what is shown of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import compare, report, show
from pipeline.subsets import SubsetError
from storage import open_store
from storage.errors import FacetError
from storage.store import Store
from tests.refusals import refused

A, B = "colour == 'red'", "colour == 'blue'"


@pytest.fixture(scope="module")
def store(neurons_kept, tmp_path_factory) -> Store:
    """A store of these tests alone."""
    place = tmp_path_factory.mktemp("compare") / "store"
    shutil.copytree(neurons_kept.url, place)
    return open_store(str(place))


@pytest.fixture(scope="module")
def plain(store) -> compare.CompareConfig:
    return compare.CompareConfig(store.url, A, B, workers="here")


@pytest.fixture(scope="module")
def run(plain):
    return compare.main(plain)


def test_parts_are_those_of_the_images_and_sum_to_the_whole(store, run):
    colours = np.array(store.images()["colour"].to_pylist())
    sets = [np.flatnonzero(colours == colour) for colour in ("red", "blue")]
    norm = np.linalg.norm(store.embeddings().values, axis=1)[:, None]

    def difference(rows):
        rows = rows.values / norm
        return rows[sets[0]].mean(0) - rows[sets[1]].mean(0)

    whole = difference(store.embeddings())
    parts = run.result.table("parts").to_pandas().set_index(["component", "layer", "head"])
    for layer, head in ((0, 0), (3, 2)):
        found, expected = parts.loc["heads", layer, head], difference(store.heads(layer, head))
        np.testing.assert_allclose(found["distance"], np.linalg.norm(expected), rtol=1e-5)
        share = expected @ whole / (whole @ whole)
        np.testing.assert_allclose(found["share"], share, rtol=1e-4, atol=1e-7)
    block = difference(store.mlps(2))
    np.testing.assert_allclose(
        parts.loc["mlps", 2, -1]["distance"], np.linalg.norm(block), rtol=1e-5
    )
    assert parts.loc["embedding", -1, -1]["share"] == pytest.approx(1)
    assert sum(run.found.shares.values()) == pytest.approx(1)
    constants = difference(store.constants()) @ whole / (whole @ whole)
    assert run.found.shares["else"] == pytest.approx(constants, abs=1e-5)
    assert (run.found.images_a, run.found.images_b) == tuple(map(len, sets))


def test_settings_of_comparisons(plain, run, tmp_path):
    other = compare.main(replace(plain, a=B, b=A)).result
    there, back = (r.table("texts").to_pandas() for r in (run.result, other))
    assert there["text"].tolist() == back["text"].tolist()
    assert (there["towards"] != back["towards"]).all()
    last = compare.main(replace(plain, layers="last:1", texts_per_part=1)).result
    parts, texts = (last.table(name).to_pandas() for name in ("parts", "texts"))
    assert set(parts["layer"][parts["component"] == "heads"]) == {3}
    assert texts["rank"].eq(0).all()
    first = there[(there["rank"] == 0) & ((there["component"] != "heads") | (there["layer"] == 3))]
    assert first["text"].tolist() == texts["text"].tolist()
    (tmp_path / "own.txt").write_text("red\nblue\n")
    own = compare.main(replace(plain, pool=str(tmp_path / "own.txt"))).result.table("texts")
    assert set(own["text"].to_pylist()) == {"red"}  # less their mean, two texts are one direction


def test_what_was_compared_is_shown(store, plain, run, capsys):
    compare.main(plain)
    assert "this very run was finished before" in capsys.readouterr().out
    found = show.main(show.ShowConfig("compare", store.url, top=2)).found
    assert found.parts[0].name == "the embedding"
    ratios = [part.fisher for part in found.parts[1:]]
    assert ratios == sorted(ratios, reverse=True)
    assert all(len(part.texts) <= 2 for part in found.parts)
    assert found.parts[1].texts[0].text in capsys.readouterr().out
    show.main(show.ShowConfig("compare", store.url, format="json"))
    said = json.loads(capsys.readouterr().out)["found"]
    assert (said["a"], said["b"]) == (A, B)
    show.main(show.ShowConfig("compare", store.url, format="csv"))
    assert capsys.readouterr().out.startswith("component,layer,head,rank,text,towards,")
    page = Path(report.main(report.ReportConfig(store.url))).read_text()
    assert f"compare-{run.result.name}" in page
    assert found.parts[1].texts[0].text in page


def test_sets_that_overlap_or_are_one_image_are_told(plain, capsys):
    found = compare.main(replace(plain, a="index < 10", b="index >= 5")).found
    assert found.images_both == 5
    assert "WARNING: 5 of the images are in both sets" in capsys.readouterr().out
    found = compare.main(replace(plain, a="index == 3", b="index == 4")).found
    assert len(found.warnings) == 2
    assert all(np.isnan(part.fisher) for part in found.parts)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"b": A}, FacetError, "--a and --b are both .*no difference"),
        ({"b": f"({A})"}, FacetError, "--a and --b pick the same [0-9]+ images"),
        ({"b": "colour == 'puce'"}, SubsetError, "--b .* matches no image of the 60"),
        ({"a": "hue == 'red'"}, SubsetError, "--a .*no column 'hue'"),
        ({"layers": "9"}, FacetError, "the model's layers are 0-3"),
        ({"texts_per_part": 0}, FacetError, "--texts-per-part 0: must be at least 1"),
        ({"pool": "nothing.txt"}, FacetError, "no pool and no file"),
        ({"pool": "common-words:1"}, FacetError, "--pool common-words:1 has one text"),
    ],
)
def test_what_cannot_be_compared_is_refused(plain, changes, error, message):
    with refused(error, message):
        compare.main(replace(plain, **changes))
