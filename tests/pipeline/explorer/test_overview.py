"""What a store is at a glance: figures as plain loops give them, and links that lead somewhere."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from jobs import reduce
from pipeline.cluster import machines
from pipeline.explorer.colours import CATEGORIES, OTHER
from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.explorer.matrix import matrix
from pipeline.explorer.overview import overview, start
from pipeline.explorer.web.app import make_app
from pipeline.labels.tables import LABELS
from pipeline.pages.plain import plain
from storage.results import save_result
from storage.store import Store
from tests.pipeline.explorer.pictured import library, pictured

NAMES = ("colours", "shapes", None, "colours")  # of the first heads; further ones have their own


@pytest.fixture(scope="module")
def looked_at(modelled: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A store with means and covariances and labels, and one of which nothing was found."""
    folder = tmp_path_factory.mktemp("overview")
    shutil.copytree(modelled.url, folder / "found")
    reduce.main(reduce.ReduceConfig(str(folder / "found"), workers="here"))
    save_result(str(folder / "found"), "second_order", {}, {})
    label(str(folder / "found"), modelled.meta.layers, modelled.meta.heads)
    plain_store = pictured(folder / "plain", done=2)
    found = Library([str(folder / "found"), plain_store.url], [], lambda s, typed: HINTS)
    yield found
    found.close()


HINTS = {"reduce": "facet reduce …", "label": "facet label …", "extract": "facet extract …",
         "second-order": "facet second-order …"}  # fmt: skip


def label(url: str, layers: int, heads: int) -> None:
    """Labels such as a list of properties gives."""
    at = [(layer, head) for layer in range(layers) for head in range(heads)]
    names = [NAMES[i] if i < len(NAMES) else f"property {i}" for i in range(len(at))]
    rows = [
        {"layer": a, "head": b, "label": n, "fitting": 1, "share": 0.5, "explained": 0.01 * i,
         "variance": 1.0, "overlap": None, "nearest": None, "role": None, "role_share": None,
         "measured": None}
        for i, ((a, b), n) in enumerate(zip(at, names, strict=True))
    ]  # fmt: skip
    properties = [
        {
            "layer": a,
            "head": b,
            "property": p,
            "share": 0.1 * a + 0.01 * b + 0.001 * (p == "shapes"),
        }
        for a, b in at
        for p in ("colours", "shapes")
    ]
    tables = {
        "labels": pa.Table.from_pylist(rows, LABELS["labels"]),
        "properties": pa.Table.from_pylist(properties, LABELS["properties"]),
    }
    facts = {"judge": "lexicon", "pool": "p", "lexicon": "l"}
    save_result(url, "label", {"with_": "lexicon"}, facts, tables=tables)


@pytest.fixture(autouse=True)
def in_this_process() -> None:
    machines.work("here")


@pytest.fixture
def here(looked_at: Library) -> Opened:
    return looked_at.stores["found"]


def test_shares_are_those_of_a_plain_loop(here: Opened) -> None:
    found, store, meta = matrix(here, "share"), here.store, here.meta
    e = store.embeddings().values.astype(float)
    unit = e / (e**2).sum(1, keepdims=True)
    of = lambda part: float((part.values * unit).sum(1).mean())  # noqa: E731
    assert found.heads is not None
    assert found.mlps is not None
    for layer in range(meta.layers):
        assert found.mlps[layer] == pytest.approx(of(store.mlps(layer + 1)), abs=1e-6)
        for head in range(meta.heads):
            assert found.heads[layer, head] == pytest.approx(of(store.heads(layer, head)), abs=1e-6)
    assert found.start == pytest.approx(of(store.mlps(0)), abs=1e-6)
    whole = found.heads.sum() + found.mlps.sum() + found.start + of(store.constants())
    assert whole == pytest.approx(1, abs=1e-5)


def test_variances_are_those_of_a_plain_loop(here: Opened) -> None:
    found, store = matrix(here, "variance"), here.store
    length = np.linalg.norm(store.embeddings().values.astype(float), axis=1, keepdims=True)
    of = lambda part: (part.values / length).var(0).sum()  # noqa: E731
    assert found.heads is not None
    assert found.mlps is not None
    assert found.heads[3, 1] == pytest.approx(of(store.heads(3, 1)), rel=1e-4)
    assert found.mlps[2] == pytest.approx(of(store.mlps(3)), rel=1e-4)
    assert found.start == pytest.approx(of(store.mlps(0)), rel=1e-3, abs=1e-9)


def test_labels_have_colours_the_most_frequent_first(here: Opened) -> None:
    found = matrix(here, "label")
    assert found.labels[0][:2] == NAMES[:2]
    assert found.colours is not None
    assert next(iter(found.colours)) == "colours"
    assert list(found.colours.values())[: len(CATEGORIES)] == list(CATEGORIES)[: len(found.colours)]
    if len(found.colours) > len(CATEGORIES):
        assert set(list(found.colours.values())[len(CATEGORIES) :]) == {OTHER}


def test_a_property_is_what_heads_were_held_to(here: Opened) -> None:
    found = matrix(here, "property:shapes")
    assert found.heads is not None
    assert found.heads[2, 1] == pytest.approx(0.211)
    with pytest.raises(NotHere, match="choose one of share, variance, label, property:colours"):
        matrix(here, "property:moods")


def test_what_lacks_is_named_with_its_command(looked_at: Library) -> None:
    bare = looked_at.stores["store"]
    for colour, job in (("variance", "reduce"), ("label", "label")):
        assert matrix(bare, colour).command == HINTS[job]
    found = overview(bare)
    assert found.lacking == HINTS  # one of three shards is not finished
    assert found.extraction.bad == {"truncated or damaged": 1}
    assert any("shards are not finished" in words for words in found.warned)
    full = overview(looked_at.stores["found"])
    assert full.lacking == {}
    assert {kind.job for kind in full.results} >= {"textspan", "label"}
    assert ("", 40) in [(subset.where, subset.images) for subset in full.subsets]


def test_every_analysis_is_a_link_on_the_start_page(looked_at: Library) -> None:
    with TestClient(make_app(looked_at), base_url="http://127.0.0.1") as asked:
        shown = asked.get("/").text
        for shelf in start(looked_at).stores:
            assert len(shelf.analyses) == 5
            for analysis in shelf.analyses:
                assert f'href="{html.escape(analysis.address)}"' in shown
        of = start(looked_at).stores[0]
        assert "property%3A" in of.analyses[0].address  # all the property's heads


@pytest.mark.parametrize("colour", ["share", "variance", "label", "property:colours"])
def test_cells_lead_to_heads_and_the_page_has_the_datas_numbers(
    looked_at: Library, here: Opened, colour: str
) -> None:
    with TestClient(make_app(looked_at), base_url="http://127.0.0.1") as asked:
        where = {"colour": colour}
        shown = asked.get("/s/found", params=where).text
        data = asked.get("/api/s/found", params=where).json()
    assert data == plain(overview(here, colour))
    meta = here.meta
    cells = re.findall(r'href="/s/found/head/(\d+)\.(\d+)" aria-label="([^"]*)"', shown)
    assert len(cells) == meta.layers * meta.heads
    found = matrix(here, colour)
    assert found.heads is not None
    for layer, head, said in cells:
        assert found.text(found.heads[int(layer), int(head)]) in said
    assert ' style="' not in shown


def test_a_store_as_jobs_leave_it(tmp_path: Path) -> None:
    looked = library(pictured(tmp_path))
    found = overview(looked.stores["store"])
    assert found.found == "9 of 10 images were taken apart, 1 of them bad."
    assert found.results == ()
