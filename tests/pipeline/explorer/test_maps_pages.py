"""Pages of heat maps: what they hold, the pictures they point to, and their JSON."""

import io
import re

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.explorer import maps
from pipeline.explorer.web.app import make_app
from pipeline.heatmaps.seen import see_file, see_image
from pipeline.images.again import load_again
from pipeline.pages.plain import plain


@pytest.fixture(scope="module")
def client(library):
    with TestClient(make_app(library)) as made:
        yield made


PLACE = "/s/store/image/7/maps"


def test_a_page_points_to_its_pictures_and_says_what_they_are(client, library, opened, modelled):
    page = client.get(f"{PLACE}?text=a+red+star&text=snow&against=&layers=all")
    assert page.status_code == 200
    pictures = [p.replace("&amp;", "&") for p in re.findall(r'src="(/s/[^"]*png[^"]*)"', page.text)]
    assert len(pictures) == 3
    asked = maps.read_asked(opened, ["a red star", "snow"], layers="all")
    found = maps.draw(library, opened, see_image(modelled, 7), asked)
    for number, address in enumerate(pictures[1:]):
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/png"
        shown = np.asarray(Image.open(io.BytesIO(answer.content)))
        np.testing.assert_array_equal(
            shown, np.asarray(Image.open(io.BytesIO(maps.picture_of(found, number))))
        )
    assert "leaves out class token" in page.text
    assert "sum to the logit" in page.text
    assert page.text.count('class="cell') == 12


def test_json_is_what_the_pipeline_says(client, library, opened, modelled):
    address = f"{PLACE}?text=a+red+star&against=snow&heads=3.0"
    document = client.get(f"/api{address}").json()
    asked = maps.read_asked(opened, ["a red star"], "snow", heads=["3.0"])
    found = maps.draw(library, opened, see_image(modelled, 7), asked)
    assert document["found"] == plain(found.found)
    assert document["wrote_lh"] == plain(found.wrote_lh)


def test_a_head_is_shown_by_its_own_texts(client):
    page = client.get(f"{PLACE}?head=3.1&pool=microworld").text
    assert "largest, " in page
    assert "smallest, " in page
    assert page.count("maps/1.png") == 1


def test_without_a_text_there_is_a_form(client):
    page = client.get(PLACE).text
    assert "Texts that you type" in page
    assert "maps/0.png" not in page
    assert "seen.png" in page


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("image/99/maps?text=a", 404, "images 0-39"),
        ("image/7/maps?text=a&layers=9", 400, "layers are 0-3"),
        ("image/7/maps/5.png?text=a", 404, "no map 5"),
        ("image/7/maps?heads=3.0&pool=/etc/passwd", 404, "no heads of store"),
    ],
)
def test_mistakes_are_pages_with_words(client, query, status, said):
    answer = client.get(f"/s/store/{query}")
    assert answer.status_code == status
    assert said in answer.text


def test_the_models_state_is_told(client):
    client.get(f"{PLACE}?text=a+red+star&layers=all")
    assert client.get("/api/s/store/model").json() == {
        "ready": True,
        "loading": False,
        "words": "the model is ready",
    }


def test_a_picture_that_was_brought_has_maps_and_nobody_elses(client, library, opened, modelled):
    texts = "text=a+red+star&against=snow"
    brought = []
    for index in (3, 4):
        buffer = io.BytesIO()
        load_again(modelled, index).resize((96, 48)).save(buffer, format="png")
        answer = client.post(f"/s/store/picture?name={index}.png", content=buffer.getvalue())
        brought.append((answer.json()["address"], buffer.getvalue()))
    asked = maps.read_asked(opened, ["a red star"], "snow")
    for number, (address, data) in enumerate(brought):
        document = client.get(f"/api{address}/maps?{texts}").json()
        assert document["name"] == f"{number + 3}.png"
        seen = see_file(modelled.meta, document["name"], data)
        found = maps.draw(library, opened, seen, asked)
        np.testing.assert_allclose(document["found"]["maps"], found.found.maps)
        shown = client.get(document["maps"][0]["picture"])
        assert shown.content == maps.picture_of(found, 0)
    assert client.get("/s/store/picture/unknown/maps?text=a").status_code == 404
