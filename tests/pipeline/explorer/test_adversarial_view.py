"""Cues of a pair of classes, told without a model, and pictures that were made of it."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.explorer.adversarial import ALIKE, CUES, adversarial_view
from pipeline.explorer.library import Library
from pipeline.explorer.model import NotYet
from pipeline.explorer.scene import read_classes
from pipeline.explorer.web.app import make_app
from pipeline.explorer.words import directions
from pipeline.texts.classes import class_means
from storage.errors import FacetError
from tests.pipeline.adversarial.chain import save_chain
from tests.pipeline.explorer.known import LAYER
from tests.refusals import refused

pytestmark = pytest.mark.usefixtures("here")
PAIR = "drawn=star&target=heart"


@pytest.fixture(scope="module")
def client(known):
    return TestClient(make_app(known.library), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def view(known):
    return adversarial_view(known.library, known.here, "star", "heart", neurons=20)


def test_cues_are_those_of_a_plain_loop_over_directions_and_codes(known, view):
    (effects,), (codes,) = known.here.results("second_order"), known.here.results("omp")
    rows = effects.arrays("components")["direction"].sel(layer=LAYER).values.astype(np.float64)
    classes = read_classes("microworld:shape")
    means = class_means(directions(known.library, known.here, classes.flat), classes)
    at = [classes.names.index(name) for name in ("star", "heart")]
    v = means[at[1]].astype(np.float64) - means[at[0]].astype(np.float64)
    projections = {n: float(rows[n] @ v) for n in range(len(rows)) if rows[n].any()}
    loudest = sorted(projections, key=lambda n: -abs(projections[n]))[:20]
    scores = {}
    for row in codes.table("codes").to_pylist():
        if row["neuron"] in loudest:
            share = row["coefficient"] * projections[row["neuron"]]
            scores[row["text"]] = scores.get(row["text"], 0.0) + share
    assert [one.neuron for one in view.cues.speakers] == loudest[: len(view.cues.speakers)]
    assert view.cues.speakers[0].projection == pytest.approx(projections[loudest[0]], abs=1e-7)
    assert view.cues.mined
    for cue in view.cues.mined:
        assert cue.score == pytest.approx(scores[cue.text], abs=1e-7)
        assert cue.used == (not cue.why)
        assert cue.used or "names heart" in cue.why or cue.similarity >= ALIKE
    told = [cue.score for cue in view.cues.mined]
    assert told == sorted(told, reverse=True)
    assert sum(cue.used for cue in view.cues.mined) <= CUES
    assert view.cues.neurons == 20


def test_no_model_runs_where_texts_of_classes_are_known(known, view, monkeypatch):
    def never(*_):
        raise AssertionError("the model was asked")

    monkeypatch.setattr(known.library, "model", SimpleNamespace(ask=never))
    again = adversarial_view(known.library, known.here, "star", "heart", neurons=7)
    assert again.cues.neurons == 7


def test_a_model_that_is_being_loaded_is_waited_for(known, monkeypatch):
    def later(*_):
        raise NotYet("the model is being loaded")

    monkeypatch.setattr(known.library, "model", SimpleNamespace(ask=later))
    found = adversarial_view(known.library, known.here, "a bat", "a cave", "a bat,a cave")
    assert (found.waiting, found.cues) == ("the model is being loaded", None)


def test_the_command_makes_pictures_of_the_pair(known, view):
    assert view.command == (
        f"facet adversarial --store {known.here.typed} --drawn star --target heart"
    )
    other = adversarial_view(
        known.library, known.here, "red", "blue", "microworld:colour", neurons=5
    )
    assert other.command.endswith("--drawn red --target blue --classes microworld:colour")
    assert other.chain is None


def test_pairs_that_are_none_are_told_in_words(known, client):
    with refused(FacetError, "--drawn and --target are both 'star'"):
        adversarial_view(known.library, known.here, "star", "star")
    with refused(FacetError, "there is no class 'hart' here .did you mean 'heart'"):
        adversarial_view(known.library, known.here, "star", "hart")
    assert client.get("/s/store/adversarial?drawn=star&target=hart").status_code == 404
    assert client.get("/s/store/adversarial?drawn=star&target=star").status_code == 400


def test_without_codes_it_is_said_what_finds_them(modelled):
    library = Library([modelled.url], [], lambda store, typed: {"omp": "facet omp …"})
    found = adversarial_view(library, library.stores["store"], "star", "heart")
    assert "no codes of neurons" in found.problem
    assert found.remedy == "facet omp …"


def test_pictures_that_were_made_are_shown_with_what_came_of_them(known, client):
    result = save_chain(known.store.url)
    known.here.look_again()
    page = client.get(f"/s/store/adversarial?{PAIR}&neurons=20").text
    assert "41.5 ± 5.2" in page
    assert "a star on <b>snow</b>, at <b>night</b>" in page
    assert "fooled, +0.020" in page
    assert f"/s/store/result/adversarial/{result.name}" in page
    data = client.get(f"/api/s/store/adversarial?{PAIR}&neurons=20").json()
    shown = data["chain"]["pictures"]
    assert [one["source"] for one in shown] == [
        "second-order effects", "random neurons", "no cues",
    ]  # fmt: skip
    assert data["made"] == [{"drawn": "star", "target": "heart"}]
    for address in (shown[0]["picture"], shown[0]["map"], shown[1]["picture"]):
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/png"
        assert min(Image.open(io.BytesIO(answer.content)).size) >= 256
    assert shown[1]["map"] == ""
    for number in ("map/1", "map/9", "picture/9"):
        address = f"/s/store/adversarial/{result.name}/{number}.png"
        assert client.get(address).status_code == 404
    assert client.get("/s/store/adversarial/none/picture/0.png").status_code == 404


def test_confusions_lead_to_cues(client):
    page = client.get("/s/store/classes?classes=microworld:shape").text
    assert "/s/store/adversarial?drawn=" in page
    start = client.get("/s/store/adversarial").text
    assert 'name="drawn"' in start
