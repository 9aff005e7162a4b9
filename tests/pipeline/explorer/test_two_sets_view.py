"""Two sets of images: any two conditions, against the contributions themselves."""

import html
import re
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from pipeline.explorer import two_sets as views
from pipeline.explorer.library import Library
from pipeline.explorer.two_sets import two_sets
from pipeline.explorer.web.app import make_app
from pipeline.subsets import SubsetError
from storage.errors import FacetError
from storage.results import save_result
from tests.pipeline.repair import kit

pytestmark = pytest.mark.usefixtures("here")
A, B = "place == 'water'", "place == 'land'"
TEXTS = ["water", "land", "a duck"]


def look(url: str):
    command = "compare a=… b=…"
    (opened,) = Library([url], [], lambda store, typed: {"compare": command}).stores.values()
    return opened


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = kit.leaning_store(tmp_path_factory.mktemp("leaning"))
    import xarray as xr

    rows = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    texts = save_result(
        store.url, "encode_texts", {}, {"source": "some words"},
        tables={"texts": pa.table({"text": TEXTS})},
        arrays={"embeddings": xr.Dataset({"embedding": (("text", "embed"), rows)})},
    )  # fmt: skip
    save_result(store.url, "textspan", {}, {"texts": texts.url})
    return store


def test_two_conditions_are_compared_at_once(store):
    found = two_sets(look(store.url), A, B)
    places = np.array(store.images()["place"].to_pylist())
    norm = np.linalg.norm(store.embeddings().values.astype(np.float64), axis=1)[:, None]
    ok = np.isfinite(norm[:, 0])
    sets = [np.flatnonzero(ok & (places == place)) for place in ("water", "land")]
    assert (found.found.images_a, found.found.images_b) == tuple(map(len, sets))
    assert found.found.images_both == 0
    assert found.images_a == tuple(sets[0][:8])
    parts = {(p.component, p.layer, p.head): p for p in found.found.parts}
    assert len(parts) == 6 + 3 + 1
    for head in ((0, 1), kit.LEANS):
        rows = store.heads(*head).values.astype(np.float64) / norm
        difference = rows[sets[0]].mean(0) - rows[sets[1]].mean(0)
        assert parts["heads", *head].distance == pytest.approx(np.linalg.norm(difference), rel=1e-5)
    heads = [part for part in found.found.parts if part.component == "heads"]
    assert (heads[0].layer, heads[0].head) == kit.LEANS
    assert sum(found.found.shares.values()) == pytest.approx(1)
    assert {text.text for text in heads[0].texts} <= set(TEXTS)
    assert found.pool == "some words"
    assert A in found.proposed
    turned = two_sets(look(store.url), B, A).found
    assert turned.parts[0].distance == pytest.approx(found.found.parts[0].distance)


def test_two_sets_are_chosen_by_two_links(store):
    library = Library([store.url], [], lambda store, typed: {})
    client = TestClient(make_app(library), base_url="http://127.0.0.1")
    (name,) = library.stores
    page, seen = f"/s/{name}/compare", []
    for where in ((), ({"a": A},)):
        shown = client.get(page, params=where[0] if where else None).text
        links = [html.unescape(at) for at in re.findall(r'<a href="(\?a=[^"]*)"', shown)]
        seen.append([dict(parse_qsl(link[1:])) for link in links])
    assert {"a": A} in seen[0]
    assert {"a": A, "b": B} in seen[1]
    assert {"a": A, "b": A} not in seen[1]
    assert "Set b" in client.get(page, params={"a": A, "b": B}).text


def test_where_it_takes_long_the_command_is_told(store, monkeypatch):
    monkeypatch.setattr(views, "CHEAP", 1000)
    found = two_sets(look(store.url), A, B)
    assert found.found is None
    assert found.command == """compare a='place == '"'"'water'"'"'' b='place == '"'"'land'"'"''"""


def test_without_texts_the_command_is_told(tmp_path):
    found = two_sets(look(kit.leaning_store(tmp_path).url), A, B)
    assert "no texts" in found.problem
    assert "water" in found.command


def test_sets_that_say_nothing_are_refused(store):
    here = look(store.url)
    assert two_sets(here).found is None
    assert "other set" in two_sets(here, A).problem
    for a, b, said in (
        (A, "place ==  'water'", "same"),
        (A, f"{A} and label != None", "same"),
        (A, "planet == 1", "no column"),
    ):
        with pytest.raises(FacetError, match=said):
            two_sets(here, a, b)
    with pytest.raises(SubsetError, match="matches no image"):
        two_sets(here, A, "place == 'moon'")
