"""Pictures and pages of the image table, through the application."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.explorer.web.app import make_app
from tests.pipeline.explorer.pictured import library, pictured


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    store = pictured(tmp_path_factory.mktemp("pictured"))
    return TestClient(make_app(library(store)), base_url="http://127.0.0.1")


def test_pictures_have_addresses(asked: TestClient, tmp_path: Path) -> None:
    small = asked.get("/s/store/image/1/thumbnail.jpg")
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (192, 128)
    seen = asked.get("/s/store/image/1/seen.png")
    assert seen.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(seen.content)).size == (32, 32)
    assert asked.get("/s/store/image/3/seen.png").headers["cache-control"] == "no-store"


def test_a_picture_that_was_brought_has_addresses(asked: TestClient) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 50), (200, 10, 10)).save(buffer, "PNG")
    upload = asked.app.state.library.uploads.add("one.png", buffer.getvalue())
    small = asked.get(f"/s/store/picture/{upload.id}/thumbnail.jpg").content
    assert Image.open(io.BytesIO(small)).size == (100, 50)
    seen = Image.open(io.BytesIO(asked.get(f"/s/store/picture/{upload.id}/seen.png").content))
    assert (seen.size, seen.getpixel((16, 16))) == ((32, 32), (200, 10, 10))
    assert asked.get("/s/store/picture/none/seen.png").status_code == 404


@pytest.mark.parametrize("index", ["10", "-1", "9" * 400])
def test_an_image_that_is_not_there(asked: TestClient, index: str) -> None:
    found = asked.get(f"/s/store/image/{index}/thumbnail.jpg")
    assert found.status_code in (400, 404)
    assert "<h1>" in found.text


def test_the_table_and_its_data_are_one(asked: TestClient) -> None:
    where = {"where": "count < 2 and ok", "sort": "weight", "down": "true"}
    data = asked.get("/api/s/store/images", params=where).json()
    assert [row["index"] for row in data["rows"]] == [9, 7, 6, 1, 0]
    shown = asked.get("/s/store/images", params=where).text
    assert [int(n) for n in re.findall(r'<td class="n"><a href="/s/store/image/(\d+)"', shown)] == [
        row["index"] for row in data["rows"]
    ]
    assert "5 of 10 images" in shown


def test_links_of_the_table_ask_for_what_they_say(asked: TestClient) -> None:
    shown = asked.get("/s/store/images", params={"where": "sunny"}).text
    links = {html.unescape(a) for a in re.findall(r'href="(/s/store/images\?[^"]*)"', shown)}
    assert any("label+==" in a or "label%20==" in a or "label" in a for a in links)
    for address in links:
        assert asked.get(address).status_code == 200, address


def test_a_mistaken_condition_is_told_in_words(asked: TestClient) -> None:
    for where in ("labels == 'x'", "import os", "(" * 400, "\x00", "label == '" + "x" * 3000 + "'"):
        found = asked.get("/s/store/images", params={"where": where})
        assert found.status_code in (200, 400), where
        assert "Traceback" not in found.text
    assert "did you mean" in asked.get("/s/store/images?where=labels+%3D%3D+1").text
    assert asked.get("/s/store/images?sort=colour").status_code == 404
    assert asked.get("/s/store/images?after=123456789012345678901234567890").status_code == 404
