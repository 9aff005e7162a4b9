"""The dictionary of shared concepts: order, ranges, and a page made from a small mined set."""

import re
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from pipeline.rosetta.answers import concepts_of
from pipeline.rosetta.dictionary import unit_range
from pipeline.rosetta.models import unit_maps
from pipeline.rosetta.page import find_dictionary, write_dictionary
from pipeline.rosetta.pictures import load_pictures
from pipeline.rosetta.replay import open_mined, replay
from storage import ledger, urls
from storage.errors import FacetError
from storage.results import latest_result
from tests.pipeline.rosetta.mined import OTHER, PLAIN, mined, table


def test_every_concept_once_the_replicated_first_then_by_correlation():
    found = concepts_of(table(), PLAIN)
    assert [c.number for c in found] == [2, 1, 0]
    assert [c.replicates for c in found] == [True, True, False]
    # Of several matches the replicated one, of several units of the hub the strongest.
    assert asdict(found[1].members[1]) == {
        "model": OTHER, "layer": "act1", "unit": 2, "correlation": 0.6, "replicates": True,
    }  # fmt: skip
    assert found[1].members[0].unit == 2


def test_maps_are_brought_to_one_range_within_a_unit():
    maps = np.array([[[2.0, 4.0]], [[3.0, 6.0]]], np.float32)
    np.testing.assert_array_equal(unit_range(maps), [[[0, 0.5]], [[0.25, 1]]])
    assert not unit_range(np.full((2, 3, 3), 7.0, np.float32)).any()


def test_the_page_shows_each_concept_once_and_the_truth(tmp_path):
    url = mined(str(tmp_path / "mined"))
    shown = find_dictionary(url, draws=2)
    place = write_dictionary(shown, str(tmp_path / "page"))
    page = (tmp_path / "page" / "dictionary.html").read_text()
    assert place.endswith("page/dictionary.html")
    assert re.findall(r"<h2><a [^>]*>Concept (\d+)", page) == ["2", "1", "0"]
    assert page.count("<img ") == 3 * 6 * 3
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["dictionary.html"]
    assert shown.facts["concepts"] == "3 shared by 2 models, 2 of them in both halves; 3 shown"
    truth = latest_result(url, "rosetta_truth").table("truth").to_pandas()
    assert truth["pairing"].value_counts().to_dict() == {"shared": 3, "random": 6}
    assert truth["concept"][:3].tolist() == [2, 1, 0]
    assert truth["inside"].between(0, 1).all()
    assert shown.facts["random units"] in page


def test_examples_are_the_images_where_the_hub_is_strongest(tmp_path):
    from pipeline.rosetta.dictionary import EXAMPLES, entries

    found = open_mined(mined(str(tmp_path / "mined")))
    concept = concepts_of(table(), PLAIN)[1]
    (entry,) = entries(found, [concept])
    peaks = {}
    for batch in replay(found.url, found.setup, found.models, 24, set()):
        maps = unit_maps(found.models[PLAIN], batch.inputs[PLAIN], [2])
        for row, one in zip(batch.rows, maps, strict=True):
            peaks[row["key"]] = float(one.max())
    assert len(peaks) == 24
    # A unit's peak may differ in its last bits with what else is computed beside it.
    expected = sorted(peaks.values(), reverse=True)[:EXAMPLES]
    np.testing.assert_allclose([peaks[k] for k in entry.keys], expected, rtol=1e-6)
    assert [m.min() for m in entry.maps] == [0, 0]
    assert [m.max() for m in entry.maps] == [1, 1]


def test_images_that_changed_since_they_were_mined_are_left_out(tmp_path):
    url = mined(str(tmp_path / "mined"))
    found = open_mined(url)
    rows = load_pictures(url, 0, 8, (found.models[PLAIN].preprocess.resize,)).rows.drop_columns(
        "key"
    )
    digests = rows["sha256"].to_pylist()
    digests[2] = "0" * 64
    at = rows.column_names.index("sha256")
    ledger.write_part(url, 0, rows.set_column(at, "sha256", pa.array(digests)), {})
    changed = set()
    kept = [
        row["index"]
        for batch in replay(url, found.setup, found.models, 24, changed)
        for row in batch.rows
    ]
    assert kept == [i for i in range(24) if i != 2]
    assert changed == {"test-2/00000002"}
    shown = find_dictionary(url, draws=2)
    assert "1 images that are not what they were (test-2/00000002)" in shown.facts["left out"]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FacetError, match="no results of rosetta in "):
        find_dictionary(str(tmp_path))
    url = mined(str(tmp_path / "none"), rows=[])
    with pytest.raises(FacetError, match="share no concept"):
        find_dictionary(url)
    assert not urls.exists(urls.join(url, "dictionary.html"))
