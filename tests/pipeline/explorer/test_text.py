"""A text: how heads respond to it is a plain loop over images; images are the search's."""

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pipeline.explorer import spaces
from pipeline.explorer.text import TextView, described_by, text_view
from pipeline.explorer.web.app import make_app
from pipeline.explorer.words import directions
from pipeline.pages.plain import plain
from storage.errors import FacetError

TEXT = "a heart in the snow"


@pytest.fixture(scope="module")
def client(library):
    with TestClient(make_app(library)) as made:
        yield made


def looked(library, opened, text=TEXT, space="whole", metric="cosine", where="") -> TextView:
    return text_view(library, opened, text, space, metric, where)


def test_heads_respond_as_a_plain_loop_says(library, opened, modelled):
    found = looked(library, opened).responses
    (text_e,) = directions(library, opened, [TEXT]).astype(np.float64)
    embedding = modelled.embeddings().values.astype(np.float64)
    norms = np.linalg.norm(embedding, axis=1)
    meta = opened.meta
    means, variances, own = (np.zeros((meta.layers, meta.heads)) for _ in range(3))
    for layer in range(meta.layers):
        for head in range(meta.heads):
            rows = modelled.heads(layer, head).values.astype(np.float64) / norms[:, None]
            means[layer, head] = (rows @ text_e).mean()
            variances[layer, head] = (rows @ text_e).var()
            own[layer, head] = variances[layer, head] / rows.var(0).sum()
    np.testing.assert_allclose(found.deviations_lh, np.sqrt(variances), rtol=1e-4, atol=1e-9)
    assert len(found.heads) == meta.layers * meta.heads
    for row in found.heads:
        at = row.layer, row.head
        assert row.mean == pytest.approx(means[at], abs=1e-7)
        assert row.share == pytest.approx(variances[at] / variances.sum(), rel=1e-4)
        assert row.own == pytest.approx(own[at], rel=1e-3)
    assert sorted(-row.share for row in found.heads) == [-row.share for row in found.heads]
    assert found.mean == pytest.approx((embedding / norms[:, None]).mean(0) @ text_e, abs=1e-6)
    assert found.images == 40


@pytest.mark.parametrize("space", ["whole", "head:3.1", "layer:2"])
def test_images_are_those_of_the_search(library, opened, space):
    found = looked(library, opened, space=space, metric="dot", where="label == 'star'").nearest
    asked = spaces.parse_space(opened, space)
    query = spaces.text_query(opened, asked, directions(library, opened, [TEXT])[0])
    assert found == spaces.nearest(opened, asked, query, metric="dot", where="label == 'star'")
    assert {near.label for near in found.images} == {"star"}


def test_a_text_that_describes_heads_is_found(library, opened):
    rows = opened.latest("textspan").table("descriptions").to_pylist()
    text = rows[3]["text"]
    found = described_by(opened, text)
    expected = [row for row in rows if row["text"] == text]
    assert {(d.layer, d.head, d.rank) for d in found} == {
        (row["layer"], row["head"], row["rank"]) for row in expected
    }
    assert all(d.pool == "microworld" for d in found)
    assert described_by(opened, "none of the texts") == ()


def test_the_page_and_its_json(client, library, opened):
    page = client.get("/s/store/text", params={"text": TEXT, "in": "head:3.1"})
    assert page.status_code == 200
    assert "Heads that respond to" in page.text
    assert page.text.count('class="thumb"') == 24
    document = client.get("/api/s/store/text", params={"text": TEXT, "in": "head:3.1"}).json()
    assert document == plain(looked(library, opened, space="head:3.1"))


def test_nothing_typed_is_a_form(client):
    page = client.get("/s/store/text").text
    assert 'name="text"' in page
    assert 'class="thumb"' not in page


def test_what_is_not_there_is_told(client, library, opened):
    assert client.get("/s/store/text?text=a&in=head:9.9").status_code == 404
    assert client.get("/s/store/text?text=a&in=nowhere").status_code == 400
    assert client.get("/s/store/text?text=a&metric=odd").status_code == 400
    with pytest.raises(FacetError):
        looked(library, opened, where="nosuch == 1")
