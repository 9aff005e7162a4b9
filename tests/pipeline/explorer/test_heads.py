"""Heads among others, their labels and properties, and the pages that show them."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from pipeline.between.tables import ALIGNED
from pipeline.cluster import machines
from pipeline.explorer.head_map import map_view
from pipeline.explorer.heads import head_view
from pipeline.explorer.library import NotHere
from pipeline.explorer.likeness import described_spans, directions_alike, text_overlaps
from pipeline.explorer.properties import properties, property_view
from pipeline.explorer.web.app import make_app
from pipeline.heads.describe import describe_heads
from pipeline.pages.plain import plain
from storage import urls
from storage.results import as_table, save_result
from tests.pipeline.explorer import headed


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    machines.work("here")
    folder = tmp_path_factory.mktemp("heads")
    one, two = (headed.headed(str(folder / name)) for name in ("one", "two"))
    bare = headed.headed(str(folder / "bare"), index=False, weights_digest="other")
    headed.described(one)
    headed.labelled(one)
    headed.labelled(two)
    aligned(bare, one)
    return headed.library(one, two, bare)


@pytest.fixture(scope="module")
def one(library):
    return library.stores["one"]


def aligned(source, target) -> None:
    """An alignment in which head (l, h) of one is most like head (l, h + 1) of the other."""
    pairs = pd.DataFrame(
        [
            (*a, *b, 0.9 if b == (a[0], (a[1] + 1) % 3) else 0.1, 0.5, 0.7)
            for a in headed.HEADS
            for b in headed.HEADS
        ],
        columns=ALIGNED["pairs"].names,
    )
    empty = pa.table({f.name: pa.array([], f.type) for f in ALIGNED["texts"]})
    save_result(
        target.url, "align", {"from_": "bare"}, {},
        identity={"from": {"store": source.meta.digest()}, "over": {}},
        tables={"pairs": as_table(pairs, ALIGNED["pairs"]), "texts": empty},
    )  # fmt: skip


def test_heads_that_vary_along_the_same_directions(one):
    covariances = {at: np.cov(wrote(one, at).T, bias=True) for at in headed.HEADS}
    for at in headed.HEADS:
        found = directions_alike(one, at)
        for other, covariance in covariances.items():
            product = (covariances[at] * covariance).sum()
            lengths = np.linalg.norm(covariances[at]) * np.linalg.norm(covariance)
            assert found[other] == pytest.approx(product / lengths, rel=1e-4)


def wrote(opened, at):
    rows = headed.contributions(opened.store, at)
    return rows[~np.isnan(rows[:, 0])]


def test_spans_of_texts_are_those_of_textspan(one, here):
    pool = one.results("encode_texts")[0].arrays("embeddings")["embedding"].values
    expected = describe_heads(one.store, one.store.reductions(), headed.HEADS, pool, 5).directions
    heads, found = described_spans(one, one.latest("textspan"))
    assert heads == headed.HEADS
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.T @ mine, theirs.T @ theirs, atol=1e-5)


def test_overlaps_of_texts_are_those_of_labels(one):
    table = one.latest("label").table("labels").to_pylist()
    rows, overlap = text_overlaps(one)
    for row in table:
        at = rows[(row["layer"], row["head"])]
        others = np.delete(overlap[at], at)
        assert others.max() == pytest.approx(row["overlap"], abs=1e-5)


def test_a_head_has_all_that_was_found_of_it(library, one):
    view = head_view(library, one, 1, 0)
    descriptions = one.latest("textspan").table("descriptions").to_pylist()
    mine = [r for r in descriptions if (r["layer"], r["head"]) == (1, 0)]
    assert [t.text for t in view.texts] == [r["text"] for r in mine]
    label = next(
        r for r in one.latest("label").table("labels").to_pylist()
        if (r["layer"], r["head"]) == (1, 0)
    )  # fmt: skip
    for name in ("label", "fitting", "share", "explained", "overlap", "nearest"):
        assert getattr(view.evidence, name) == label[name]
    assert [t for t, _, _ in view.evidence.texts] == [t.text for t in view.texts]
    assert view.evidence.properties[0][0] == label["label"]  # the largest share is the label
    variance = np.trace(np.cov(wrote(one, (1, 0)).T, bias=True))
    assert view.variance == pytest.approx(variance, rel=1e-4)
    everything = sum(np.trace(np.cov(wrote(one, at).T, bias=True)) for at in headed.HEADS)
    assert view.share == pytest.approx(variance / everything, rel=1e-4)
    best = [n.directions for n in view.neighbours]
    assert best == sorted(best, reverse=True)
    assert len(best) == 5
    assert not view.missing
    first = view.components[0]
    scores = [shown.score for shown in first.highest]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0 > first.lowest[0].score


def test_a_head_in_other_stores(library, one):
    found = {(o.store, o.layer, o.head): o for o in head_view(library, one, 1, 0).elsewhere}
    same = found[("two", 1, 0)]
    assert same.same
    assert same.cka is None
    # Head 1.0 of the target is that which head 1.2 of the source is most like, (2 + 1) % 3.
    assert found[("bare", 1, 2)].cka == pytest.approx(0.9)
    assert not any(o.same for o in found.values() if o.store == "bare")
    back = head_view(library, library.stores["bare"], 1, 2).elsewhere
    assert next(o for o in back if o.store == "one").head == 0


def test_what_is_not_found_yet_is_told_with_its_command(library):
    view = head_view(library, library.stores["bare"], 0, 1)
    assert view.missing == {
        "textspan": "facet textspan", "label": "facet label"
    }  # fmt: skip
    assert view.map.images == 38


def test_a_map_of_some_images_says_how_to_get_all(library, monkeypatch):
    monkeypatch.setattr("pipeline.explorer.head_rows.MOST", 14)
    monkeypatch.setattr("pipeline.explorer.head_rows.RUN", 7)
    bare = library.stores["bare"]
    for missing in (head_view(library, bare, 1, 1), map_view(bare, 1, 1, (None,) * 4, "")):
        assert missing.missing["index"] == "facet index"
        assert missing.map.images < missing.map.of == 38


def test_every_property_has_the_heads_that_carry_it(one):
    found = properties(one)
    labels = {(r["layer"], r["head"]): r["label"] for r in labels_of(one)}
    for listed in found.properties:
        carriers = {at for at, label in labels.items() if label == listed.name}
        assert set(listed.heads) == {f"{a}.{b}" for a, b in carriers}
        view = property_view(one, listed.name.upper())  # capitals make no difference
        assert {(c.layer, c.head) for c in view.carriers} == carriers
        assert all(o.label != listed.name for o in view.others)
    assert {p.name for p in found.properties} == set(headed.LEXICON.names)
    assert sum(p.share or 0 for p in found.properties) == pytest.approx(1)
    with pytest.raises(NotHere, match="no property is called 'sounds'; there are: colours"):
        property_view(one, "sounds")


def labels_of(opened):
    return opened.latest("label").table("labels").to_pylist()


def test_a_judge_that_named_nothing(tmp_path, here):
    store = headed.headed(str(tmp_path / "store"))
    headed.labelled(store, "openai:none")
    found = headed.library(store)
    opened = found.stores["store"]
    assert len(properties(opened).unlabelled) == 6
    assert head_view(found, opened, 0, 0).evidence.label is None
    assert not properties(opened).properties
    client = TestClient(make_app(found))
    for page in ("properties", "head/0.0"):
        assert client.get(f"/s/store/{page}").status_code == 200


PAGES = {
    "/s/one/head/1.0": lambda library: head_view(library, library.stores["one"], 1, 0),
    "/s/bare/head/0.1": lambda library: head_view(library, library.stores["bare"], 0, 1),
    "/s/one/head/1.0/map?x0=-1&x1=0&y0=-1&y1=1&colour=label": lambda library: map_view(
        library.stores["one"], 1, 0, (-1, 0, -1, 1), "label"
    ),
    "/s/bare/head/1.0/map": lambda library: map_view(library.stores["bare"], 1, 0, (None,) * 4, ""),
    "/s/one/properties": lambda library: properties(library.stores["one"]),
    "/s/bare/properties": lambda library: properties(library.stores["bare"]),
    "/s/one/property/on/off": lambda library: property_view(library.stores["one"], "on/off"),
}


@pytest.mark.parametrize("address", PAGES)
def test_pages_show_and_json_holds_what_is_found(library, address):
    client = TestClient(make_app(library))
    page = client.get(address)
    assert page.status_code == 200
    assert " style=" not in page.text
    assert client.get(f"/api{address}").json() == plain(PAGES[address](library))


def test_the_map_is_a_picture_of_the_size_that_is_asked_for(library):
    client = TestClient(make_app(library))
    for of in ("", "&colour=label", "&x0=0&x1=1&y0=0&y1=1"):
        found = client.get(f"/s/one/head/1.0/map.png?width=64&height=48{of}")
        assert found.headers["content-type"] == "image/png"
        assert found.content[16:24] == (64).to_bytes(4, "big") + (48).to_bytes(4, "big")
    for wrong in ("width=5000", "x0=1", "x0=a", "x0=nan&x1=1&y0=0&y1=1", "x0=0&x1=inf&y0=0&y1=1"):
        assert client.get(f"/s/one/head/1.0/map.png?{wrong}").status_code == 400
    for gone in ("2.0/map.png", "x/map.png", "1.0/map.png?colour=uri"):
        assert client.get(f"/s/one/head/{gone}").status_code == 404


def test_a_store_that_was_not_reduced_says_so(tmp_path, here):
    store = headed.headed(str(tmp_path / "store"))
    urls.remove(urls.join(store.url, "reductions.zarr"))
    found = headed.library(store)
    assert head_view(found, found.stores["store"], 0, 0).missing["reduce"] == "facet reduce"
    client = TestClient(make_app(found))
    for page in ("head/0.0", "head/0.0/map", "head/0.0/map?x0=0&x1=1&y0=0&y1=1"):
        assert "facet reduce" in client.get(f"/s/store/{page}").text
    assert client.get("/s/store/head/0.0/map.png").status_code == 404
