"""Concepts of a picture, as a page and as data: what the job finds, and why there are none."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from jobs import concepts
from pipeline.explorer.concepts import concepts_view
from pipeline.explorer.library import Library
from pipeline.explorer.model import NotYet
from pipeline.explorer.saying import TOP
from pipeline.explorer.subject import image_subject
from pipeline.explorer.web.app import make_app
from storage.errors import FacetError
from tests.pipeline.explorer.known import LAYER, brought

pytestmark = pytest.mark.usefixtures("here")
IMAGE = 7
METHODS = ("neurons", "published", "heads", "embedding")


@pytest.fixture(scope="module")
def view(known):
    return concepts_view(known.library, known.here, image_subject(known.here, IMAGE))


@pytest.fixture(scope="module")
def client(known):
    return TestClient(make_app(known.library), base_url="http://127.0.0.1")


def test_they_are_what_the_job_finds(known, view):
    told = concepts.main(
        concepts.ConceptsConfig(
            known.store.url, (str(IMAGE),), method=METHODS, top=TOP, workers="here"
        )
    ).found
    assert [column.method for column in view.columns] == list(METHODS)
    (name,) = view.found.names
    for column in view.columns:
        (theirs,) = told.names
        rows, own = told.of(theirs, column.method), view.found.of(name, column.method)
        assert [row["text"] for row in own] == [row["text"] for row in rows]
        scores = [row["score"] for row in rows]
        np.testing.assert_allclose([row["score"] for row in own], scores, atol=1e-6)
        first = column.concepts[0]
        assert (first.text, first.score) == (rows[0]["text"], pytest.approx(scores[0], abs=1e-6))
        who = told.who_said(theirs, column.method, first.text)
        assert [one.at for one in first.said] == [f"{r['layer']}.{r['part']}" for r in who[:3]]
        assert first.parts == len(who)
    for own, theirs in zip(view.found.maps, told.maps, strict=True):
        np.testing.assert_allclose(own.map_rc, theirs.map_rc, atol=1e-6)


def test_a_picture_that_was_brought_says_the_same(known, view):
    mine = concepts_view(known.library, known.here, brought(known, IMAGE))
    for own, theirs in zip(mine.columns, view.columns, strict=True):
        assert [c.text for c in own.concepts][:3] == [c.text for c in theirs.concepts][:3]
    assert mine.found.concepts["image"].unique().tolist() == [-1]


def test_maps_and_what_they_leave_out_sum_to_the_score(view):
    (name,) = view.found.names
    scores = {row["text"]: row["score"] for row in view.found.of(name, "neurons")}
    assert len(view.maps) > 1
    for shown, of in zip(view.maps, view.found.maps, strict=False):
        assert of.map_rc.sum() + of.outside == pytest.approx(scores[shown.heading], abs=1e-6)


def test_methods_and_layers_can_be_chosen(known, view):
    subject = image_subject(known.here, IMAGE)
    one = concepts_view(known.library, known.here, subject, ["heads"], str(LAYER))
    assert [column.method for column in one.columns] == ["heads"]
    assert one.columns[0] == view.columns[2]
    assert not one.maps
    with pytest.raises(FacetError, match="`method` 'best': neurons, published, heads, embedding"):
        concepts_view(known.library, known.here, subject, ["best"])
    with pytest.raises(FacetError, match="MLP layer 2 are not in words; those of 1 are"):
        concepts_view(known.library, known.here, subject, mlp_layers="2")


def test_a_page_shows_them_with_who_says_them_and_where(client, view):
    address = f"/s/store/image/{IMAGE}"
    page = client.get(f"{address}/concepts")
    assert page.status_code == 200
    for column in view.columns:
        assert column.title in page.text
    one = view.columns[0].concepts[0]
    assert f"/s/store/neuron/{one.said[0].at}" in page.text
    assert f"/s/store/head/{view.columns[2].concepts[0].said[0].at}" in page.text
    assert f'href="{address}/concepts"' in client.get(address).text
    data = client.get(f"/api{address}/concepts").json()
    assert data["columns"][0]["concepts"][0]["text"] == one.text
    assert np.shape(data["found"]["maps"][0]["map_rc"]) == (4, 4)


def test_maps_are_pictures(client, view):
    for shown in (view.maps[0], view.fires[0]):
        answer = client.get(shown.picture)
        assert answer.headers["content-type"] == "image/png"
        assert min(Image.open(io.BytesIO(answer.content)).size) >= 256
    for kind in ("maps", "fires"):
        assert client.get(f"/s/store/image/{IMAGE}/concepts/{kind}/99.png").status_code == 404


def test_what_is_lacking_is_said_with_what_finds_it(modelled):
    library = Library([modelled.url], [], lambda store, typed: {"omp": "facet omp …"})
    here = library.stores["store"]
    bare = concepts_view(library, here, image_subject(here, IMAGE))
    assert {column.command for column in bare.columns} == {"facet omp …"}
    assert all("in words yet" in column.lacking for column in bare.columns)
    assert bare.found is None
    client = TestClient(make_app(library), base_url="http://127.0.0.1")
    assert "facet omp …" in client.get(f"/s/store/image/{IMAGE}/concepts").text


def test_a_model_that_is_being_loaded_is_waited_for(known, monkeypatch):
    def later(*_):
        raise NotYet("the model is being loaded")

    monkeypatch.setattr(known.library, "model", SimpleNamespace(ask=later))
    waiting = concepts_view(known.library, known.here, image_subject(known.here, IMAGE + 1))
    assert waiting.waiting == "the model is being loaded"
    assert [column.method for column in waiting.columns] == list(METHODS)
