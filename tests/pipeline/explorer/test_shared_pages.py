"""Units that models share, as pages and JSON: they say what the dictionary says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.explorer.library import Library
from pipeline.explorer.web.app import make_app
from pipeline.pages.pictures import as_png, heat, small
from pipeline.pages.plain import plain
from pipeline.rosetta.page import Dictionary, find_dictionary
from tests.pipeline.rosetta.mined import mined


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Dictionary:
    return find_dictionary(mined(str(tmp_path_factory.mktemp("shared") / "mined")), draws=2)


@pytest.fixture(scope="module")
def library(found: Dictionary) -> Iterator[Library]:
    made = Library([], [found.result.partition("/results/")[0]], lambda store, typed: {})
    made.model.patience = 120.0
    yield made
    made.close()


@pytest.fixture(scope="module")
def asked(library: Library) -> TestClient:
    return TestClient(make_app(library), base_url="http://127.0.0.1")


def test_concepts_are_those_of_the_dictionary(asked: TestClient, found: Dictionary) -> None:
    told = asked.get("/api/r/mined").json()
    assert [row["concept"] for row in told["concepts"]] == plain(found.concepts)
    assert (told["hub"], told["models"], told["total"]) == (found.hub, found.models, 3)
    assert told["true"]
    page = asked.get("/r/mined").text
    for row in told["concepts"]:
        assert f'href="/r/mined/concept/{row["concept"]["number"]}"' in page
        assert f"{row['strength']:.3f}" in page


def test_a_concept_has_its_matches_and_truth(asked: TestClient, found: Dictionary) -> None:
    told = asked.get("/api/r/mined/concept/1").json()
    assert [m["correlation"] for m in told["matches"]] == [0.6, 0.8, 0.5]
    assert (told["before"], told["after"], told["place"]) == (2, 0, 2)
    own = found.truth[(found.truth["pairing"] == "shared") & (found.truth["concept"] == 1)]
    assert told["truth"] == plain(own)[0]
    assert own["value"].iloc[0] in told["title"]
    assert told["examples"] is None
    assert "data-waiting" not in asked.get("/r/mined/concept/1").text
    assert asked.get("/r/mined/concept/9").status_code == 404


def test_maps_of_all_models_are_those_of_the_dictionary(
    asked: TestClient, found: Dictionary
) -> None:
    """Through the models' own process."""
    told = asked.get("/api/r/mined/concept/1?maps=true").json()["examples"]
    (entry,) = (e for e in found.entries if e.concept.number == 1)
    assert told["keys"] == entry.keys
    for maps, expected in zip(told["maps"], entry.maps, strict=True):
        np.testing.assert_allclose(np.float32(maps), expected, atol=1e-5)
    page = asked.get("/r/mined/concept/1?maps=true").text
    assert page.count("<img ") == 3 * len(entry.keys)
    shown = asked.get("/r/mined/concept/1/example/2.png")
    assert shown.content == as_png(small(entry.pixels[2]))
    over = asked.get("/r/mined/concept/1/example/2/map/1.png").content
    plane = np.float32(told["maps"][1][2])
    assert over == as_png(heat(entry.pixels[2], plane, Image.Resampling.BILINEAR))
    assert asked.get("/r/mined/concept/1/example/6.png").status_code == 404
    assert asked.get("/r/mined/concept/1/example/0/map/2.png").status_code == 404


def test_who_asks_while_models_look_is_told_so(
    library: Library, asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (units,) = library.rosettas.values()
    ask, told_to = library.model.ask, threading.Event()

    def look(*question: Any) -> Any:
        told_to.wait(120)
        return ask(*question)

    monkeypatch.setattr(library.model, "ask", look)
    monkeypatch.setattr(library.model, "patience", 0.0)
    monkeypatch.setattr(units, "cached", lambda key, make: make())
    early = asked.get("/r/mined/concept/2?maps=true").text
    assert "data-waiting>Every model looks through images of the set, since " in early
    assert asked.get("/r/mined/concept/2/example/0.png").status_code == 503
    told_to.set()
    monkeypatch.setattr(library.model, "patience", 120.0)
    told = asked.get("/api/r/mined/concept/2?maps=true").json()
    assert not told["waiting"]
    assert told["examples"]["keys"]
