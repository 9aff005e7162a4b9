"""A picture's page: shares held to a plain loop over contributions, and to a pass of the model."""

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pipeline.concepts.codes import Codes
from pipeline.explorer import firing, image_heads, subject
from pipeline.explorer.firing import effects_of
from pipeline.explorer.image import alike_view, image_view
from pipeline.explorer.library import NotHere
from pipeline.explorer.subject import Subject, image_subject
from pipeline.explorer.web.app import make_app
from pipeline.explorer.words import directions
from pipeline.explorer.written import token_shares, written
from pipeline.pages.plain import plain
from storage.errors import FacetError
from tests.pipeline.explorer.known import LAYER, brought

pytestmark = pytest.mark.usefixtures("here")
IMAGE = 5


def contributions(store, index):
    """Every part of an embedding in the joint space, one by one, float64."""
    meta, parts = store.meta, {}
    for layer in range(meta.layers):
        for head in range(meta.heads):
            parts["head", layer, head] = store.heads(layer, head)[index].values
    for block in range(meta.layers + 1):
        parts["block", block] = store.mlps(block)[index].values
    parts["constants",] = store.constants()[index].values
    return {at: values.astype(np.float64) for at, values in parts.items()}


def test_shares_are_those_of_a_plain_loop_and_sum_to_all(known):
    found = subject.stored_parts(known.here, IMAGE)
    wrote = written(known.here, found)
    embedding = known.store.embeddings()[IMAGE].values.astype(np.float64)
    parts, total = contributions(known.store, IMAGE), 0.0
    for at, part in parts.items():
        share = part @ embedding / (embedding @ embedding)
        total += share
        if at[0] == "head":
            assert wrote.heads[at[1:]] == pytest.approx(share, abs=1e-6)
        elif at[0] == "block":
            assert wrote.mlps[at[1]] == pytest.approx(share, abs=1e-6)
        else:
            assert wrote.constants == pytest.approx(share, abs=1e-6)
    groups = wrote.attention + wrote.all_mlps + wrote.start + wrote.constants
    assert groups + wrote.left == pytest.approx(1, abs=1e-12)
    assert wrote.left == pytest.approx(1 - total, abs=1e-5)
    assert abs(wrote.left) < 1e-5
    residual = float(known.store.contributions()["residual"][IMAGE])
    assert wrote.residual == pytest.approx(residual)
    assert 0 < wrote.residual < 1e-5


def test_tokens_of_the_store_sum_to_their_heads(known):
    found = subject.stored_parts(known.here, IMAGE)
    tokens, wrote = token_shares(known.store.meta, found), written(known.here, found)
    embedding = known.store.embeddings()[IMAGE].values.astype(np.float64)
    rows = known.store.tokens()[IMAGE].values.astype(np.float64)
    shares = [row @ embedding / (embedding @ embedding) for row in rows]
    assert tokens.layers == (2, 3)
    np.testing.assert_allclose(tokens.map.ravel(), shares[1:], atol=1e-6)
    assert tokens.class_token == pytest.approx(shares[0], abs=1e-6)
    parts = tokens.class_token + tokens.registers + tokens.patches
    assert tokens.heads == pytest.approx(parts, abs=1e-9)
    assert tokens.heads == pytest.approx(wrote.heads[[2, 3]].sum(), abs=1e-5)


def test_a_picture_that_was_brought_is_taken_apart_as_the_store_was(known):
    mine = image_view(known.library, known.here, brought(known, IMAGE))
    stored = image_view(known.library, known.here, image_subject(known.here, IMAGE))
    assert stored.written.stored
    assert not mine.written.stored
    np.testing.assert_allclose(mine.written.heads, stored.written.heads, atol=1e-5)
    np.testing.assert_allclose(mine.written.mlps, stored.written.mlps, atol=1e-5)
    assert mine.tokens.layers == (0, 1, 2, 3)  # all, as it is a pass of its own
    assert mine.tokens.heads == pytest.approx(stored.written.attention, abs=1e-4)
    assert any(head.texts for head in stored.heads)  # of two layers there are
    for one, other in zip(mine.heads, stored.heads, strict=True):
        assert [text.text for text in one.texts] == [text.text for text in other.texts]
    ours, theirs = mine.neurons[0], stored.neurons[0]
    assert [n.neuron for n in ours.neurons] == [n.neuron for n in theirs.neurons]


def test_what_is_like_a_picture_that_was_brought_is_first_of_all_itself(known):
    found = alike_view(known.library, known.here, brought(known, IMAGE), "layer:2", top=3).found
    assert found.images[0].index == IMAGE
    assert found.images[0].score == pytest.approx(1, abs=1e-4)
    own = alike_view(known.library, known.here, image_subject(known.here, IMAGE), "layer:2", top=2)
    assert [n.index for n in own.found.images] == [n.index for n in found.images[1:]]


def test_texts_of_a_strong_head_have_the_coefficients_of_a_plain_loop(known):
    view = image_view(known.library, known.here, image_subject(known.here, IMAGE))
    shares = np.abs(view.written.heads)
    sizes = [shares[head.layer, head.head] for head in view.heads]
    assert sizes == sorted(shares.ravel(), reverse=True)[: len(sizes)]
    norms = np.linalg.norm(known.store.embeddings().values.astype(np.float64), axis=1)
    said = 0
    for head in view.heads:
        own = known.store.heads(head.layer, head.head).values.astype(np.float64) / norms[:, None]
        for one in head.texts:
            (text,) = directions(known.library, known.here, [one.text])
            assert one.coefficient == pytest.approx(own[IMAGE] @ text, abs=1e-6)
            assert one.beyond == pytest.approx((own[IMAGE] - own.mean(0)) @ text, abs=1e-6)
            said += 1
        spread = np.sqrt(((own - own.mean(0)) ** 2).sum(1).mean())
        length = np.linalg.norm(own[IMAGE] - own.mean(0))
        assert head.unlike == pytest.approx(length / spread, rel=1e-3)
    assert said >= image_heads.TEXTS


@pytest.mark.parametrize("against", ["", "a star"])
def test_what_speaks_for_a_text_sums_to_its_logit_over_all_heads(known, against, monkeypatch):
    monkeypatch.setattr(image_heads, "PARTS", 100)
    found = subject.stored_parts(known.here, IMAGE)
    monkeypatch.setattr(image_heads, "labels_of", lambda here: {(1, 0): "shape"})
    got = image_heads.speaks_for(known.library, known.here, found, "a heart", against)
    assert {part.head: part.label for part in got.parts if part.label} == {"1.0": "shape"}
    rows = directions(known.library, known.here, ["a heart", "a star"]).astype(np.float64)
    along = rows[0] - rows[1] if against else rows[0]
    units = known.store.embeddings().values.astype(np.float64)
    norms = np.linalg.norm(units, axis=1)
    units /= norms[:, None]
    assert got.logit == pytest.approx(units[IMAGE] @ along, abs=1e-6)
    assert got.mean == pytest.approx((units @ along).mean(), abs=1e-6)
    parts = {part.head: part for part in got.parts if part.head}
    meta = known.store.meta
    assert len(parts) == meta.layers * meta.heads
    for at, part in parts.items():
        layer, head = map(int, at.split("."))
        wrote = known.store.heads(layer, head).values.astype(np.float64) @ along / norms
        assert part.value == pytest.approx(wrote[IMAGE], abs=1e-6)
        assert part.beyond == pytest.approx(wrote[IMAGE] - wrote.mean(), abs=1e-6)
    assert sum(part.value for part in got.parts) == pytest.approx(got.logit)
    assert sum(part.beyond for part in got.parts) == pytest.approx(got.logit - got.mean)


def test_parts_that_are_not_told_apart_are_in_the_sum(known):
    found = subject.stored_parts(known.here, IMAGE)
    got = image_heads.speaks_for(known.library, known.here, found, "a heart", "")
    assert len(got.parts) == image_heads.PARTS + 1
    assert sum(part.value for part in got.parts) == pytest.approx(got.logit)


def test_a_pass_gives_the_effects_that_the_store_keeps_and_their_signs(known):
    (result,) = known.here.results("second_order")
    top = result.table("top_images").to_pandas()
    kept = firing.stored_effects(known.here, LAYER, IMAGE)
    found = effects_of(known.loaded, [(LAYER, result.name)], IMAGE)[LAYER]
    np.testing.assert_allclose(found.norms_n, kept.norms_n, atol=1e-5)
    of_image = top[top["image"] == IMAGE]
    assert len(of_image)
    scores = found.scores_n[of_image["neuron"].to_numpy()]
    np.testing.assert_allclose(scores, of_image["score"], atol=1e-5)


def test_neurons_fire_where_they_write_more_than_on_almost_all_images(known):
    view = image_view(known.library, known.here, image_subject(known.here, IMAGE), model=True)
    (layer,) = view.neurons
    group = known.store.neurons(LAYER)["norms"].values
    above = group[IMAGE] > np.percentile(group, 98, axis=0)
    assert layer.firing == above.sum()
    assert all(above[one.neuron] for one in layer.neurons)
    sizes = [one.norm for one in layer.neurons]
    assert sizes == sorted(sizes, reverse=True)


def test_concepts_are_signed_sums_over_neurons_that_fire():
    from scipy.sparse import csr_array

    codes = Codes(("snow", "night"), {2: csr_array([[0.5, -1.0], [2.0, 0.0], [9.0, 0.0]])})
    found = firing.concepts_of(codes, {2: np.array([0.1, -0.2, 0.0])})
    assert [(c.text, c.neurons) for c in found] == [("snow", 2), ("night", 1)]
    assert [c.score for c in found] == pytest.approx([0.05 - 0.4, -0.1])


def test_what_the_store_has_nothing_of_has_words_and_no_numbers(known):
    shown = Subject("/s/store/image/3", "image 3", 3, {}, error="no picture")
    view = image_view(known.library, known.here, shown)
    assert view.written is None
    assert "no picture" in view.lacking["written"]
    with pytest.raises(FacetError, match="no picture"):
        alike_view(known.library, known.here, shown)


@pytest.mark.parametrize("index", [-1, 40, 10**30])
def test_an_image_that_is_not_there_is_not_here(known, index):
    with pytest.raises(NotHere, match="images 0-39"):
        image_subject(known.here, index)


@pytest.fixture(scope="module")
def client(known):
    return TestClient(make_app(known.library), base_url="http://127.0.0.1")


def test_the_page_says_what_wrote_the_embedding(known, client):
    page = client.get(f"/s/store/image/{IMAGE}?text=a+heart&against=a+star")
    assert page.status_code == 200
    for said in ("attention heads", "Certificate", "rather than a star", "neurons fire"):
        assert said in page.text
    data = client.get(f"/api/s/store/image/{IMAGE}?text=a+heart&against=a+star").json()
    shown = image_subject(known.here, IMAGE)
    view = image_view(known.library, known.here, shown, "a heart", "a star")
    assert data == plain(view)
    wrote = data["written"]
    names = ("attention", "all_mlps", "start", "constants", "left")
    assert sum(wrote[name] for name in names) == pytest.approx(1)


def test_the_page_of_what_is_alike_names_space_and_scale(known, client):
    page = client.get(f"/s/store/image/{IMAGE}/alike", params={"in": "head:3.0"})
    assert page.status_code == 200
    assert "layer 3, head 0" in page.text
    assert "cosine" in page.text
    data = client.get(f"/api/s/store/image/{IMAGE}/alike", params={"in": "head:3.0"}).json()
    shown = image_subject(known.here, IMAGE)
    assert data == plain(alike_view(known.library, known.here, shown, "head:3.0"))


def test_a_picture_that_was_brought_has_the_same_pages(known, client):
    data = brought(known, IMAGE).data
    place = client.post("/s/store/picture?name=mine.png", content=data).json()["address"]
    for below, said in (("", "What wrote the embedding"), ("/alike?in=layer:2", "layer 2")):
        page = client.get(place + below)
        assert page.status_code == 200
        assert "mine.png" in page.text
        assert said in page.text
    assert client.get(f"/api{place}").json()["written"]["stored"] is False
    seen = client.get(f"{place}/seen.png").content
    assert seen == client.get(f"/s/store/image/{IMAGE}/seen.png").content
    assert client.get(f"{place}/thumbnail.jpg").headers["content-type"] == "image/jpeg"
    assert client.get("/s/store/picture/other/seen.png").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/s/store/image/40", 404),
        ("/s/store/image/99999999999999999999999", 404),
        ("/s/store/image/x", 400),
        ("/s/store/image/5/alike?in=head:9.9", 404),
        ("/s/store/image/5/alike?in=nothing", 400),
        ("/s/store/image/5/alike?where=label+==", 400),
        ("/s/store/image/5/alike?metric=l2", 400),
    ],
)
def test_mistakes_are_pages_with_words(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    assert 'class="words"' in answer.text
